"""Who takes minibatches through the network and back: this process, or several that share the segments."""
