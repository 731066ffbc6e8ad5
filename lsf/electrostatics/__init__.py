"""Coulomb energies of Gaussian multipoles: pure functions of tensors, one module per formula."""
