"""The Fourier sums on a mesh (particle mesh Ewald): B-splines and fast Fourier transforms."""
