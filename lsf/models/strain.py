"""A strain of every structure, plain functions that TorchScript compiles, too."""

from __future__ import annotations

import torch
from torch import Tensor


def deform(positions: Tensor, cell: Tensor, batch: Tensor, strain: Tensor) -> tuple[Tensor, Tensor]:
    """Return positions and cells deformed by the symmetric part ε of ``strain`` (n_graphs, 3, 3)."""
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    moved = torch.bmm(positions.unsqueeze(1), symmetric.index_select(0, batch)).squeeze(1)
    return positions + moved, cell + torch.bmm(cell, symmetric)


def inverse_volume(cell: Tensor) -> Tensor:
    """Return 1/V (n_graphs,) of cells (n_graphs, 3, 3); zero where there is no volume."""
    # in closed form: ONNX has no determinant
    normal = torch.linalg.cross(cell[:, 1], cell[:, 2], dim=1)
    volume = (cell[:, 0] * normal).sum(1).abs()
    empty = volume < 1.0e-9
    one = torch.ones_like(volume)
    return torch.where(empty, torch.zeros_like(volume), 1.0 / torch.where(empty, one, volume))
