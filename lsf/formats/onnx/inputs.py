"""Inputs of recorded models as numpy arrays: neighbours from vesin, Coulomb lists, tables.

Nothing here imports torch. Names, shapes and meaning are those of :class:`lsf.data.graph.GraphTensors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from lsf.data.charges import FROM_DATA, charges_of
from lsf.data.neighbors import checked_neighbors, find_neighbors
from lsf.data.tables import group_by_species, joined, neighbor_slots
from lsf.electrostatics.plan.coulomb_plan import outline_structure, plan_arrays
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import LsfError

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[Any]

GIVEN: Final = "_given"
"""Ends the name of an input that an output has, too: the total charge told is not the one found."""


class ArrayInputs:
    """Makes the inputs of a model from its ``metadata``; see :meth:`__call__`."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        self.known = np.array(metadata["atomic_numbers"], dtype=np.int64)
        settings = metadata["electrostatics"]
        # recorded sums are exact: no meshes
        self.settings = None if settings is None else Electrostatics(**{**settings, "backend": "direct"})

    def __call__(self, structures: Sequence[Atoms]) -> dict[str, Array]:
        """Return the inputs for ASE structures, as one batch.

        Taken from them: positions, cell, pbc, numbers, ``info["external_field"]`` (gradient of the potential,
        V/Å), ``info["total_charge"]``, ``info["total_spin"]`` and ``arrays["formal_charges"]``.

        Raises
        ------
        LsfError
            on an element, periodicity, cell or formal charge that the model does not cover.
        """
        if not structures:
            raise LsfError("there is no structure to evaluate; expected one or more")
        found = joined([self.structure(atoms) for atoms in structures], np.concatenate)
        present, slots, place = group_by_species(found["species"])
        found |= {"present_species": present, "species_slots": slots, "species_place": place}
        found["neighbor_slots"] = neighbor_slots(found["edge_index"], len(found["species"]))
        return {
            name: np.ascontiguousarray(found[name.removesuffix(GIVEN)]) for name in self.metadata["inputs"]
        }

    def structure(self, atoms: Atoms) -> dict[str, Array]:
        """Return the arrays of one structure, without tables."""
        positions, cell = np.array(atoms.positions, dtype=np.float64), np.array(atoms.cell, dtype=np.float64)
        pbc, numbers = np.array(atoms.pbc, dtype=np.bool_), np.array(atoms.numbers, dtype=np.int64)
        near = checked_neighbors(find_neighbors, positions, cell, pbc, self.metadata["cutoff"])
        plan: dict[str, Array] = {}
        if self.settings is not None:
            plan = plan_arrays(self.settings, outline_structure(self.settings, positions, cell, pbc))
        info = atoms.info
        return {
            "positions": positions,
            "cell": cell[None],
            "species": self._species(numbers),
            "edge_index": near.edge_index,
            "unit_shifts": near.unit_shifts.astype(np.float64),
            "batch": np.zeros(len(positions), dtype=np.int64),
            "formal_charges": self._charges(atoms, numbers),
            "external_field": _numbers(info.get("external_field", np.zeros(3)), "external_field", 3)[None],
            "total_charge": _numbers(info.get("total_charge", 0.0), "total_charge", 1),
            "total_spin": _numbers(info.get("total_spin", 0.0), "total_spin", 1),
            **plan,
        }

    def _species(self, numbers: Array) -> Array:
        place = np.searchsorted(self.known, numbers).clip(max=len(self.known) - 1)
        wrong = numbers[self.known[place] != numbers]
        if len(wrong):
            unknown, known = ", ".join(map(str, np.unique(wrong))), ", ".join(self.metadata["species"])
            raise LsfError(
                f"the model {self.metadata['name']} does not know atomic number {unknown}; "
                f"its elements: {known}"
            )
        return place.astype(np.int64)

    def _charges(self, atoms: Atoms, numbers: Array) -> Array:
        rule = self.metadata["formal_charges"]
        given = {"charges": atoms.arrays["formal_charges"]} if "formal_charges" in atoms.arrays else {}
        charges, missing = charges_of(numbers, given, rule)
        if missing is not None:
            raise LsfError(
                f"the model {self.metadata['name']} needs the formal charge of every atom: "
                'expected atoms.arrays["formal_charges"], e'
            )
        allowed = self.metadata["formal_charge_range"]
        if rule == FROM_DATA and allowed and not allowed[0] <= charges.min() <= charges.max() <= allowed[1]:
            raise LsfError(
                f"formal charges from {charges.min():g} to {charges.max():g} e; the model "
                f"{self.metadata['name']} covers {allowed[0]:g} to {allowed[1]:g}"
            )
        return charges


def _numbers(value: Any, name: str, count: int) -> Array:
    found = np.asarray(value, dtype=np.float64).reshape(-1)
    if len(found) != count:
        raise LsfError(f'atoms.info["{name}"] has {len(found)} numbers; expected {count}')
    return found
