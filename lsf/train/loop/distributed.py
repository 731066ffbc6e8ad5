"""Training in several processes, each with its share of every batch.

``torchrun --nproc-per-node 4 -m lsf run recipe.toml`` starts the processes. All of them hold the model and
all frames; each computes the gradient of its share of a batch, and the sums of squares, counts and gradients
are added up, so that the loss is the exact mean over the labelled entries of the whole batch and every
process takes the same step. Only the first one writes files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lsf.errors import LsfError

T = TypeVar("T")


class World(Protocol):
    """The processes of a training. Its methods are called by all of them in the same order."""

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of a sequence; the main one's is never empty where there is any."""

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""

    def largest(self, values: Tensor) -> Tensor:
        """Return the largest value over all processes, entry by entry."""

    def any(self, flag: bool) -> bool:
        """Return whether the flag is up in any process; all wait for one another."""

    def agreed(self, value: T) -> T:
        """Return the main process's value."""

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add up the gradients of all processes; one without a gradient anywhere stays without."""

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the main one's values."""


class Alone:
    """One process: there is nothing to share."""

    main = True

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return everything."""
        return items

    def sum(self, values: Tensor) -> Tensor:
        """Return the values."""
        return values

    def largest(self, values: Tensor) -> Tensor:
        """Return the values."""
        return values

    def any(self, flag: bool) -> bool:
        """Return the flag."""
        return flag

    def agreed(self, value: T) -> T:
        """Return the value."""
        return value

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Do nothing."""

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Do nothing."""


ALONE: Final = Alone()


class Group:
    """The processes of a torch.distributed group."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank = rank
        self.size = size
        self.device = device

    @property
    def main(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return a piece without gaps; sizes differ by one at most, the first ones are larger."""
        quotient, rest = divmod(len(items), self.size)
        start = self.rank * quotient + min(self.rank, rest)
        return items[start : start + quotient + (self.rank < rest)]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    def largest(self, values: Tensor) -> Tensor:
        """Return the largest value over all processes, entry by entry."""
        found = values.clone()
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found

    def any(self, flag: bool) -> bool:
        """Return whether the flag is up in any process."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def agreed(self, value: T) -> T:
        """Return the first process's value."""
        box = [value]
        dist.broadcast_object_list(box, device=self.device)
        return box[0]

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add up the gradients in one message per dtype."""
        for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
            self._sum_gradients([parameter for parameter in parameters if parameter.dtype == dtype])

    def _sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        present = parts[0].new_tensor([float(p.grad is not None) for p in parameters])
        total = self.sum(torch.cat([part.reshape(-1) for part in (*parts, present)]))
        sums = total.split([part.numel() for part in (*parts, present)])
        for parameter, gradient, count in zip(parameters, sums, sums[-1].tolist(), strict=False):
            parameter.grad = gradient.view_as(parameter) if count else None

    @torch.no_grad()
    def same(self, tensors: Sequence[Tensor]) -> None:
        """Send the first process's values to all."""
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def process_count() -> int:
    """Return the number of processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this process writes files and speaks to the user."""
    return process_count() == 1 or int(os.environ.get("RANK", "0")) == 0


def device_of_process(device: torch.device) -> torch.device:
    """Return the device of this process: of several, each takes the GPU of its number on this machine.

    Raises :class:`lsf.errors.LsfError` when there are fewer GPUs than processes.
    """
    if process_count() == 1 or device.type != "cuda" or device.index is not None:
        return device
    index, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= there:
        raise LsfError(
            f"process {index + 1} on this machine finds no GPU of its own, there are {there}: start fewer "
            'processes with torchrun --nproc-per-node, or set device = "cpu"'
        )
    return torch.device("cuda", index)


@contextmanager
def world_of(device: torch.device) -> Iterator[World]:
    """Yield the processes torchrun has started, connected while the block runs; one without torchrun.

    They talk over NCCL where they compute on GPUs and over Gloo elsewhere. Raises
    :class:`lsf.errors.LsfError` when the environment is not torchrun's.
    """
    if process_count() == 1:
        yield ALONE
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise LsfError(
            f"WORLD_SIZE = {process_count()} without {', '.join(missing)} in the environment: start several "
            "processes with torchrun, or unset WORLD_SIZE"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
