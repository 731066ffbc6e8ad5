"""Files of metatomic, read by builds of LAMMPS, GROMACS, eOn and PLUMED."""
