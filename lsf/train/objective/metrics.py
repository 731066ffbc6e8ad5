"""Errors of predictions against labels, in total and per config type, summed up batch by batch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

import attrs
import torch
from torch import Tensor

from lsf.machine.geometric import Batch
from lsf.train.loop.distributed import World
from lsf.train.objective.labels import Comparison, Predictions, atoms_per_graph, compare


@attrs.frozen
class Quantity:
    """Something errors are stated for: a property, or a part of it, in total or per atom.

    ``columns`` selects entries of a row (None: all). ``unit`` is that of the stored numbers.
    """

    name: str
    label: str
    unit: str
    per_atom: bool = False
    columns: tuple[int, int] | None = None


QUANTITIES: Final[dict[str, Quantity]] = {
    quantity.name: quantity
    for quantity in (
        Quantity("energy", "energy", "eV"),
        Quantity("energy_per_atom", "energy", "eV/atom", per_atom=True),
        Quantity("forces", "forces", "eV/Å"),
        Quantity("stress", "stress", "eV/Å³"),
        Quantity("virials", "virials", "eV"),
        Quantity("virials_per_atom", "virials", "eV/atom", per_atom=True),
        Quantity("dipole", "dipole", "e·Å"),
        Quantity("dipole_per_atom", "dipole", "e·Å/atom", per_atom=True),
        Quantity("polarizability", "polarizability", "e·Å²/V"),
        Quantity("polarizability_per_atom", "polarizability", "e·Å²/V/atom", per_atom=True),
        Quantity("total_charge", "total_charge", "e"),
        Quantity("atomic_multipoles", "atomic_multipoles", "e·Å^l"),
        Quantity("electrostatic_potentials", "electrostatic_potentials", "V"),
        Quantity("atomic_charges", "atomic_multipoles", "e", columns=(0, 1)),
        Quantity("atomic_dipoles", "atomic_multipoles", "e·Å", columns=(1, 4)),
    )
}


class Entries(NamedTuple):
    """A quantity row by row, all (n_rows, n_entries): values are zero where ``valid`` is false."""

    predicted: Tensor
    target: Tensor
    valid: Tensor


def entries_of(quantity: Quantity, pair: Comparison, sizes: Tensor) -> Entries:
    """Return a quantity's numbers out of its property's; ``sizes`` (n_graphs,) counts atoms."""
    columns = slice(*quantity.columns) if quantity.columns is not None else slice(None)
    valid = (pair.weight > 0.0).expand_as(pair.target)[:, columns]
    divisor = sizes[pair.graph].unsqueeze(-1) if quantity.per_atom else 1
    predicted, target = (
        torch.where(valid, values[:, columns].to(torch.float64) / divisor, 0.0)
        for values in (pair.predicted, pair.target)
    )
    return Entries(predicted, target, valid)


@attrs.frozen
class ErrorStats:
    """Errors of one quantity over ``count`` labelled entries; ``relative_rmse`` is a fraction.

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
"""Errors by name of the quantity; a quantity without any label is not in it."""


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
        """Return the root mean square error of every labelled quantity, in its unit."""
        return {name: stats.rmse for name, stats in self.errors.items()}

    def mae(self) -> dict[str, float]:
        """Return the mean absolute error of every labelled quantity, in its unit."""
        return {name: stats.mae for name, stats in self.errors.items()}


class ErrorSums:
    """Running sums of errors: (n_types, n_quantities, 5), see :meth:`ErrorStats.from_sums`."""

    def __init__(self, properties: Collection[str], types: Sequence[str], device: torch.device) -> None:
        self.properties = tuple(properties)
        self.types = tuple(types)
        self.quantities = [item for item in QUANTITIES.values() if item.label in self.properties]
        self.sums = torch.zeros(len(self.types), len(self.quantities), 5, dtype=torch.float64, device=device)
        self.frames = torch.zeros(len(self.types), dtype=torch.int64, device=device)

    def update(self, predictions: Predictions, batch: Batch, type_index: Tensor) -> None:
        """Add a batch; ``type_index`` (n_graphs,) is the place of each graph's config type in ``types``."""
        self.frames.index_add_(0, type_index, torch.ones_like(type_index))
        pairs = {name: compare(name, predictions, batch) for name in self.properties}
        sizes = atoms_per_graph(batch)
        for place, quantity in enumerate(self.quantities):
            pair = pairs[quantity.label]
            if quantity.columns is not None and pair.target.shape[1] < quantity.columns[1]:
                continue
            self._add(place, quantity, pair, sizes, type_index)

    def _add(
        self, place: int, quantity: Quantity, pair: Comparison, sizes: Tensor, type_index: Tensor
    ) -> None:
        predicted, target, valid = entries_of(quantity, pair, sizes)
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
        """Return the statistics of the quantities that had a label; ``sums`` is (n_quantities, 5)."""
        return {
            quantity.name: ErrorStats.from_sums(values)
            for quantity, values in zip(self.quantities, sums.tolist(), strict=True)
            if values[0] > 0
        }
