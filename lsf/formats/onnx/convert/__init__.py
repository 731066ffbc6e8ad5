"""From a recorded graph of torch operations to ONNX nodes."""
