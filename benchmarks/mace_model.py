"""The model of mace-torch that benchmarks compare with; for its own environment, without lsf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def mace_model(levels: Mapping[str, Any], species: Sequence[int], neighbors: float, scale: float) -> Any:
    """Return an untrained ScaleShiftMACE in torch's default dtype.

    ``levels`` holds ``r_max, max_ell, num_interactions, hidden_irreps, correlation``; ``species`` atomic
    numbers, rising; ``neighbors`` their average number; ``scale``, in eV, multiplies energies of atoms.
    """
    import torch
    from e3nn import o3
    from mace import modules

    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=levels["r_max"],
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=levels["max_ell"],
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=levels["num_interactions"],
        num_elements=len(species),
        hidden_irreps=o3.Irreps(levels["hidden_irreps"]),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros((1, len(species))),
        avg_num_neighbors=neighbors,
        atomic_numbers=list(species),
        correlation=levels["correlation"],
        gate=torch.nn.functional.silu,
        atomic_inter_scale=np.array([scale]),
        atomic_inter_shift=np.array([0.0]),
    )
