"""The ASE calculator of given multipoles: electrostatics alone, without a model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from lsf.data.finite import check_structure
from lsf.electrostatics.differentiate import deformable, derivatives, potential, virial_and_stress
from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.field import field_energy
from lsf.electrostatics.multipoles import dipoles
from lsf.electrostatics.net_charge import net_charge_effect
from lsf.electrostatics.plan.cache import PlanCache
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.electrostatics.settings import DEFAULT_MESH_ACCURACY as DEFAULT_ACCURACY
from lsf.electrostatics.settings import Electrostatics
from lsf.engines.ase.tracking import Array, TrackingCalculator
from lsf.errors import LsfError


class CoulombCalculator(TrackingCalculator):
    """Coulomb energy, forces, stress, dipole and potential of Gaussian multipoles, for ASE.

    Parameters
    ----------
    max_l : highest multipole: 0 charges, 1 dipoles, 2 quadrupoles
    smearing_width : standard deviation of the Gaussians, Å
    boundary : boundary method: realspace, pbc, slab, molecule_in_box, mixed_periodic or auto
    kspace_cutoff_factor : scales the largest wave vector of reciprocal sums
    include_self_interaction : whether each Gaussian's interaction with itself counts
    multipoles_key : column of ``atoms.arrays`` with the multipoles, unless :meth:`set_multipoles` gave some
    external_field_key : entry of ``atoms.info`` with the gradient of the potential, V/Å
    electric_field : physical uniform field, 3 numbers in V/Å; replaces the entry of ``atoms.info``
    correction : how images of slabs are removed: exact, or dipole, the older approximation
    backend : what evaluates the sums: auto, direct, mesh or kernel
    mesh_accuracy : relative error of the forces that a mesh may add
    settings : all of these at once, for example ``recipe.electrostatics``, in place of the single ones

    The multipoles have ``(max_l + 1)²`` columns ``[Q, d_y, d_z, d_x, …]`` in e Å^l
    (:mod:`lsf.electrostatics.multipoles`); charges alone may be one-dimensional. They stay as they are when
    atoms move. Results: energy, free_energy, forces, dipole, charges, ``potential`` (n_atoms,) in V, averaged
    over each atom's Gaussian, and in fully periodic cells stress. With a field F the energy contains -P·F,
    where P sums charges times positions as given, and dipoles.

    Changed multipoles and fields are noticed like changed positions. Lists of wave vectors are kept while the
    cell stays. More on the settings: :class:`lsf.electrostatics.settings.Electrostatics`.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "forces",
        "stress",
        "dipole",
        "charges",
        "potential",
    ]

    def __init__(
        self,
        max_l: int = 1,
        smearing_width: float = 1.5,
        boundary: str = "mixed_periodic",
        kspace_cutoff_factor: float = 1.25,
        include_self_interaction: bool = True,
        multipoles_key: str = "multipoles",
        external_field_key: str = "external_field",
        *,
        electric_field: Sequence[float] | None = None,
        correction: str = "exact",
        backend: str = "auto",
        mesh_accuracy: float = DEFAULT_ACCURACY,
        settings: Electrostatics | None = None,
    ) -> None:
        super().__init__(electric_field, external_field_key)
        try:
            given = Electrostatics(
                boundary=boundary,
                multipoles_max_l=max_l,
                smearing_width=smearing_width,
                kspace_cutoff_factor=kspace_cutoff_factor,
                include_self_interaction=include_self_interaction,
                correction=correction,
                backend=backend,
                mesh_accuracy=mesh_accuracy,
            )
        except ValueError as error:
            raise LsfError(f"CoulombCalculator: {error}") from error
        if settings is not None and given != Electrostatics(boundary="mixed_periodic"):
            raise LsfError(
                "CoulombCalculator: found settings and single ones besides; expected one of the two, for "
                "example attrs.evolve(settings, smearing_width=1.0)"
            )
        self.settings = given if settings is None else settings
        self.multipoles_key = multipoles_key
        self._multipoles: Array | None = None
        self._plans = PlanCache()
        self._warned = False

    def set_multipoles(self, multipoles: Any) -> None:
        """Use these multipoles, (n_atoms, (max_l + 1)²), instead of the column of the atoms.

        The array is copied. None goes back to the column.
        """
        self._multipoles = None if multipoles is None else self._checked(multipoles, "multipoles")

    def other_inputs(self, atoms: Atoms) -> dict[str, Array | None]:
        """Return the multipoles."""
        return {"multipoles": self.multipoles(atoms)}

    def multipoles(self, atoms: Atoms) -> Array:
        """Return the multipoles of the atoms, (n_atoms, (max_l + 1)²).

        Raises :class:`lsf.errors.LsfError` where there are none, or not as many as there are atoms.
        """
        if self._multipoles is not None:
            found, name = self._multipoles, "multipoles given to set_multipoles"
        elif self.multipoles_key in atoms.arrays:
            name = f"atoms.arrays[{self.multipoles_key!r}]"
            found = self._checked(atoms.arrays[self.multipoles_key], name)
        else:
            raise LsfError(
                f"CoulombCalculator: the atoms have no multipoles: set atoms.arrays[{self.multipoles_key!r}] "
                f"with {(self.settings.multipoles_max_l + 1) ** 2} columns, or call set_multipoles"
            )
        if len(found) != len(atoms):
            raise LsfError(f"{name}: found {len(found)} rows; expected one for each of {len(atoms)} atoms")
        return found

    def _checked(self, values: Any, name: str) -> Array:
        columns = (self.settings.multipoles_max_l + 1) ** 2
        try:
            array = np.array(values, dtype=np.float64)
        except (TypeError, ValueError):
            array = np.full((1, columns), np.nan)
        if array.ndim == 1 and columns == 1:
            array = array[:, None]
        if array.ndim != 2 or array.shape[1] != columns or not np.isfinite(array).all():
            raise LsfError(
                f"{name}: found an array of shape {np.shape(values)}; expected finite numbers, one row per "
                f"atom and {columns} columns, for max_l = {self.settings.multipoles_max_l}"
            )
        return array

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results`` for one structure.

        Raises :class:`lsf.errors.LsfError` on multipoles, fields or periodicities that do not fit.
        """
        super().calculate(atoms, properties, system_changes)
        periodic = bool(all(self.atoms.pbc))
        if "stress" in properties and not periodic:
            raise PropertyNotImplementedError(
                f"stress is defined for fully periodic cells, not for pbc = {self.atoms.pbc.tolist()}"
            )
        positions, cell = self.atoms.positions, self.atoms.cell.array
        check_structure(positions, cell)
        plan = self._plans(self.settings, positions, cell, self.atoms.pbc)
        field = self.external_field(self.atoms)
        self.results = self._results(plan, cell, np.zeros(3) if field is None else field, periodic)
        self.remember(self.atoms)
        self._warn(plan, cell)

    def _results(self, plan: CoulombPlan, cell: Array, field: Array, periodic: bool) -> dict[str, Any]:
        coefficients = _tensor(self.multipoles(self.atoms)).requires_grad_()
        batch = torch.zeros(len(self.atoms), dtype=torch.int64)
        positions, strain, moved, strained = deformable(
            _tensor(self.atoms.positions), _tensor(cell)[None], batch
        )
        coulomb = coulomb_energy(coefficients, moved, strained, batch, plan, self.settings).sum()
        polarization = (coefficients[:, :1] * moved + dipoles(coefficients)).sum(0)
        energy = coulomb + field_energy(polarization[None], _tensor(field)[None]).sum()
        by_position, by_strain = derivatives(energy, [positions, strain], retain_graph=True)
        results: dict[str, Any] = {
            "energy": float(energy.detach()),
            "free_energy": float(energy.detach()),
            "forces": -by_position.numpy(),
            "dipole": polarization.detach().numpy(),
            "charges": coefficients[:, 0].detach().numpy().copy(),
            "potential": potential(coulomb, coefficients).numpy().copy(),
        }
        if periodic:
            _, stress = virial_and_stress(by_strain, _tensor(cell)[None])
            results["stress"] = full_3x3_to_voigt_6_stress(stress[0].numpy())
        return results

    def _warn(self, plan: CoulombPlan, cell: Array) -> None:
        """Say once what a net charge does."""
        charge = float(self.results["charges"].sum())
        effect = net_charge_effect(int(plan.kind), charge, self.settings, abs(float(np.linalg.det(cell))))
        if effect is not None and not self._warned:
            self._warned = True
            warnings.warn(effect, stacklevel=2)


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))
