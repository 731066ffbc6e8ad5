"""The ASE calculator of a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from lsf.data.build import build_graphs
from lsf.data.checks import species_problems
from lsf.data.frames import frame_from_atoms
from lsf.data.graph import collate
from lsf.errors import DataError, LsfError
from lsf.models.derivatives import evaluate
from lsf.models.inputs import check_charge_range
from lsf.recipe import Head
from lsf.resolve import pick_device

if TYPE_CHECKING:
    from lsf.export.package import LoadedModel

# What ASE asks for by name, and which derived output of the model it takes.
_DERIVED = {
    "forces": "forces",
    "stress": "stress",
    "potential": "potential",
    "born_charges": "born_charges",
    "hessian": "hessian",
}
_ALWAYS = (
    "energy_atomic",
    "energy_short_range",
    "energy_coulomb",
    "energy_field",
    "density_coefficients",
    "partial_dipoles",
    "total_charge",
)


class LsfCalculator(Calculator):  # type: ignore[misc]
    """Energies, forces, stress, charges, dipole and more of a trained model, for ASE.

    Parameters
    ----------
    loaded : from :func:`lsf.load`
    device : "auto", "cpu", "cuda", …
    electric_field : physical uniform field, 3 numbers in V/Å, or None for the frame's own
    external_field_key : entry of ``atoms.info`` with the gradient of the potential, V/Å; used when
        ``electric_field`` is None and the entry is there
    formal_charges_key : column of ``atoms.arrays`` with formal charges in e, for models with
        ``formal_charges = "from_data"``

    Besides ASE's own properties (energy, free_energy, energies, forces, stress, charges, dipole) the
    results hold ``energy_atomic``, ``energy_short_range``, ``energy_coulomb``, ``energy_field``,
    ``density_coefficients`` [Q, d_y, d_z, d_x], ``partial_charges``, ``partial_dipoles`` (Cartesian),
    ``total_charge``, ``polarizability`` where the model has it, and on request
    ``calc.get_property("potential" | "born_charges" | "hessian", atoms)``. ``energies`` are atomic and
    short-range energies per atom: the Coulomb energy is not split between atoms. Units: see
    :mod:`lsf.units`; stress is defined for fully periodic cells only.

    A changed field or charge column is noticed like a changed position.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "charges",
        "dipole",
        *_ALWAYS,
        "partial_charges",
        "polarizability",
        "potential",
        "born_charges",
        "hessian",
    ]

    def __init__(
        self,
        loaded: LoadedModel,
        device: str = "auto",
        electric_field: Sequence[float] | None = None,
        external_field_key: str = "external_field",
        formal_charges_key: str = "formal_charges",
    ) -> None:
        super().__init__()
        self.device = torch.device(pick_device(device))
        self.loaded = loaded
        self.model = loaded.model.to(self.device)
        self.electric_field = None if electric_field is None else _vector(electric_field)
        self.rule = loaded.recipe.model.options.formal_charge_rule()
        arrays = {"charges": formal_charges_key} if self.rule == "from_data" else {}
        self.head = Head({"external_field": external_field_key}, arrays)
        self._inputs: dict[str, np.ndarray | None] = {}

    def set_electric_field(self, electric_field: Sequence[float] | None) -> None:
        """Apply a physical uniform field in V/Å from the next evaluation on; None removes it."""
        self.electric_field = None if electric_field is None else _vector(electric_field)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed since the last calculation, fields and formal charges included."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        for name, value in self._read_inputs(atoms).items():
            old = self._inputs.get(name)
            same = old is value if old is None or value is None else np.array_equal(old, value)
            if not same:
                changes.append(name)
        return changes

    def _read_inputs(self, atoms: Atoms) -> dict[str, np.ndarray | None]:
        """Return copies of what the energy depends on besides what ASE compares."""
        field = self.electric_field
        if field is None and self.head.info_keys["external_field"] in atoms.info:
            field = -np.asarray(atoms.info[self.head.info_keys["external_field"]], dtype=np.float64)
        charges = atoms.arrays.get(self.head.arrays_keys["charges"]) if self.head.arrays_keys else None
        return {
            "field": None if field is None else field.copy(),
            "formal_charges": None if charges is None else charges.copy(),
        }

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a property; one that the last calculation left out triggers a new one."""
        if name == "polarizability" and self.model.polarizability is None:
            raise PropertyNotImplementedError(
                f"{self.loaded.path.name} has no polarizability readout: "
                "train with model.polarizability = true"
            )
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results`` for one structure.

        Raises :class:`lsf.errors.DataError` on an element or periodicity the model cannot treat.
        """
        super().calculate(atoms, properties, system_changes)
        compute = {_DERIVED[name] for name in properties if name in _DERIVED} | {"forces"}
        if all(self.atoms.pbc):
            compute.add("stress")
        elif "stress" in properties:
            raise PropertyNotImplementedError(
                f"stress is defined for fully periodic cells, not for pbc = {self.atoms.pbc.tolist()}"
            )
        batch = self._batch()
        outputs = evaluate(self.model, batch, compute)
        self._inputs = self._read_inputs(self.atoms)
        self.results = _results(outputs)

    def _batch(self) -> Any:
        plain = self.atoms.copy()
        if self.electric_field is not None:
            plain.info[self.head.info_keys["external_field"]] = -self.electric_field
        frame, problems = frame_from_atoms(plain, {"default": self.head}, source="atoms", index=0)
        if frame is not None:
            problems += species_problems([frame], self.loaded.facts.species)
        if problems or frame is None:
            raise DataError(f"{self.loaded.path.name} cannot evaluate these atoms", problems)
        graphs = build_graphs([frame], self.model.r_max, self.loaded.recipe.electrostatics, self.rule)
        check_charge_range(self.loaded.recipe.model.options, graphs)
        return collate(graphs).to(self.device)


def _vector(values: Sequence[float]) -> np.ndarray:
    vector = np.asarray(values, dtype=np.float64)
    if vector.shape != (3,) or not np.isfinite(vector).all():
        raise LsfError(f"electric_field: found {values!r}; expected 3 finite numbers in V/Å")
    return vector


def _results(outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    arrays = {name: value.cpu().numpy() for name, value in outputs.items()}
    results: dict[str, Any] = {
        "energy": float(arrays["energy"][0]),
        "free_energy": float(arrays["energy"][0]),
        "energies": arrays["node_energy"],
        "forces": arrays["forces"],
        "charges": arrays["partial_charges"],
        "partial_charges": arrays["partial_charges"],
        "dipole": arrays["dipole"][0],
    }
    if "stress" in arrays:
        results["stress"] = full_3x3_to_voigt_6_stress(arrays["stress"][0])
    for name in _ALWAYS:
        single = arrays[name].ndim == 1 and name.startswith(("energy", "total"))
        results[name] = float(arrays[name][0]) if single else arrays[name]
    if "polarizability" in arrays:
        results["polarizability"] = arrays["polarizability"][0]
    for name in ("potential", "born_charges", "hessian"):
        if name in arrays:
            results[name] = arrays[name]
    return results
