"""Error tables: which errors of which measures stand in the columns.

A recipe lists the columns in ``training.error_table``, or names a table of ``registry/metrics``. What a
column is called and its unit stand in :mod:`lsf.recipe.quantities`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import attrs

from lsf.options import NoOptions
from lsf.recipe.catalog import catalog
from lsf.recipe.quantities import measures
from lsf.recipe.quantity import HEADINGS, Measure, Statistic
from lsf.report.tables import Cell, Table
from lsf.train.objective.metrics import Errors, SplitMetrics


@attrs.frozen
class Column:
    """One column: a statistic of a measure, in its printed unit."""

    measure: Measure
    statistic: Statistic

    @property
    def heading(self) -> str:
        """What stands above the column."""
        return HEADINGS[self.statistic].format(self.measure.symbol)

    @property
    def unit(self) -> str:
        """Unit of its numbers; relative errors are in percent."""
        return "%" if self.statistic == "relative_rmse" else self.measure.shown_unit

    def cell(self, errors: Errors) -> Cell:
        """Return the number to show, None where the measure has no label."""
        stats = errors.get(self.measure.name)
        if stats is None:
            return None
        value: float = getattr(stats, self.statistic)
        return value * (1e2 if self.statistic == "relative_rmse" else self.measure.factor)


BRIEF_ROWS: Final = 12
"""Rows of a table that is taken in at a glance."""


@attrs.frozen
class ErrorTable:
    """A way of showing errors: one row per set of frames, and one per config type where there are several.

    With ``only_labelled``, columns without any number are left out; otherwise they show a dash.
    """

    columns: tuple[Column, ...]
    only_labelled: bool = False

    def __call__(
        self,
        metrics: Mapping[str, SplitMetrics],
        title: str = "Errors",
        by_type: Collection[str] | None = None,
    ) -> Table:
        """Return the table of the named sets; those in ``by_type`` (None: all) by config type too."""
        detailed = metrics if by_type is None else by_type
        lines = [line for name, split in metrics.items() for line in _lines(name, split, name in detailed)]
        columns = [
            column
            for column in self.columns
            if not self.only_labelled or any(column.measure.name in errors for _, _, errors in lines)
        ]
        return Table(
            title=title,
            columns=("frames", "n", *(column.heading for column in columns)),
            rows=tuple(
                (name, count, *(column.cell(errors) for column in columns)) for name, count, errors in lines
            ),
            units=("", "", *(column.unit for column in columns)),
        )


def _lines(name: str, split: SplitMetrics, by_type: bool) -> list[tuple[str, int, Errors]]:
    """Return the rows of one set of frames: all of it, then its config types where there are several."""
    lines = [(name, split.n_frames, split.errors)]
    if by_type and len(split.frames_by_type) > 1:
        lines += [
            (f"{name}: {config_type}", count, split.errors_by_type[config_type])
            for config_type, count in sorted(split.frames_by_type.items())
        ]
    return lines


def auto(_options: NoOptions) -> ErrorTable:
    """Return the table of every label there is, the form a registry target has."""
    columns = [
        Column(measure, statistic) for _, measure in measures().values() for statistic in measure.automatic
    ]
    return ErrorTable(tuple(columns), only_labelled=True)


def columns_named(names: Sequence[str]) -> tuple[Column, ...]:
    """Return columns by name: ``forces`` for those it usually has, ``forces:mae`` for one statistic."""
    known = measures()
    columns: list[Column] = []
    for name in names:
        measure_name, _, chosen = name.partition(":")
        _, measure = known[measure_name]
        columns += [
            Column(measure, statistic)
            for statistic in HEADINGS
            if (statistic == chosen if chosen else statistic in measure.statistics)
        ]
    return tuple(columns)


def build_error_table(choice: str | Sequence[str]) -> ErrorTable:
    """Return the error table of a name of the registry, or of the columns in a list."""
    if not isinstance(choice, str):
        return ErrorTable(columns_named(choice))
    entry = catalog().entry("metrics", choice)
    table: ErrorTable = entry.target()(entry.options_class()())
    return table


def brief_table(
    choice: str | Sequence[str],
    metrics: Mapping[str, SplitMetrics],
    tests: Collection[str],
    title: str = "Errors",
) -> Table:
    """Return the chosen error table with one row per set of frames.

    The config types of the sets in ``tests`` have rows too, as long as these are no more than
    :data:`BRIEF_ROWS` in all.
    """
    table = build_error_table(choice)
    detailed = table(metrics, title, tests)
    return detailed if len(detailed.rows) <= BRIEF_ROWS else table(metrics, title, ())
