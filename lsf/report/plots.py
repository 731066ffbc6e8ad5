"""Pictures of a run: loss curves and parity plots, drawn from plain arrays into PNG files.

Figures are made without pyplot, so nothing global is touched and no display is needed. Colours are
those of Okabe and Ito, which colour-blind readers can tell apart (doi:10.1038/nmeth.1618).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from lsf.machine.files import replacing

Array = NDArray[np.float64]

BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREEN: Final = "#009E73"
GREY: Final = "#6B6B6B"
RESOLUTION: Final = 130
"""Dots per inch of the PNG files."""


@attrs.frozen(eq=False)
class Panel:
    """What one panel of a parity plot shows: numbers in ``unit``, and their errors in ``fine_unit``.

    ``factor`` is the number of fine units in a unit. References and predictions have one shape; an entry
    that is NaN in either is not shown.
    """

    title: str
    unit: str
    fine_unit: str
    factor: float
    reference: Array
    predicted: Array

    def labelled(self) -> Panel:
        """Return the panel with flat arrays, without the entries that are not finite."""
        reference, predicted = (
            np.asarray(values, dtype=np.float64).ravel() for values in (self.reference, self.predicted)
        )
        if reference.shape != predicted.shape:
            raise ValueError(f"reference has {reference.size} entries, prediction {predicted.size}")
        kept = np.isfinite(reference) & np.isfinite(predicted)
        return attrs.evolve(self, reference=reference[kept], predicted=predicted[kept])


HISTORY_ERRORS: Final[dict[str, tuple[str, str]]] = {
    "rmse_energy_per_atom": ("energy [meV/atom]", BLUE),
    "rmse_forces": ("forces [meV/Å]", ORANGE),
    "rmse_dipole": ("dipole [me·Å]", GREEN),
}
"""Errors of an epoch record (in eV, Å and e) that are drawn, with their label and colour."""


def parity_figure(panels: Sequence[Panel], title: str) -> Figure | None:
    """Return the panels that have anything to show: prediction against reference, and below it the error.

    The strip with the errors shows what the diagonal hides when a property spans a wide range. None
    when no panel has a labelled entry.
    """
    shown = [panel for panel in (panel.labelled() for panel in panels) if panel.reference.size]
    if not shown:
        return None
    n_columns = min(3, len(shown))
    n_rows = math.ceil(len(shown) / n_columns)
    figure = Figure(figsize=(3.7 * n_columns, 4.4 * n_rows + 0.3), layout="constrained")
    grid = figure.add_gridspec(n_rows, n_columns)
    for place, panel in enumerate(shown):
        _parity_panel(figure, grid[divmod(place, n_columns)], panel)
    figure.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
    return figure


def _parity_panel(figure: Figure, place: SubplotSpec, panel: Panel) -> None:
    reference, predicted = panel.reference, panel.predicted
    error = panel.factor * (predicted - reference)
    rmse = float(np.sqrt(np.mean(error**2)))
    inner = place.subgridspec(2, 1, height_ratios=(3.2, 1.0), hspace=0.04)
    upper = figure.add_subplot(inner[0])
    lower = figure.add_subplot(inner[1], sharex=upper)

    low, high = float(min(reference.min(), predicted.min())), float(max(reference.max(), predicted.max()))
    # a range of rounding errors only (an exact total charge) is not blown up to fill the panel
    margin = max(0.05 * (high - low), 1e-3 * max(abs(low), abs(high)), 1e-6)
    limits = (low - margin, high + margin)
    size, opacity = _marker(reference.size)
    upper.plot(limits, limits, color=GREY, linewidth=0.8, zorder=1)
    upper.scatter(reference, predicted, s=size, color=BLUE, alpha=opacity, linewidths=0, zorder=2)
    upper.set(xlim=limits, ylim=limits, ylabel=_with_unit("model", panel.unit))
    upper.tick_params(labelbottom=False)
    counted = f"{reference.size} value" + ("s" if reference.size != 1 else "")
    upper.set_title(f"{panel.title}\nRMSE {rmse:.3g} {panel.fine_unit}  ({counted})", fontsize=9)

    widest = max(1.1 * float(np.abs(error).max()), 1e-6)
    lower.axhline(0.0, color=GREY, linewidth=0.8, zorder=1)
    lower.scatter(reference, error, s=size, color=ORANGE, alpha=opacity, linewidths=0, zorder=2)
    lower.set(ylim=(-widest, widest), xlabel=_with_unit("reference", panel.unit))
    lower.set_ylabel(_with_unit("error", panel.fine_unit))
    for axes in (upper, lower):
        _plain(axes)
    upper.xaxis.set_major_locator(MaxNLocator(5))
    upper.yaxis.set_major_locator(MaxNLocator(5))
    lower.yaxis.set_major_locator(MaxNLocator(3, symmetric=True))


def loss_figure(history: Sequence[Mapping[str, Any]], title: str) -> Figure | None:
    """Return the losses and, below them, the validation errors of every epoch on logarithmic axes.

    ``history`` holds one record per evaluated epoch: ``epoch`` (counted over all stages), ``stage``,
    ``train_loss``, ``valid_loss`` and the entries of :data:`HISTORY_ERRORS`; missing ones are left out.
    None when there is nothing to draw.
    """
    losses = {
        "training": (_series(history, "train_loss"), BLUE),
        "validation": (_series(history, "valid_loss"), ORANGE),
    }
    errors = {label: (_series(history, key, 1e3), color) for key, (label, color) in HISTORY_ERRORS.items()}
    panels = [
        (name, {label: curve for label, curve in curves.items() if curve[0][0].size})
        for name, curves in (("loss", losses), ("validation RMSE", errors))
    ]
    panels = [(name, curves) for name, curves in panels if curves]
    if not panels:
        return None
    starts = _stage_starts(history)
    figure = Figure(figsize=(8.4, 2.8 * len(panels) + 0.6), layout="constrained")
    all_axes: list[Axes] = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
    for axes, (name, curves) in zip(all_axes, panels, strict=True):
        for label, ((epochs, values), color) in curves.items():
            marker = "o" if epochs.size < 40 else None
            if name == "loss":
                # every stage has a loss of its own: the numbers on both sides do not belong together
                epochs, values = _apart(epochs, values, starts)
            axes.plot(epochs, values, color=color, label=label, linewidth=1.4, marker=marker, markersize=3)
        _logarithmic(axes)
        axes.set_ylabel(name)
        # beside the axes, where no curve can run behind it
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        _plain(axes)
        axes.grid(axis="y", which="major", color="#DDDDDD", linewidth=0.6)
    all_axes[-1].set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
    _mark_stages(all_axes, starts)
    all_axes[-1].set_xlabel("epoch")
    all_axes[-1].xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))
    figure.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
    return figure


def _logarithmic(axes: Axes) -> None:
    """Give the axis of values a logarithmic scale with plain numbers, also where it spans no decade."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # 1, 2 and 5 of every decade leave a narrow axis without any number, and crowd a wide one
    narrow, wide = high < 8.0 * low, high > 1.0e4 * low
    axes.yaxis.set_major_locator(
        MaxNLocator(4) if narrow else LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0))
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _series(history: Sequence[Mapping[str, Any]], key: str, factor: float = 1.0) -> tuple[Array, Array]:
    """Return epochs and values of one entry, where it is there, finite and above zero (the axis is log)."""
    points = [
        (record["epoch"], factor * record[key])
        for record in history
        if record.get(key) is not None and math.isfinite(record[key]) and record[key] > 0.0
    ]
    columns = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


def _stage_starts(history: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """Return where each stage begins, half an epoch before its first one, and its name."""
    return [
        (record["epoch"] - 0.5, str(record["stage"]))
        for before, record in zip([None, *history], history, strict=False)
        if before is None or before["stage"] != record["stage"]
    ]


def _apart(epochs: Array, values: Array, starts: Sequence[tuple[float, str]]) -> tuple[Array, Array]:
    """Return a curve with a gap where each stage but the first begins."""
    gaps = np.array([start for start, _ in starts[1:]])
    places = np.searchsorted(epochs, gaps)
    return np.insert(epochs, places, gaps), np.insert(values, places, np.nan)


def _mark_stages(all_axes: Sequence[Axes], starts: Sequence[tuple[float, str]]) -> None:
    """Draw a line where a stage begins and write its name at the top of the first panel."""
    for position, (left, name) in enumerate(starts):
        if position:
            for axes in all_axes:
                axes.axvline(left, color=GREY, linewidth=0.9, linestyle="--", zorder=0)
        all_axes[0].annotate(
            name,
            xy=(left, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=9,
            color=GREY,
            parse_math=False,
        )


def _marker(count: int) -> tuple[float, float]:
    """Return area and opacity of the points: many points are small and faint."""
    if count <= 100:
        return 18.0, 0.8
    return (9.0, 0.5) if count <= 2000 else (4.0, 0.25)


def _with_unit(text: str, unit: str) -> str:
    return f"{text} [{unit}]" if unit else text


def _plain(axes: Axes) -> None:
    """Make the axes quiet: no upper and right line, small labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG and return its path."""
    path = Path(path)
    with replacing(path) as temporary:
        # no metadata: the same numbers give the same file, whatever version of matplotlib drew it
        figure.savefig(temporary, dpi=RESOLUTION, metadata={"Software": None}, facecolor="white")
    return path
