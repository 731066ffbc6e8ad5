"""A model as a driver of i-PI: path integrals, replica exchange and all else i-PI does.

    i-pi-py_driver -u -a ADDRESS -m custom -P FILE -o template=start.xyz,model=model.pt

where FILE is what ``python -m lsf.engines.ipi`` prints: i-PI loads drivers by their file. Options:

``template``
    structure that ASE reads: elements, and the directions that are periodic
``model``
    exported TorchScript file
``field_x``, ``field_y``, ``field_z``
    physical uniform field in V/Å. In periodic cells of charged species it needs positions that i-PI does not
    wrap: ``pbc="false"`` in its ``<ffsocket>``, and ``unwrapped=true`` here, which says so
``total_charge``, ``total_spin``
    for models that are told them

The extras of every evaluation are JSON: ``charges`` in e, ``dipole`` in e·Å, ``total_charge``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsf.errors import LsfError, MissingExtraError
from lsf.machine.allocator import keep_freed_memory_in_simulations

try:
    from ipi.pes.dummy import Dummy_driver
    from ipi.utils.units import unit_to_internal, unit_to_user
except ImportError as error:
    raise MissingExtraError("ipi", "ipi", "the driver of i-PI") from error

__DRIVER_NAME__ = "lsf"
__DRIVER_CLASS__ = "LsfDriver"

Array = NDArray[np.float64]


class LsfDriver(Dummy_driver):  # type: ignore[misc]
    """Evaluates a model for i-PI, in atomic units; see the module for its options."""

    def __init__(
        self,
        template: str,
        model: str,
        field_x: float = 0.0,
        field_y: float = 0.0,
        field_z: float = 0.0,
        unwrapped: bool = False,
        total_charge: float = 0.0,
        total_spin: float = 0.0,
        **rest: Any,
    ) -> None:
        self.template, self.model = template, model
        self.state = {"total_charge": float(total_charge), "total_spin": float(total_spin)}
        self.field = np.array([float(field_x), float(field_y), float(field_z)])
        self.unwrapped = str(unwrapped).lower() == "true"
        super().__init__(**rest)

    def check_parameters(self) -> None:
        """Load the model and refuse what it cannot treat, before i-PI asks for anything.

        Raises :class:`lsf.errors.LsfError`.
        """
        from ase.io import read

        from lsf.formats.torchscript.read import ScriptFile, ScriptSystem

        atoms = read(self.template)
        file = ScriptFile(self.model)
        keep_freed_memory_in_simulations()
        if file.metadata["formal_charges"] == "from_data":
            charges = atoms.arrays.get("formal_charges")
            if charges is None:
                raise LsfError(f"{self.template}: this model needs a column formal_charges")
            self.charges: Array | None = np.asarray(charges, dtype=np.float64)
        else:
            self.charges = None
        self.pbc = atoms.pbc
        needs = bool(atoms.pbc.any()) and file.metadata["unwrapped_positions"] and bool(self.field.any())
        if needs and not self.unwrapped:
            raise LsfError(
                "a field on charged species in a periodic cell needs positions that are not wrapped: set "
                'pbc="false" in <ffsocket> and give the driver unwrapped=true'
            )
        self.system = ScriptSystem(file, atoms.get_chemical_symbols(), **self.state)
        self.system.check(atoms.pbc)

    def compute_structure(self, cell: Array, pos: Array) -> tuple[float, Array, Array, str]:
        """Return energy, forces, virial and extras of one structure; i-PI's cell has vectors as columns."""
        to_angstrom = unit_to_user("length", "angstrom", 1.0)
        to_hartree = unit_to_internal("energy", "electronvolt", 1.0)
        box = np.asarray(cell).T * to_angstrom if self.pbc.any() else np.zeros((3, 3))
        found = self.system.evaluate(
            np.asarray(pos).reshape(-1, 3) * to_angstrom,
            box,
            self.pbc,
            external_field=-self.field,
            formal_charges=self.charges,
        )
        forces = found["forces"] * to_hartree * to_angstrom
        extras = {
            "charges": found["partial_charges"].tolist(),
            "dipole": found["dipole"][0].tolist(),
            "total_charge": float(found["total_charge"][0]),
        }
        return (
            float(found["energy"][0]) * to_hartree,
            forces.reshape(np.shape(pos)),
            found["virial"][0].T * to_hartree,
            json.dumps(extras),
        )


def main() -> None:
    """Print where this file is: what i-PI is given as its driver."""
    sys.stdout.write(f"{Path(__file__).resolve()}\n")


if __name__ == "__main__":
    main()
