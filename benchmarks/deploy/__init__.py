"""Exported models in simulation programs."""
