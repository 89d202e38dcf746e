"""Trained policies for use elsewhere: a MettaGrid bundle, an ONNX model, or one file of weights."""
