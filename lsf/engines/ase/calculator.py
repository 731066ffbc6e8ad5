"""The ASE calculator of a trained model."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from lsf.data.build import Planner, build_graphs
from lsf.data.checks import species_problems
from lsf.data.finite import check_results
from lsf.data.frames import Frame, frame_from_atoms
from lsf.data.graph import AtomGraph, collate
from lsf.data.neighbors import NeighborCache, Search, find_neighbors
from lsf.electrostatics.net_charge import net_charge_effect
from lsf.electrostatics.plan.cache import PlanCache
from lsf.electrostatics.plan.coulomb_plan import plan_structure
from lsf.engines.ase.batches import evaluate_batches
from lsf.engines.ase.tracking import Array, TrackingCalculator
from lsf.errors import DataError, LsfError, Problem
from lsf.machine.device import pick_device
from lsf.models.derivatives import evaluate
from lsf.models.inputs import check_charge_range
from lsf.recipe.quantities import OUTPUTS, row_of_output
from lsf.recipe.schema import Head

if TYPE_CHECKING:
    from lsf.formats.model_file.file import LoadedModel

__all__ = ["LsfCalculator"]

DEFAULT_SKIN: Final = 0.5
"""Å; the list lasts for some steps of molecular dynamics and has not many edges more than the model uses."""


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
    skin : Å; neighbours are searched anew when an atom has moved half of it. Results do not depend on it

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
        name for row in OUTPUTS.values() for name in row.prediction.ase
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
        skin: float = DEFAULT_SKIN,
    ) -> None:
        super().__init__(electric_field, external_field_key)
        if not 0.0 <= skin < float("inf"):
            raise LsfError(f"skin: found {skin!r}; expected a length in Å, zero or more")
        self.device = torch.device(pick_device(device))
        self.loaded = loaded
        self.model = loaded.model.to(self.device)
        self.rule = loaded.recipe.model.options.formal_charge_rule()
        arrays = {"charges": formal_charges_key} if self.rule == "from_data" else {}
        options = loaded.recipe.model.options
        state = {"total_charge": total_charge_key} if "total_charge" in options.seen_state() else {}
        state |= {"total_spin": total_spin_key} if "total_spin" in options.seen_state() else {}
        self.state_keys = tuple(state.values())
        self.head = Head({"external_field": external_field_key, **state}, arrays)
        self._plans, self._neighbors = PlanCache(), NeighborCache(skin)
        self._warned = False

    def other_inputs(self, atoms: Atoms) -> dict[str, Array | None]:
        """Return the column of formal charges and the entries of charge and spin that the model reads."""
        charges = atoms.arrays.get(self.head.arrays_keys["charges"]) if self.head.arrays_keys else None
        state = {key: np.asarray(atoms.info[key]) if key in atoms.info else None for key in self.state_keys}
        return {"formal_charges": charges, **state}

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a property; one that the last calculation left out triggers a new one."""
        if name == "polarizability" and not self.model.has_polarizability:
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
        if "stress" in properties and not all(self.atoms.pbc):
            raise PropertyNotImplementedError(
                f"stress is defined for fully periodic cells, not for pbc = {self.atoms.pbc.tolist()}"
            )
        graphs = self._graphs([self.atoms], self._plans, self._neighbors)
        batch = collate(graphs, labels=False).to(self.device)
        outputs = self.outputs(batch, _derived(properties, graphs))
        (self.results,) = self._by_structure(batch, outputs, [self.atoms])
        self.remember(self.atoms)

    def evaluate_many(
        self, structures: Sequence[Atoms], properties: Sequence[str] = ("energy",), memory: float = 1.0
    ) -> list[dict[str, Any]]:
        """Return the results of many structures, evaluated together; those of the calculator stay.

        Parameters
        ----------
        structures : of any sizes and periodicities
        properties : what is wanted beyond what is always there: ``potential``, ``born_charges``
        memory : 10⁹ bytes that an evaluation may take, roughly; large batches are faster where structures
            are small

        Each structure's results have the names and numbers that ``get_property`` gives one by one. Raises
        :class:`lsf.errors.DataError` with all structures that the model cannot treat, before anything is
        computed, and :class:`lsf.errors.LsfError` on a Hessian, which is of one structure.
        """
        if "hessian" in properties:
            raise LsfError("evaluate_many: a hessian is computed for one structure at a time: get_property")
        if not memory > 0.0:
            raise LsfError(f"memory: found {memory!r}; expected a number of 10⁹ bytes above zero")
        if not structures:
            return []
        graphs = self._graphs(structures)
        results: list[dict[str, Any]] = []
        batches = evaluate_batches(
            self.model, graphs, _derived(properties, graphs), memory * 1e9, self.device
        )
        for batch, outputs in batches:
            mine = structures[len(results) : len(results) + batch.num_graphs]
            results += self._by_structure(batch, outputs, mine)
        return results

    def outputs(self, batch: Any, compute: set[str]) -> dict[str, torch.Tensor]:
        """Return the outputs of a collated batch; ``compute`` names derived ones."""
        return evaluate(self.model, batch, compute)

    def finished(self, results: dict[str, Any], atoms: Atoms) -> dict[str, Any]:  # noqa: ARG002
        """Return the results of one structure as they are served; calculators in other units change them."""
        return results

    def _graphs(
        self, structures: Sequence[Atoms], planner: Planner = plan_structure, search: Search = find_neighbors
    ) -> list[AtomGraph]:
        frames: list[Frame] = []
        problems: list[Problem] = []
        for index, atoms in enumerate(structures):
            plain = atoms.copy()
            if self.electric_field is not None:
                plain.info[self.head.info_keys["external_field"]] = -self.electric_field
            frame, found = frame_from_atoms(plain, {"default": self.head}, source="atoms", index=index)
            problems += found
            frames += [] if frame is None else [frame]
        problems += species_problems(frames, self.loaded.facts.species)
        if problems:
            raise DataError(f"{self.loaded.path.name} cannot evaluate these atoms", problems)
        settings = self.loaded.recipe.electrostatics
        graphs = build_graphs(frames, self.model.r_max, settings, self.rule, planner, search)
        check_charge_range(self.loaded.recipe.model.options, graphs)
        return graphs

    def _by_structure(
        self, batch: Any, outputs: dict[str, torch.Tensor], structures: Sequence[Atoms]
    ) -> list[dict[str, Any]]:
        """Return the results of every structure of a batch."""
        arrays = {name: value.cpu().numpy() for name, value in outputs.items()}
        starts = batch.ptr.tolist()
        found = []
        for place, atoms in enumerate(structures):
            mine, graph = slice(starts[place], starts[place + 1]), slice(place, place + 1)
            # a matrix of pairs is that of a batch of one
            parts = {"atom": mine, "frame": graph, "pair": slice(None)}
            own = {name: value[parts[row_of_output(name).level]] for name, value in arrays.items()}
            if not all(atoms.pbc):  # a strain of a molecule or a slab is no strain of a volume
                own.pop("stress", None)
            results = _results(own)
            check_results(results)
            self._warn(batch, place, results["total_charge"])
            found.append(self.finished(results, atoms))
        return found

    def _warn(self, batch: Any, place: int, total_charge: float) -> None:
        """Say once what a net charge does."""
        volume = abs(float(torch.linalg.det(batch.cell[place])))
        settings = self.loaded.recipe.electrostatics
        effect = net_charge_effect(int(batch.kind[place]), total_charge, settings, volume)
        if effect is not None and not self._warned:
            self._warned = True
            warnings.warn(effect, stacklevel=2)


def _derived(properties: Collection[str], graphs: Sequence[AtomGraph]) -> set[str]:
    """Return what the model is to compute; stress is always there for fully periodic cells."""
    stress = {"stress"} if any(bool(graph.pbc.all()) for graph in graphs) else set()
    asked = (row.prediction for row in OUTPUTS.values() if not set(properties).isdisjoint(row.prediction.ase))
    return {"forces"} | stress | {wanted.output for wanted in asked if wanted.derived}


def _results(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return one structure's outputs by the names that ASE uses: single numbers as such, stress by Voigt."""
    results: dict[str, Any] = {}
    for output, array in arrays.items():
        row = row_of_output(output)
        value = array[0] if row.level == "frame" else array
        if output == "stress":
            value = full_3x3_to_voigt_6_stress(value)
        for name in row.prediction.ase:
            results[name] = float(value) if row.level == "frame" and not row.shape else value
    return results
