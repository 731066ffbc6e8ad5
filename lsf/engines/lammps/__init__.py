"""Models in LAMMPS: ``external`` needs no compiler, ``plugin`` is a pair style in C++."""
