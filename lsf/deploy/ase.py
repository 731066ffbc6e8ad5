"""ASE calculators: of a trained model, and of given multipoles."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from lsf.data.build import build_graphs
from lsf.data.checks import species_problems
from lsf.data.frames import frame_from_atoms
from lsf.data.graph import collate
from lsf.deploy.coulomb import CoulombCalculator
from lsf.deploy.tracking import Array, TrackingCalculator
from lsf.electrostatics.net_charge import net_charge_effect
from lsf.electrostatics.plan_cache import PlanCache
from lsf.errors import DataError
from lsf.models.derivatives import evaluate
from lsf.models.inputs import check_charge_range
from lsf.recipe import Head
from lsf.resolve import pick_device

if TYPE_CHECKING:
    from lsf.export.package import LoadedModel

__all__ = ["CoulombCalculator", "LsfCalculator"]

_OLD_NAMES = ("FixedChargeBaselineCalculator", "LocalChargesCalculator", "LocalSplitChargesCalculator")

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


def __getattr__(name: str) -> Any:
    """Return a calculator with the keywords of the older ones; they are built on the one of this module."""
    if name in _OLD_NAMES:
        from lsf.compat import calculators

        return getattr(calculators, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class LsfCalculator(TrackingCalculator):
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
    total_charge_key, total_spin_key : entries of ``atoms.info`` with the total charge in e and the number of
        unpaired electrons, for models that embed them; zero where absent

    Besides ASE's own properties (energy, free_energy, energies, forces, stress, charges, dipole) the
    results hold ``energy_atomic``, ``energy_short_range``, ``energy_coulomb``, ``energy_field``,
    ``density_coefficients`` [Q, d_y, d_z, d_x], ``partial_charges``, ``partial_dipoles`` (Cartesian),
    ``total_charge``, ``polarizability`` where the model has it, and on request
    ``calc.get_property("potential" | "born_charges" | "hessian", atoms)``. ``energies`` are atomic and
    short-range energies per atom: the Coulomb energy is not split between atoms. Units: see
    :mod:`lsf.units`; stress is defined for fully periodic cells only.

    A changed field, charge column, charge or spin is noticed like a changed position.
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
        total_charge_key: str = "total_charge",
        total_spin_key: str = "total_spin",
    ) -> None:
        super().__init__(electric_field, external_field_key)
        self.device = torch.device(pick_device(device))
        self.loaded = loaded
        self.model = loaded.model.to(self.device)
        self.rule = loaded.recipe.model.options.formal_charge_rule()
        arrays = {"charges": formal_charges_key} if self.rule == "from_data" else {}
        options = loaded.recipe.model.options
        state = {"total_charge": total_charge_key} if options.total_charge_embedding else {}
        state |= {"total_spin": total_spin_key} if options.total_spin_embedding else {}
        self.state_keys = tuple(state.values())
        self.head = Head({"external_field": external_field_key, **state}, arrays)
        self._plans = PlanCache()
        self._warned = False

    def other_inputs(self, atoms: Atoms) -> dict[str, Array | None]:
        """Return the column of formal charges and the entries of charge and spin that the model reads."""
        charges = atoms.arrays.get(self.head.arrays_keys["charges"]) if self.head.arrays_keys else None
        state = {key: np.asarray(atoms.info[key]) if key in atoms.info else None for key in self.state_keys}
        return {"formal_charges": charges, **state}

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
        self.results = _results(outputs)
        self.remember(self.atoms)
        self._warn(batch)

    def _batch(self) -> Any:
        plain = self.atoms.copy()
        if self.electric_field is not None:
            plain.info[self.head.info_keys["external_field"]] = -self.electric_field
        frame, problems = frame_from_atoms(plain, {"default": self.head}, source="atoms", index=0)
        if frame is not None:
            problems += species_problems([frame], self.loaded.facts.species)
        if problems or frame is None:
            raise DataError(f"{self.loaded.path.name} cannot evaluate these atoms", problems)
        settings = self.loaded.recipe.electrostatics
        graphs = build_graphs([frame], self.model.r_max, settings, self.rule, self._plans)
        check_charge_range(self.loaded.recipe.model.options, graphs)
        return collate(graphs).to(self.device)

    def _warn(self, batch: Any) -> None:
        """Say once what a net charge does."""
        volume = abs(float(torch.linalg.det(batch.cell[0])))
        effect = net_charge_effect(
            int(batch.kind[0]), self.results["total_charge"], self.loaded.recipe.electrostatics, volume
        )
        if effect is not None and not self._warned:
            self._warned = True
            warnings.warn(effect, stacklevel=2)


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
