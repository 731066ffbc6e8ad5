"""Coulomb energies of Gaussian multipoles: pure functions of tensors, one module per formula.

The names below are what other code uses; each comes from its module when it is first asked for, so that
``import lsf.electrostatics`` is light.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

_MODULES: Final = {
    "CoulombPlan": "plan.coulomb_plan",
    "Electrostatics": "settings",
    "plan_structure": "plan.coulomb_plan",
    "coulomb_energy": "energy",
    "Grid": "potential.grid",
    "planar_average": "potential.grid",
    "structure_grid": "potential.grid",
    "PlanCache": "plan.cache",
    "density_at": "potential.values",
    "density_on_grid": "potential.values",
    "field_on_grid": "potential.values",
    "potential_at": "potential.values",
    "potential_at_atoms": "potential.values",
    "potential_on_grid": "potential.values",
    "ChargedStructure": "potential.structure",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
