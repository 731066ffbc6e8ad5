"""Which terms the Coulomb energy of a structure has: lists, checks of cells, choice of mesh."""
