"""Graphs that are built when they are asked for, from frames that are read then."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import overload

from lsf.data.frames import Frame
from lsf.data.graph import AtomGraph
from lsf.data.readers.base import LazyFrames
from lsf.data.statistics import Summary
from lsf.recipe.quantities import LABELS

Build = Callable[[Frame], AtomGraph]


class LazyGraphs(Sequence[AtomGraph]):
    """Graphs of lazy frames; none of them is kept.

    What would need a pass over all graphs is known from their ``summary``.
    """

    def __init__(self, frames: LazyFrames, build: Build, summary: Summary) -> None:
        self._frames = frames
        self._build = build
        self._summary = summary

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> AtomGraph: ...

    @overload
    def __getitem__(self, index: slice) -> LazyGraphs: ...

    def __getitem__(self, index: int | slice) -> AtomGraph | LazyGraphs:
        if isinstance(index, slice):
            positions = range(len(self._frames))[index]
            return LazyGraphs(self._frames.select(positions), self._build, self._summary)
        return self._build(self._frames[index])

    @property
    def labelled(self) -> frozenset[str]:
        """The labels that at least one graph has; of a slice, that of all it was cut from."""
        return frozenset(name for name in LABELS if self._summary.counts.labels[name])

    @property
    def config_types(self) -> tuple[str, ...]:
        """The config types in the order of their first graphs; of a slice, of all it was cut from."""
        return self._summary.config_types

    def extremes(self) -> list[AtomGraph]:
        """Return the graphs with the lowest and the highest formal charge."""
        return [self[place] for place in sorted(set(self._summary.extremes))]

    def fingerprint(self) -> bytes:
        """Return what ties the graphs to the content of their frames."""
        return hashlib.sha256(self._frames.fingerprint()).digest()
