"""ASE calculators in a uniform field, whose cache sees what ASE does not compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from numpy.typing import NDArray

from lsf.errors import LsfError

Array = NDArray[Any]


class TrackingCalculator(Calculator):  # type: ignore[misc]
    """Base of calculators whose energy depends on entries of ``atoms.info`` and ``atoms.arrays``.

    ASE compares positions, numbers, cell, periodicity and initial charges, and serves stored results while
    these stay. Here a changed field, and whatever :meth:`other_inputs` names, counts as a change too. A
    calculator calls :meth:`remember` with the atoms its results are for.

    Parameters
    ----------
    electric_field : physical uniform field, 3 numbers in V/Å, or None for the atoms' own
    external_field_key : entry of ``atoms.info`` with the gradient of the potential, V/Å; used when
        ``electric_field`` is None and the entry is there
    """

    def __init__(self, electric_field: Sequence[float] | None, external_field_key: str) -> None:
        super().__init__()
        self.electric_field = None if electric_field is None else field_vector(electric_field)
        self.external_field_key = external_field_key
        self._inputs: dict[str, Array | None] = {}

    def set_electric_field(self, electric_field: Sequence[float] | None) -> None:
        """Apply a physical uniform field in V/Å from the next evaluation on; None removes it."""
        self.electric_field = None if electric_field is None else field_vector(electric_field)

    def other_inputs(self, atoms: Atoms) -> dict[str, Array | None]:
        """Return what the energy depends on besides the field and what ASE compares; None where absent."""
        raise NotImplementedError

    def external_field(self, atoms: Atoms) -> Array | None:
        """Return the gradient of the potential that acts on the atoms, (3,) V/Å; None where there is none."""
        if self.electric_field is not None:
            return -self.electric_field
        if self.external_field_key not in atoms.info:
            return None
        return field_vector(atoms.info[self.external_field_key], f"atoms.info[{self.external_field_key!r}]")

    def remember(self, atoms: Atoms) -> None:
        """Keep copies of the inputs that the present results are for."""
        self._inputs = {name: None if value is None else value.copy() for name, value in self._read(atoms)}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed since the last calculation, fields and other inputs included."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        for name, value in self._read(atoms):
            old = self._inputs.get(name)
            same = old is value if old is None or value is None else np.array_equal(old, value)
            if not same:
                changes.append(name)
        return changes

    def _read(self, atoms: Atoms) -> list[tuple[str, Array | None]]:
        return [("field", self.external_field(atoms)), *self.other_inputs(atoms).items()]


def field_vector(values: Any, name: str = "electric_field") -> Array:
    """Return 3 finite numbers in V/Å as an array; LsfError on anything else."""
    try:
        vector = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        vector = np.empty(0)
    if vector.shape != (3,) or not np.isfinite(vector).all():
        raise LsfError(f"{name}: found {values!r}; expected 3 finite numbers in V/Å")
    return vector
