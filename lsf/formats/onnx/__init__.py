"""ONNX files: the recorded graph of a model."""
