"""Potential, field and density of Gaussian multipoles at points and on grids."""
