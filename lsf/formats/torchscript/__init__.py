"""TorchScript files: one file that runs with torch alone, in Python or C++."""
