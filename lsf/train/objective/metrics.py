"""Errors of predictions against labels, in total and per config type, summed up batch by batch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import attrs
import torch
from torch import Tensor

from lsf.machine.geometric import Batch
from lsf.recipe.quantities import LABELS
from lsf.recipe.quantity import Measure
from lsf.train.loop.distributed import World
from lsf.train.objective.labels import Comparison, Predictions, atoms_per_graph, compare


class Entries(NamedTuple):
    """A measure row by row, all (n_rows, n_entries): values are zero where ``valid`` is false."""

    predicted: Tensor
    target: Tensor
    valid: Tensor


def entries_of(measure: Measure, pair: Comparison, sizes: Tensor) -> Entries:
    """Return a measure's numbers out of its label's; ``sizes`` (n_graphs,) counts atoms."""
    columns = measure.columns
    valid = (pair.weight > 0.0).expand_as(pair.target)[:, columns]
    divisor = sizes[pair.graph].unsqueeze(-1) if measure.per_atom else 1
    predicted, target = (
        torch.where(valid, values[:, columns].to(torch.float64) / divisor, 0.0)
        for values in (pair.predicted, pair.target)
    )
    return Entries(predicted, target, valid)


@attrs.frozen
class ErrorStats:
    """Errors of one measure over ``count`` labelled entries; ``relative_rmse`` is a fraction.

    ``relative_rmse`` divides by the root mean square of the labels; NaN when all of them are zero.
    """

    count: int
    rmse: float
    mae: float
    relative_rmse: float
    max_abs: float

    @classmethod
    def from_sums(cls, sums: Sequence[float]) -> ErrorStats:
        """Return the statistics of [count, Σ error², Σ |error|, Σ label², max |error|]."""
        count, squares, absolutes, labels, largest = sums
        rmse = math.sqrt(squares / count)
        relative = math.sqrt(squares / labels) if labels > 0.0 else math.nan
        return cls(int(count), rmse, absolutes / count, relative, largest)


Errors = dict[str, ErrorStats]
"""Errors by name of the measure; one without any label is not in it."""


@attrs.frozen
class SplitMetrics:
    """Errors on one set of frames; ``loss`` and ``terms`` are those of a stage, where there is one."""

    n_frames: int
    errors: Errors
    frames_by_type: Mapping[str, int]
    errors_by_type: Mapping[str, Errors]
    loss: float = math.nan
    terms: Mapping[str, float | None] = attrs.field(factory=dict)

    def rmse(self) -> dict[str, float]:
        """Return the root mean square error of every labelled measure, in its unit."""
        return {name: stats.rmse for name, stats in self.errors.items()}

    def mae(self) -> dict[str, float]:
        """Return the mean absolute error of every labelled measure, in its unit."""
        return {name: stats.mae for name, stats in self.errors.items()}


class ErrorSums:
    """Running sums of errors: (n_types, n_measures, 5), see :meth:`ErrorStats.from_sums`."""

    def __init__(self, properties: Collection[str], types: Sequence[str], device: torch.device) -> None:
        self.properties = tuple(properties)
        self.types = tuple(types)
        self.measures = [
            (label, measure)
            for label, row in LABELS.items()
            if label in self.properties
            for measure in row.measures
        ]
        self.sums = torch.zeros(len(self.types), len(self.measures), 5, dtype=torch.float64, device=device)
        self.frames = torch.zeros(len(self.types), dtype=torch.int64, device=device)

    def update(self, predictions: Predictions, batch: Batch, type_index: Tensor) -> None:
        """Add a batch; ``type_index`` (n_graphs,) is the place of each graph's config type in ``types``."""
        self.frames.index_add_(0, type_index, torch.ones_like(type_index))
        pairs = {name: compare(name, predictions, batch) for name in self.properties}
        sizes = atoms_per_graph(batch)
        for place, (label, measure) in enumerate(self.measures):
            pair = pairs[label]
            if pair.target.shape[1] < (measure.columns.stop or 0):
                continue  # the model's density stops at a lower degree
            self._add(place, measure, pair, sizes, type_index)

    def _add(self, place: int, measure: Measure, pair: Comparison, sizes: Tensor, type_index: Tensor) -> None:
        predicted, target, valid = entries_of(measure, pair, sizes)
        error = predicted - target
        rows = torch.stack(
            (valid.sum(1), error.square().sum(1), error.abs().sum(1), target.square().sum(1)), 1
        )
        row_types = type_index[pair.graph]
        self.sums[:, place, :4].index_add_(0, row_types, rows.to(torch.float64))
        self.sums[:, place, 4].scatter_reduce_(0, row_types, error.abs().amax(1), "amax")

    def add_up(self, world: World) -> None:
        """Take in the sums of all processes."""
        self.sums = torch.cat((world.sum(self.sums[..., :4]), world.largest(self.sums[..., 4:])), -1)
        self.frames = world.sum(self.frames)

    def result(self) -> SplitMetrics:
        """Return the errors of everything added so far."""
        total = torch.cat((self.sums[..., :4].sum(0), self.sums[..., 4:].amax(0)), -1)
        frames = self.frames.tolist()
        return SplitMetrics(
            n_frames=sum(frames),
            errors=self._errors(total),
            frames_by_type=dict(zip(self.types, frames, strict=True)),
            errors_by_type={
                name: self._errors(sums) for name, sums in zip(self.types, self.sums, strict=True)
            },
        )

    def _errors(self, sums: Tensor) -> Errors:
        """Return the statistics of the measures that had a label; ``sums`` is (n_measures, 5)."""
        return {
            measure.name: ErrorStats.from_sums(values)
            for (_, measure), values in zip(self.measures, sums.tolist(), strict=True)
            if values[0] > 0
        }
