"""What every exported file shares: the model it is made from and the description it carries."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import torch

import lsf
from lsf.electrostatics.boundary import KIND_OPEN, kinds_by_periodicity, possible_kinds
from lsf.formats.model_file.file import LoadedModel
from lsf.models.energies.coulomb import CoulombTerm
from lsf.models.local_source import LocalSourceModel
from lsf.models.sources.none import NoSource
from lsf.units import CONVENTIONS, UNITS


def prepared(model: LocalSourceModel, backend: str = "direct") -> LocalSourceModel:
    """Return a copy with kernels and Coulomb sums that can leave Python; ``backend`` is that of the sums."""
    model = copy.deepcopy(model).requires_grad_(False)
    model.backbone.use_kernels("plain")
    if isinstance(model.coulomb, CoulombTerm):
        model.coulomb.settings = attrs.evolve(model.coulomb.settings, backend=backend)
    return model


def treated_kinds(loaded: LoadedModel) -> list[int]:
    """Return the kinds by number of periodic directions; a model without charges treats all alike."""
    if not isinstance(loaded.model.coulomb, CoulombTerm):
        return [KIND_OPEN] * 4
    return kinds_by_periodicity(loaded.recipe.electrostatics.boundary)


def all_kinds(loaded: LoadedModel) -> set[int]:
    """Return all kinds that a model's structures may have; without charges all are treated as open."""
    if not isinstance(loaded.model.coulomb, CoulombTerm):
        return {KIND_OPEN}
    return possible_kinds(loaded.recipe.electrostatics.boundary)


def described(loaded: LoadedModel, dtype: torch.dtype) -> dict[str, Any]:
    """Return the metadata of a file: what a program must know to use it."""
    settings, options = loaded.recipe.electrostatics, loaded.recipe.model.options
    has_charges = not isinstance(loaded.model.source, NoSource)
    allowed = getattr(options, "oxidation_range", None)
    return {
        "lsf_version": lsf.__version__,
        "torch_version": str(torch.__version__),
        "name": loaded.recipe.name,
        "model": loaded.recipe.model.use,
        "species": loaded.metadata["species"],
        "atomic_numbers": loaded.model.species.tolist(),
        "cutoff": loaded.model.r_max,
        "dtype": str(dtype).removeprefix("torch."),
        "boundary": settings.boundary if has_charges else None,
        "periodic_directions": [n for n, kind in enumerate(treated_kinds(loaded)) if kind >= 0],
        "electrostatics": attrs.asdict(settings) if has_charges else None,
        "formal_charges": options.formal_charge_rule(),
        "formal_charge_range": list(allowed) if allowed is not None else None,
        "sees_total_charge": "total_charge" in options.seen_state(),
        "sees_total_spin": "total_spin" in options.seen_state(),
        "unwrapped_positions": has_charges,
        "units": UNITS,
        "conventions": CONVENTIONS,
    }
