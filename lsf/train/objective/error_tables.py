"""Error tables: which errors of which quantities stand in the columns.

Names and columns follow the tables of earlier training scripts, so that numbers can be laid side by
side. A recipe chooses one by ``training.error_table``; the registry entries stand in
``registry/metrics``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final, Literal

import attrs

from lsf.options import NoOptions
from lsf.recipe.catalog import catalog
from lsf.report.tables import Cell, Table
from lsf.train.objective.metrics import Errors, SplitMetrics

Statistic = Literal["rmse", "mae", "relative_rmse", "max_abs"]


@attrs.frozen
class Column:
    """One column: a statistic of a quantity, times ``scale`` to be in ``unit``."""

    heading: str
    quantity: str
    statistic: Statistic
    unit: str
    scale: float

    def cell(self, errors: Errors) -> Cell:
        """Return the number to show, None where the quantity has no label."""
        stats = errors.get(self.quantity)
        if stats is None:
            return None
        value: float = attrs.asdict(stats)[self.statistic]
        return value * self.scale


ENERGY: Final = Column("RMSE E", "energy_per_atom", "rmse", "meV/atom", 1e3)
FORCES: Final = Column("RMSE F", "forces", "rmse", "meV/Å", 1e3)
RELATIVE_FORCES: Final = Column("rel F", "forces", "relative_rmse", "%", 1e2)
STRESS: Final = Column("RMSE stress", "stress", "rmse", "meV/Å³", 1e3)
VIRIALS: Final = Column("RMSE virials", "virials_per_atom", "rmse", "meV/atom", 1e3)
MULTIPOLES: Final = Column("RMSE DMA", "atomic_multipoles", "rmse", "me·Å^l", 1e3)
RELATIVE_MULTIPOLES: Final = Column("rel DMA", "atomic_multipoles", "relative_rmse", "%", 1e2)
ATOMIC_CHARGES: Final = Column("RMSE qs", "atomic_charges", "rmse", "me", 1e3)
ATOMIC_DIPOLES: Final = Column("RMSE dipoles", "atomic_dipoles", "rmse", "me·Å", 1e3)
POTENTIALS: Final = Column("RMSE ESP", "electrostatic_potentials", "rmse", "mV", 1e3)
DIPOLE: Final = Column("RMSE mu", "dipole", "rmse", "me·Å", 1e3)
DIPOLE_PER_ATOM: Final = Column("RMSE mu", "dipole_per_atom", "rmse", "me·Å/atom", 1e3)
RELATIVE_DIPOLE: Final = Column("rel mu", "dipole_per_atom", "relative_rmse", "%", 1e2)
POLARIZABILITY: Final = Column("RMSE polarizability", "polarizability_per_atom", "rmse", "me·Å²/V/atom", 1e3)
TOTAL_CHARGE: Final = Column("max |ΔQ|", "total_charge", "max_abs", "e", 1.0)

ALL_COLUMNS: Final = (
    ENERGY,
    FORCES,
    RELATIVE_FORCES,
    STRESS,
    VIRIALS,
    MULTIPOLES,
    RELATIVE_MULTIPOLES,
    POTENTIALS,
    DIPOLE,
    RELATIVE_DIPOLE,
    POLARIZABILITY,
    TOTAL_CHARGE,
)
"""Columns the automatic table chooses from."""

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
            if not self.only_labelled or any(column.quantity in errors for _, _, errors in lines)
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


def _table(*columns: Column, only_labelled: bool = False) -> Callable[[NoOptions], ErrorTable]:
    """Return the builder of a table, the form a registry target has."""
    table = ErrorTable(columns, only_labelled)
    return lambda _options: table


auto = _table(*ALL_COLUMNS, only_labelled=True)
per_atom_rmse = _table(ENERGY, FORCES, RELATIVE_FORCES)
per_atom_mae = _table(
    attrs.evolve(ENERGY, heading="MAE E", statistic="mae"),
    attrs.evolve(FORCES, heading="MAE F", statistic="mae"),
)
total_rmse = _table(Column("RMSE E", "energy", "rmse", "meV", 1e3), FORCES, RELATIVE_FORCES)
total_mae = _table(
    Column("MAE E", "energy", "mae", "meV", 1e3),
    attrs.evolve(FORCES, heading="MAE F", statistic="mae"),
)
per_atom_mae_stress_virials = _table(
    attrs.evolve(ENERGY, heading="MAE E", statistic="mae"),
    attrs.evolve(FORCES, heading="MAE F", statistic="mae"),
    attrs.evolve(STRESS, heading="MAE stress", statistic="mae"),
    attrs.evolve(VIRIALS, heading="MAE virials", statistic="mae"),
)
dipole_mae = _table(attrs.evolve(DIPOLE_PER_ATOM, heading="MAE mu", statistic="mae"))
energy_dipole_rmse = _table(ENERGY, FORCES, RELATIVE_FORCES, DIPOLE_PER_ATOM, RELATIVE_DIPOLE)
energy_dipole_potentials_rmse = _table(
    ENERGY, FORCES, RELATIVE_FORCES, DIPOLE_PER_ATOM, RELATIVE_DIPOLE, POTENTIALS
)
electrostatic_rmse = _table(
    ENERGY,
    FORCES,
    RELATIVE_FORCES,
    MULTIPOLES,
    RELATIVE_MULTIPOLES,
    DIPOLE_PER_ATOM,
    RELATIVE_DIPOLE,
    POTENTIALS,
    POLARIZABILITY,
)
per_atom_rmse_stress_virials = _table(ENERGY, FORCES, RELATIVE_FORCES, STRESS, VIRIALS)
density_coefficients_rmse = _table(MULTIPOLES, RELATIVE_MULTIPOLES, ATOMIC_CHARGES, ATOMIC_DIPOLES)
density_energy_rmse = _table(ENERGY, FORCES, RELATIVE_FORCES, MULTIPOLES)
dipole_rmse = _table(DIPOLE_PER_ATOM, RELATIVE_DIPOLE)
density_dipole_rmse = _table(DIPOLE_PER_ATOM, RELATIVE_DIPOLE, MULTIPOLES, RELATIVE_MULTIPOLES)
energy_density_dipole_rmse = _table(
    ENERGY, FORCES, RELATIVE_FORCES, MULTIPOLES, DIPOLE_PER_ATOM, RELATIVE_DIPOLE, POLARIZABILITY
)


def build_error_table(name: str) -> ErrorTable:
    """Return the error table of that name."""
    entry = catalog().entry("metrics", name)
    table: ErrorTable = entry.target()(entry.options_class()())
    return table


def brief_table(
    name: str, metrics: Mapping[str, SplitMetrics], tests: Collection[str], title: str = "Errors"
) -> Table:
    """Return the named error table with one row per set of frames.

    The config types of the sets in ``tests`` have rows too, as long as these are no more than
    :data:`BRIEF_ROWS` in all.
    """
    table = build_error_table(name)
    detailed = table(metrics, title, tests)
    return detailed if len(detailed.rows) <= BRIEF_ROWS else table(metrics, title, ())
