"""Calculators of ASE."""
