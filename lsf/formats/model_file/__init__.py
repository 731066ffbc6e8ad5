"""Model files: weights in safetensors, everything else as one JSON text in the header."""
