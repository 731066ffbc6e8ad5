"""The one table of what frames carry and models give: shapes, units, where it is found, how it is shown.

A row of :data:`QUANTITIES` is an input, a label or an output. Files, losses, error tables, parity plots, log
lines, ``lsf eval`` and the ASE calculator read it; none of them has a list of its own. A new label is one row
here, one in ``docs/data.md`` and a loss. :data:`PROPERTIES`, :data:`LABELS` and the functions follow the
table as it is when they are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from lsf.recipe.quantity import HEADINGS, Measure, Prediction, Quantity

ENERGY_PART: Final = "energy_"
"""How the names of the parts that the energy is the sum of begin."""


def _energy_part(name: str, of_charges: bool = False) -> Quantity:
    return Quantity(
        name, "output", "frame", (), "eV", Prediction(name, of_charges=of_charges, written=name, ase=(name,))
    )


_ROWS: Final = (
    Quantity(
        "energy",
        "label",
        "frame",
        (),
        "eV",
        Prediction("energy", written="energy", ase=("energy", "free_energy")),
        (
            Measure("energy", "E", "eV"),
            Measure(
                "energy_per_atom",
                "E",
                "eV/atom",
                per_atom=True,
                automatic=("rmse",),
                panel="Energy per atom",
                in_progress=True,
            ),
        ),
    ),
    Quantity(
        "forces",
        "label",
        "atom",
        (3,),
        "eV/Å",
        Prediction("forces", derived=True, written="forces", ase=("forces",)),
        (
            Measure(
                "forces",
                "F",
                "eV/Å",
                automatic=("rmse", "relative_rmse"),
                statistics=("rmse", "relative_rmse"),
                panel="Forces",
                in_progress=True,
            ),
        ),
    ),
    Quantity(
        "stress",
        "label",
        "frame",
        (3, 3),
        "eV/Å³",
        Prediction("stress", derived=True, written="stress", ase=("stress",)),
        (Measure("stress", "stress", "eV/Å³", automatic=("rmse",), panel="Stress", in_progress=True),),
    ),
    Quantity(
        "virials",
        "label",
        "frame",
        (3, 3),
        "eV",
        Prediction("virial", derived=True),
        (
            Measure("virials", "virials", "eV"),
            Measure(
                "virials_per_atom",
                "virials",
                "eV/atom",
                per_atom=True,
                automatic=("rmse",),
                panel="Virials per atom",
                in_progress=True,
            ),
        ),
    ),
    Quantity(
        "atomic_multipoles",
        "label",
        "atom",
        (-1,),
        "e·Å^l",
        Prediction(
            "density_coefficients",
            of_charges=True,
            written="atomic_multipoles",
            ase=("density_coefficients",),
        ),
        (
            Measure(
                "atomic_multipoles",
                "DMA",
                "e·Å^l",
                automatic=("rmse", "relative_rmse"),
                statistics=("rmse", "relative_rmse"),
                in_progress=True,
            ),
            Measure("atomic_charges", "qs", "e", degree=0, panel="Atomic charges"),
            Measure("atomic_dipoles", "dipoles", "e·Å", degree=1, panel="Atomic dipoles"),
        ),
    ),
    Quantity(
        "electrostatic_potentials",
        "label",
        "atom",
        (),
        "V",
        Prediction("potential", derived=True, of_charges=True, written="potential", ase=("potential",)),
        (Measure("electrostatic_potentials", "ESP", "V", automatic=("rmse",), in_progress=True),),
    ),
    Quantity(
        "dipole",
        "label",
        "frame",
        (3,),
        "e·Å",
        Prediction("dipole", of_charges=True, written="dipole", ase=("dipole",)),
        (
            Measure("dipole", "mu", "e·Å", automatic=("rmse",), panel="Dipole", in_progress=True),
            Measure(
                "dipole_per_atom",
                "mu",
                "e·Å/atom",
                per_atom=True,
                automatic=("relative_rmse",),
                statistics=("rmse", "relative_rmse"),
            ),
        ),
    ),
    Quantity(
        "polarizability",
        "label",
        "frame",
        (3, 3),
        "e·Å²/V",
        Prediction("polarizability", written="polarizability", ase=("polarizability",)),
        (
            Measure("polarizability", "polarizability", "e·Å²/V", panel="Polarizability"),
            Measure(
                "polarizability_per_atom",
                "polarizability",
                "e·Å²/V/atom",
                per_atom=True,
                automatic=("rmse",),
                in_progress=True,
            ),
        ),
    ),
    Quantity(
        "total_charge",
        "label",
        "frame",
        (),
        "e",
        Prediction("total_charge", of_charges=True, written="total_charge", ase=("total_charge",)),
        (
            Measure(
                "total_charge",
                "Q",
                "e",
                thousandths=False,
                automatic=("max_abs",),
                statistics=("rmse", "max_abs"),
            ),
        ),
        default=0.0,
    ),
    Quantity(
        "born_charges",
        "label",
        "atom",
        (3, 3),
        "e",
        Prediction(
            "born_charges",
            derived=True,
            of_charges=True,
            written="born_charges",
            costly=True,
            ase=("born_charges",),
        ),
        (
            Measure(
                "born_charges",
                "Z*",
                "e",
                automatic=("rmse",),
                statistics=("rmse", "relative_rmse"),
                panel="Born effective charges",
                in_progress=True,
            ),
        ),
    ),
    Quantity("external_field", "input", "frame", (3,), "V/Å", default=0.0),
    Quantity("total_spin", "input", "frame", (), "unpaired electrons", default=0.0),
    Quantity("charges", "input", "atom", (), "e"),
    Quantity("molecule_ids", "input", "atom", (), "integer, below 0 for none", default=-1.0, whole=True),
    Quantity("node_energy", "output", "atom", (), "eV", Prediction("node_energy", ase=("energies",))),
    Quantity(
        "partial_charges",
        "output",
        "atom",
        (),
        "e",
        Prediction("partial_charges", of_charges=True, written="charges", ase=("charges", "partial_charges")),
    ),
    Quantity(
        "partial_dipoles",
        "output",
        "atom",
        (3,),
        "e·Å",
        Prediction("partial_dipoles", of_charges=True, written="dipoles", ase=("partial_dipoles",)),
    ),
    Quantity("hessian", "output", "pair", (), "eV/Å²", Prediction("hessian", derived=True, ase=("hessian",))),
    _energy_part("energy_atomic"),
    _energy_part("energy_short_range"),
    _energy_part("energy_coulomb", of_charges=True),
    _energy_part("energy_field", of_charges=True),
)

QUANTITIES: Final[dict[str, Quantity]] = {row.name: row for row in _ROWS}
"""All rows by name. Their order is that of columns, panels and log lines."""


class _Rows(Mapping[str, Quantity]):
    """The rows of :data:`QUANTITIES` that a condition holds for, as the table is when they are looked at."""

    def __init__(self, holds: Callable[[Quantity], bool]) -> None:
        self._holds = holds

    def __getitem__(self, name: str) -> Quantity:
        row = QUANTITIES[name]
        if not self._holds(row):
            raise KeyError(name)
        return row

    def __iter__(self) -> Iterator[str]:
        return (name for name, row in QUANTITIES.items() if self._holds(row))

    def __len__(self) -> int:
        return sum(1 for _ in self)


PROPERTIES: Final = _Rows(lambda row: row.role != "output")
"""What a file can hold: labels and inputs."""

LABELS: Final = _Rows(lambda row: row.label)
"""Properties with targets and weights."""

OUTPUTS: Final = _Rows(lambda row: row.predicted is not None)
"""What models give, labels or not; see :func:`row_of_output` for a row by the output's own name."""


def measures() -> dict[str, tuple[Quantity, Measure]]:
    """Return everything errors are stated for by name, with the label it belongs to, in table order."""
    return {measure.name: (row, measure) for row in LABELS.values() for measure in row.measures}


def column_names() -> tuple[str, ...]:
    """Return the names of error columns: ``forces`` for those it usually has, ``forces:mae`` for one."""
    return tuple(
        name for measure in measures() for name in (measure, *(f"{measure}:{what}" for what in HEADINGS))
    )


def row_of_output(output: str) -> Quantity:
    """Return the row of a model's output; any ``energy_…`` is a part of the energy, one number per frame."""
    for row in OUTPUTS.values():
        if row.prediction.output == output:
            return row
    if output.startswith(ENERGY_PART):
        return _energy_part(output)
    raise LookupError(f"no row of lsf.recipe.quantities has the output {output!r}")


def outputs_of_charges() -> frozenset[str]:
    """Return the outputs that mean nothing for a model without charges."""
    return frozenset(row.prediction.output for row in OUTPUTS.values() if row.prediction.of_charges)


def differentiated_outputs() -> tuple[str, ...]:
    """Return the outputs that are derivatives: computed where they are asked for, all others always."""
    return tuple(row.prediction.output for row in OUTPUTS.values() if row.prediction.derived)


def info_properties() -> tuple[str, ...]:
    """Return what a head may map in ``info_keys``: properties of frames, and the frame's head itself."""
    return (*(name for name, row in PROPERTIES.items() if row.level == "frame"), "head")


def array_properties() -> tuple[str, ...]:
    """Return what a head may map in ``arrays_keys``: properties of atoms."""
    return tuple(name for name, row in PROPERTIES.items() if row.level == "atom")
