"""A model as a force of OpenMM, of a whole system or of some of its particles.

The energy is computed in Python (``PythonForce``), on any of OpenMM's platforms: nothing has to fit the
versions of two C++ libraries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lsf.errors import LsfError, MissingExtraError
from lsf.formats.torchscript.read import ScriptFile, ScriptSystem
from lsf.machine.allocator import keep_freed_memory_in_simulations

Array = NDArray[np.float64]

FIELD: Final = ("electric_field_x", "electric_field_y", "electric_field_z")
"""Global parameters of a context with the physical uniform field, in V/Å."""

KJ_PER_MOL: Final = 96.48533212331002
"""eV in kJ/mol."""


class LsfEnergy:
    """Energy and forces of a state of OpenMM; what a ``PythonForce`` calls.

    Parameters
    ----------
    file : exported TorchScript file
    symbols : chemical symbol of every particle the model acts on
    periodic : whether the box counts, along all three directions
    formal_charges : e, one per particle, for models that read them from data
    total_charge, total_spin : for models that are told them

    It is pickled by OpenMM's XML serializer: the file's path is kept, not the model. OpenMM may hand over
    positions that are wrapped; here every particle is followed from call to call, so that a field acts on
    unwrapped positions. The results of the last call, charges and dipole among them, are in ``results``.
    """

    def __init__(
        self,
        file: str | Path,
        symbols: Sequence[str],
        periodic: bool,
        formal_charges: Sequence[float] | None = None,
        total_charge: float = 0.0,
        total_spin: float = 0.0,
    ) -> None:
        self.path, self.symbols, self.periodic = str(file), list(symbols), periodic
        self.state = {"total_charge": total_charge, "total_spin": total_spin}
        self.formal_charges = None if formal_charges is None else list(formal_charges)
        self.results: dict[str, NDArray[Any]] = {}
        self._load()

    def _load(self) -> None:
        self._last: Array | None = None
        loaded = ScriptFile(self.path)
        keep_freed_memory_in_simulations()
        if loaded.metadata["formal_charges"] == "from_data" and self.formal_charges is None:
            raise LsfError("this model needs formal_charges, one per particle")
        self._system = ScriptSystem(loaded, self.symbols, **self.state)
        self._system.check(np.full(3, self.periodic))

    def __getstate__(self) -> dict[str, Any]:
        kept = ("path", "symbols", "periodic", "state", "formal_charges")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, results={})
        self._load()

    def __call__(self, state: Any) -> tuple[float, Array]:
        """Return energy in kJ/mol and forces (n, 3) in kJ/mol/nm."""
        from openmm import unit

        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        cell = np.zeros((3, 3))
        if self.periodic:
            cell = np.array(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom))
            positions = self._unwrapped(np.array(positions), cell)
        values = state.getParameters()
        field = np.array([values[name] for name in FIELD])
        self.results = self._system.evaluate(
            np.array(positions),
            cell,
            np.full(3, self.periodic),
            external_field=-field,
            formal_charges=None if self.formal_charges is None else np.array(self.formal_charges),
        )
        energy = float(self.results["energy"][0]) * KJ_PER_MOL
        return energy, self.results["forces"] * (10.0 * KJ_PER_MOL)

    def _unwrapped(self, positions: Array, cell: Array) -> Array:
        if self._last is not None:
            inverse = np.linalg.inv(cell)
            positions = positions - np.round((positions - self._last @ cell) @ inverse) @ cell
        # fractional, so that a barostat that scales the box takes them along
        self._last = positions @ np.linalg.inv(cell)
        return positions


def lsf_force(
    file: str | Path,
    symbols: Sequence[str],
    periodic: bool,
    particles: Sequence[int] | None = None,
    formal_charges: Sequence[float] | None = None,
    total_charge: float = 0.0,
    total_spin: float = 0.0,
) -> Any:
    """Return a ``PythonForce`` of a model, to be added to a System.

    Parameters
    ----------
    file : exported TorchScript file
    symbols : chemical symbol of every particle the model acts on
    periodic : whether the box counts; it must then be one the model treats
    particles : indices of these particles; all of the system where not given
    formal_charges : e, for models that read them from data
    total_charge, total_spin : for models that are told them

    Raises
    ------
    LsfError
        on elements or a periodicity the model does not know.
    MissingExtraError
        without OpenMM.

    The context has the global parameters :data:`FIELD`, zero to begin with.
    """
    try:
        from openmm import PythonForce
    except ImportError as error:
        raise MissingExtraError("openmm", "openmm", "a force of OpenMM") from error
    energy = LsfEnergy(file, symbols, periodic, formal_charges, total_charge, total_spin)
    force = PythonForce(energy, dict.fromkeys(FIELD, 0.0))
    force.setUsesPeriodicBoundaryConditions(periodic)
    if particles is not None:
        force.setParticles(list(particles))
    return force
