"""GFN2-xTB labels and short thermal trajectories of molecules and clusters, through tblite.

Method: Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019), doi:10.1021/acs.jctc.8b01176.
Units are those of lsf (eV, Å, e); ``electric_field`` is the physical field in V/Å. Its potential energy is
part of the energy, ``E(F) = E(0) - μ·F - ½ F·α·F``, with the dipole taken about the origin.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from ase.units import Bohr, Hartree, fs, kB
from numpy.typing import NDArray
from tblite import library
from tblite.interface import Calculator

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

LABEL_ACCURACY: Final = 0.001  # tblite's scale of the SCF thresholds; 1 is its default
SAMPLING_ACCURACY: Final = 1.0
FIELD_STEP: Final = 0.002  # V/Å, of the finite-field polarizability
FRICTION: Final = 0.02 / fs  # of the Langevin thermostat
TIME_STEP: Final = 1.0 * fs


class Gfn2Labels(NamedTuple):
    """Energy (eV), forces (n, 3) (eV/Å), charges (n,) (e), Cartesian atomic dipoles (n, 3) (e·Å)."""

    energy: float
    forces: Array
    charges: Array
    atomic_dipoles: Array

    def dipole(self, positions: Array) -> Array:
        """Return the dipole about the origin, e·Å."""
        return self.charges @ positions + self.atomic_dipoles.sum(axis=0)


def label(
    numbers: Numbers,
    positions: Array,
    charge: float,
    electric_field: Array | None = None,
    start: Array | None = None,
) -> Gfn2Labels:
    """Return the labels of one open structure; tblite raises when the SCF does not converge.

    With ``start``, other positions of the same atoms, the SCF begins with the density converged there.
    """
    calculator = _calculator(numbers, positions if start is None else start, charge, LABEL_ACCURACY)
    if electric_field is not None and np.any(electric_field):
        field = np.ascontiguousarray(electric_field * Bohr / Hartree)
        # tblite 0.8 hands the argument to C as it is, so it must be a C array already
        calculator.add("electric-field", library.ffi.from_buffer("double[]", field))
    calculator.add("xtbml_xyz")
    result = calculator.singlepoint()
    if start is not None:
        calculator.update(positions=positions / Bohr)
        result = calculator.singlepoint(result)
    moments = result.get("post-processing-dict")
    return Gfn2Labels(
        energy=float(result.get("energy")) * Hartree,
        forces=-np.asarray(result.get("gradient")) * Hartree / Bohr,
        charges=np.asarray(result.get("charges")),
        atomic_dipoles=np.column_stack([moments[f"dipm_A_{axis}"] for axis in "xyz"]) * Bohr,
    )


def polarizability(
    numbers: Numbers, positions: Array, charge: float, electric_field: Array, start: Array | None = None
) -> Array:
    """Return dμ/dF (3, 3) by central differences at the given field, symmetrised, e·Å²/V."""
    tensor = np.zeros((3, 3))
    for axis in range(3):
        step = np.eye(3)[axis] * FIELD_STEP
        plus, minus = (
            label(numbers, positions, charge, electric_field + sign * step, start).dipole(positions)
            for sign in (1, -1)
        )
        tensor[axis] = (plus - minus) / (2.0 * FIELD_STEP)
    return 0.5 * (tensor + tensor.T)


class Trajectory:
    """Langevin dynamics of one cluster inside a soft sphere that keeps it from evaporating.

    The wall acts on the dynamics only, never on labels. Integrator: the splitting BAOAB of Leimkuhler and
    Matthews, Appl. Math. Res. Express 2013, 34, doi:10.1093/amrx/abs010.
    """

    def __init__(
        self,
        numbers: Numbers,
        positions: Array,
        masses: Array,
        charge: float,
        temperature: float,
        radius: float,
        rng: np.random.Generator,
    ) -> None:
        self.positions = positions - positions.mean(axis=0)
        self.masses = masses[:, None]
        self.radius = radius
        self.temperature = temperature
        self.rng = rng
        self.velocities = np.zeros_like(positions)
        self._calculator = _calculator(numbers, positions, charge, SAMPLING_ACCURACY)
        self._result = None

    def relax(self, steps: int) -> None:
        """Move downhill by at most 0.05 Å per atom and step, which removes the clashes of a random start."""
        for _ in range(steps):
            self.positions = self.positions + np.clip(0.02 * self._forces(), -0.05, 0.05)

    def run(self, steps: int) -> None:
        """Advance by ``steps`` time steps."""
        decay = np.exp(-FRICTION * TIME_STEP)
        thermal = np.sqrt((1.0 - decay**2) * kB * self.temperature / self.masses)
        forces = self._forces()
        for _ in range(steps):
            self.velocities += 0.5 * TIME_STEP * forces / self.masses
            self.positions = self.positions + 0.5 * TIME_STEP * self.velocities
            self.velocities = decay * self.velocities + thermal * self.rng.normal(size=self.positions.shape)
            self.positions = self.positions + 0.5 * TIME_STEP * self.velocities
            forces = self._forces()
            self.velocities += 0.5 * TIME_STEP * forces / self.masses

    def _forces(self) -> Array:
        self._calculator.update(positions=self.positions / Bohr)
        self._result = self._calculator.singlepoint(self._result)  # starts from the last density
        forces = -np.asarray(self._result.get("gradient")) * Hartree / Bohr
        distances = np.linalg.norm(self.positions, axis=1, keepdims=True)
        excess = np.clip(distances - self.radius, 0.0, None)
        return forces - 1.0 * excess * self.positions / np.clip(distances, 1e-9, None)  # 1 eV/Å²


def _calculator(numbers: Numbers, positions: Array, charge: float, accuracy: float) -> Calculator:
    calculator = Calculator("GFN2-xTB", numbers, positions / Bohr, charge)
    calculator.set("verbosity", 0)
    calculator.set("accuracy", accuracy)
    return calculator
