"""Source heads: from node features to the multipole density and the polarization."""
