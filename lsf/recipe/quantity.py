"""What a row of the table of quantities says, see :mod:`lsf.recipe.quantities`."""

from __future__ import annotations

from typing import Final, Literal

import attrs

Level = Literal["frame", "atom", "pair"]
"""What there is one value of: a frame, an atom, a pair of coordinates (one matrix for a whole frame)."""

Role = Literal["label", "input", "output"]
"""A label is trained on and carries a weight; an input is read; an output is only predicted."""

Statistic = Literal["rmse", "mae", "relative_rmse", "max_abs"]

HEADINGS: Final[dict[Statistic, str]] = {
    "rmse": "RMSE {}",
    "mae": "MAE {}",
    "relative_rmse": "rel {}",
    "max_abs": "max |Δ{}|",
}
"""Heading of a statistic's column, around the symbol of what it is about."""


@attrs.frozen
class Measure:
    """Something errors are stated for: a label, or a part of it, in total or per atom.

    Its ``name`` stands in ``metrics.jsonl`` and in ``training.error_table``, ``symbol`` in headings.
    ``unit`` is that of stored numbers; they are shown in a thousandth of it, or in itself where
    ``thousandths`` is false. ``degree`` takes the multipoles of one l out of a density.
    """

    name: str
    symbol: str
    unit: str
    per_atom: bool = False
    degree: int | None = None
    thousandths: bool = True
    automatic: tuple[Statistic, ...] = ()
    """Columns of the error table "auto"."""
    statistics: tuple[Statistic, ...] = ("rmse",)
    """Columns where a recipe names the measure alone."""
    panel: str = ""
    """Title of its panel in parity plots; "" for none."""
    in_progress: bool = False
    """Whether epoch lines show it."""

    @property
    def columns(self) -> slice:
        """Entries of a row of the label: all, or the 2l + 1 multipoles of a degree."""
        return slice(None) if self.degree is None else slice(self.degree**2, (self.degree + 1) ** 2)

    @property
    def shown_unit(self) -> str:
        """Unit of printed numbers."""
        return f"m{self.unit}" if self.thousandths else self.unit

    @property
    def factor(self) -> float:
        """Printed by stored number."""
        return 1e3 if self.thousandths else 1.0


@attrs.frozen
class Prediction:
    """Where a quantity stands in a model's outputs, and who shows it there."""

    output: str
    """Its name among the outputs, see :func:`lsf.models.derivatives.evaluate`."""
    derived: bool = False
    """Whether it is a derivative, which is computed only where it is asked for."""
    of_charges: bool = False
    """Whether it means something only for models with charges."""
    written: str = ""
    """Its name in files that ``lsf eval`` writes, after the prefix; "" for what these lack."""
    costly: bool = False
    """Whether files have it only where it is compared with a label, since it takes long."""
    ase: tuple[str, ...] = ()
    """Its names among the results of the ASE calculator."""

    @property
    def compute(self) -> frozenset[str]:
        """What has to be differentiated for it."""
        return frozenset({self.output}) if self.derived else frozenset()


@attrs.frozen
class Quantity:
    """One quantity of a frame or of its atoms: a row of the table.

    ``name`` is that of recipes. ``shape`` is that of one frame or one atom; an entry of -1 is fixed by the
    model's highest multipole. Errors of a label are stated for its ``measures``. Of an input, ``default`` is
    used where the mapped key is absent; ``default = None`` means absence is an error for models that need
    it. ``whole`` values count something and have no fractions.
    """

    name: str
    role: Role
    level: Level
    shape: tuple[int, ...]
    unit: str
    predicted: Prediction | None = None
    measures: tuple[Measure, ...] = ()
    default: float | None = None
    whole: bool = False

    @property
    def label(self) -> bool:
        """Whether it is trained on."""
        return self.role == "label"

    @property
    def prediction(self) -> Prediction:
        """How a label or an output is predicted; an input is not."""
        if self.predicted is None:
            raise LookupError(f"{self.name} is an input: no output of a model is that")
        return self.predicted
