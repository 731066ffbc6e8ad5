"""Trained models in simulation codes."""
