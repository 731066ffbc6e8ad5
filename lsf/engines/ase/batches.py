"""Many structures in few evaluations, as many at once as memory allows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from lsf.data.graph import AtomGraph, collate
from lsf.models.derivatives import evaluate
from lsf.models.local_source import LocalSourceModel

PEAK: Final = 2.0
"""Most memory that an evaluation holds at a time, by what it keeps for derivatives: 1.7 and 2.0 times in
boxes of water of 192 and 648 atoms."""


class _Kept:
    """Counts the bytes that operations keep for their derivatives, every storage once."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor as it is kept."""
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    @staticmethod
    def unpack(tensor: Tensor) -> Tensor:
        """Return what was kept."""
        return tensor

    @property
    def total(self) -> int:
        """Bytes of all storages."""
        return sum(self._storages.values())


def evaluate_batches(
    model: LocalSourceModel,
    graphs: Sequence[AtomGraph],
    compute: Collection[str],
    memory: float,
    device: torch.device,
) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    """Evaluate graphs in their order; yield every batch with its outputs.

    Parameters
    ----------
    model : on ``device``
    graphs : one per structure
    compute : names of derived outputs, see :func:`lsf.models.derivatives.evaluate`
    memory : bytes that an evaluation may take; a structure that needs more is evaluated alone
    device : where to compute

    The first structure is evaluated alone. What each batch kept per edge and atom says how many structures
    make up the next one.
    """
    start, per_row = 0, float("inf")
    while start < len(graphs):
        end, rows = start + 1, _rows(graphs[start])
        while end < len(graphs) and (rows + _rows(graphs[end])) * per_row <= memory:
            rows += _rows(graphs[end])
            end += 1
        batch = collate(graphs[start:end], labels=False).to(device)
        kept = _Kept()
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
            outputs = evaluate(model, batch, compute)
        yield batch, outputs
        start, per_row = end, PEAK * max(kept.total, 1) / rows


def _rows(graph: AtomGraph) -> int:
    return int(graph.edge_index.shape[1]) + int(graph.num_nodes)
