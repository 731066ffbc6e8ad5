"""The adjoint pair of Fourier sums and its exact evaluators, chosen by size."""
