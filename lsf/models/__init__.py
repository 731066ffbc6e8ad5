"""The models: one forward, several sources of charge, and everything derived from their energies."""
