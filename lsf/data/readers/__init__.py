"""Readers: from a file or folder to frames, one module per format."""
