"""Trained models in simulation programs, one module per program."""
