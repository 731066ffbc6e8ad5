"""The native sums with blocks that TorchInductor compiles, and their custom operators."""
