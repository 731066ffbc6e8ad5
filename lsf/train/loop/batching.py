"""Batches put together over and over again from the same frames, cheaply.

torch-geometric's own collation keeps what is needed to take a batch apart again, which costs more than a
small model's forward pass. Here the frames' tensors are looked up once and only concatenated per batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from lsf.data.graph import AtomGraph, neighbor_slots
from lsf.data.lazy import LazyGraphs


@attrs.frozen
class _Field:
    """One tensor of every frame: along which dimension to join it and by how much each frame shifts it."""

    name: str
    dim: int
    values: tuple[Tensor, ...]
    shifts: tuple[int, ...] | None

    def join(self, indices: Sequence[int]) -> Tensor:
        """Return the chosen frames' tensors in one."""
        parts = [self.values[index] for index in indices]
        if self.shifts is not None:
            offsets = accumulate((self.shifts[index] for index in indices), initial=0)
            parts = [part + offset if offset else part for part, offset in zip(parts, offsets, strict=False)]
        return torch.cat(parts, self.dim)


class BatchSource(Protocol):
    """Frames that batches are made of; a batch of the same frames is the same to the last bit."""

    @property
    def graphs(self) -> Sequence[AtomGraph]:
        """The frames."""

    def batch(self, indices: Sequence[int]) -> AtomGraph:
        """Return the batch of the frames with these indices, on the device."""


def batch_source(graphs: Sequence[AtomGraph], device: torch.device) -> BatchSource:
    """Return the frames of a training, held ready or read from shards batch by batch."""
    return LazyStore(graphs, device) if isinstance(graphs, LazyGraphs) else FrameStore(graphs, device)


@attrs.frozen
class LazyStore:
    """Frames in shards: the graphs of a batch are built when it is asked for."""

    graphs: LazyGraphs
    device: torch.device

    def batch(self, indices: Sequence[int]) -> AtomGraph:
        """Return the batch of the frames with these indices, on the device."""
        chosen = FrameStore([self.graphs[index] for index in indices], self.device)
        return chosen.batch(range(len(indices)))


class FrameStore:
    """Frames ready to be joined into batches of any composition.

    A batch has all tensors of :func:`lsf.data.graph.collate`, equal to the last bit, but cannot be taken
    apart, and carries no text.
    """

    def __init__(self, graphs: Sequence[AtomGraph], device: torch.device) -> None:
        self.graphs = graphs
        self.device = device
        self.sizes = [int(graph.num_nodes) for graph in graphs]
        names = [name for name, value in graphs[0].to_dict().items() if isinstance(value, Tensor)]
        self.fields = [_field(name, graphs) for name in names]

    def batch(self, indices: Sequence[int]) -> AtomGraph:
        """Return the batch of the frames with these indices, on the device."""
        sizes = torch.tensor([self.sizes[index] for index in indices])
        joined: dict[str, Any] = {field.name: field.join(indices) for field in self.fields}
        joined["num_nodes"] = int(sizes.sum())
        joined["batch"] = torch.repeat_interleave(torch.arange(len(indices)), sizes)
        joined["ptr"] = torch.cat((sizes.new_zeros(1), torch.cumsum(sizes, 0)))
        joined["neighbor_slots"] = neighbor_slots(joined["edge_index"], joined["num_nodes"])
        batch = AtomGraph(**joined)
        return batch if self.device.type == "cpu" else batch.to(self.device)


def _field(name: str, graphs: Sequence[AtomGraph]) -> _Field:
    values = tuple(graph[name] for graph in graphs)
    shifts = tuple(int(graph.__inc__(name, value)) for graph, value in zip(graphs, values, strict=True))
    dim = int(graphs[0].__cat_dim__(name, values[0]))
    return _Field(name, dim, values, shifts if any(shifts) else None)
