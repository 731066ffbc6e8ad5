"""The Coulomb sums where ``autograd.Function`` cannot go: TorchScript, ONNX, compiled graphs."""
