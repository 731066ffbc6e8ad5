"""Memory for intermediates that is used again, in place of fresh pages for every call."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

_kept = threading.local()


class Scratch:
    """Named pieces of memory; each name's piece grows to the largest that was asked for."""

    def __init__(self, like: Tensor) -> None:
        self._like = like.new_empty(0)
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return memory of that shape, with what the last use of the name left in it."""
        size = math.prod(shape)
        held = self._held.get(name)
        if held is None or held.numel() < size:
            held = self._held[name] = self._like.new_empty(size)
        return held[:size].view(shape)


def kept_scratch(owner: str, like: Tensor) -> Scratch:
    """Return the scratch of ``owner`` that this thread keeps.

    For pieces of bounded size that are neither returned nor saved for a backward pass.
    """
    key = (owner, like.dtype, like.device)
    pools: dict[tuple[str, torch.dtype, torch.device], Scratch] = _kept.__dict__.setdefault("pools", {})
    if key not in pools:
        pools[key] = Scratch(like)
    return pools[key]


class Pool:
    """At most one piece of memory that is lent for as long as its taker lives, and then lent again."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, like: Tensor, size: int) -> Tensor:
        """Return memory (>= size,) of the kind of ``like``; fresh where what there is does not fit."""
        try:
            held = self._free.pop()
        except IndexError:
            return like.new_empty(size)
        fits = held.numel() >= size and held.dtype == like.dtype and held.device == like.device
        return held if fits else like.new_empty(size)

    def give_back(self, memory: Tensor) -> None:
        """Keep memory that nobody uses any more."""
        if not self._free:
            self._free.append(memory)
