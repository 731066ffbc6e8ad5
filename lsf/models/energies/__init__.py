"""Energy terms: what adds to the energy of a structure, one module per term."""
