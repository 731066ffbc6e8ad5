"""Sums over all pairs of atoms of open structures, evaluated by size."""
