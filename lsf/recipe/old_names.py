"""Names of earlier recipes and model files, replaced when a recipe is read by what they stand for today."""

from __future__ import annotations

from typing import Any, Final

ERROR_TABLES: Final[dict[str, tuple[str, ...]]] = {
    "PerAtomRMSE": ("energy_per_atom", "forces"),
    "PerAtomMAE": ("energy_per_atom:mae", "forces:mae"),
    "TotalRMSE": ("energy", "forces"),
    "TotalMAE": ("energy:mae", "forces:mae"),
    "PerAtomRMSEstressvirials": ("energy_per_atom", "forces", "stress", "virials_per_atom"),
    "PerAtomMAEstressvirials": ("energy_per_atom:mae", "forces:mae", "stress:mae", "virials_per_atom:mae"),
    "DipoleRMSE": ("dipole_per_atom",),
    "DipoleMAE": ("dipole_per_atom:mae",),
    "EnergyDipoleRMSE": ("energy_per_atom", "forces", "dipole_per_atom"),
    "EnergyDipolePotentialsRMSE": (
        "energy_per_atom",
        "forces",
        "dipole_per_atom",
        "electrostatic_potentials",
    ),
    "ElectrostaticRMSE": (
        "energy_per_atom",
        "forces",
        "atomic_multipoles",
        "dipole_per_atom",
        "electrostatic_potentials",
        "polarizability_per_atom",
    ),
    "DensityCoefficientsRMSE": ("atomic_multipoles", "atomic_charges", "atomic_dipoles"),
    "DensityEnergyRMSE": ("energy_per_atom", "forces", "atomic_multipoles:rmse"),
    "DensityDipoleRMSE": ("dipole_per_atom", "atomic_multipoles"),
    "EnergyDensityDipoleRMSE": (
        "energy_per_atom",
        "forces",
        "atomic_multipoles:rmse",
        "dipole_per_atom",
        "polarizability_per_atom",
    ),
}
"""Error tables of mace-scf by the columns they consist of."""


def replace_old_names(table: dict[str, Any]) -> None:
    """Put what they stand for in place of the old names in the tables of a recipe."""
    training = table.get("training")
    if not isinstance(training, dict):
        return
    chosen = training.get("error_table")
    if isinstance(chosen, str) and chosen in ERROR_TABLES:
        training["error_table"] = list(ERROR_TABLES[chosen])
