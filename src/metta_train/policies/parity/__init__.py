"""Two policies side by side: parameters, initial values, and every layer's activations."""
