"""Pictures of potentials: cuts along lines, slices, planar averages; drawn from plain arrays.

The colours of Okabe and Ito as in :mod:`lsf.report.plots`; slices in PuOr, a diverging map that
colour-blind readers can read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lsf.report.plots import BLUE, GREEN, GREY, ORANGE

Array = NDArray[np.float64]

CURVES: Final = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00")
DIVERGING: Final = "PuOr_r"
N_LEVELS: Final = 21


@attrs.frozen(eq=False)
class LineCut:
    """Potential and field along a straight line."""

    name: str
    distance: Array  # (n,) Å from the line's start
    potential: Array  # (n,) V
    field: Array  # (n,) V/Å, component of the electric field along the line


@attrs.frozen(eq=False)
class Slice:
    """Potential on a plane."""

    name: str
    axes: tuple[str, str]  # labels of the two directions
    x: Array  # (n, m) Å, coordinates in the plane
    y: Array  # (n, m) Å
    potential: Array  # (n, m) V
    atoms: Array  # (n_near, 2) Å, atoms close to the plane
    symbols: tuple[str, ...]


@attrs.frozen(eq=False)
class Profile:
    """Planar averages along one normal."""

    name: str
    height: Array  # (n,) Å
    potential: Array  # (n,) V
    density: Array  # (n,) e/Å^3


def line_figure(cuts: Sequence[LineCut], title: str) -> Figure:
    """Return the potentials along lines and, below them, the components of the field along them."""
    figure = Figure(figsize=(7.0, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for place, cut in enumerate(cuts):
        color = CURVES[place % len(CURVES)]
        style = ("-", "--")[place // len(CURVES) % 2]
        upper.plot(cut.distance, cut.potential, style, color=color, linewidth=1.5, label=cut.name)
        lower.plot(cut.distance, cut.field, style, color=color, linewidth=1.5)
    upper.set_ylabel("potential [V]")
    lower.set_ylabel("field along the line [V/Å]")
    lower.set_xlabel("distance [Å]")
    for axes in (upper, lower):
        axes.axhline(0.0, color=GREY, linewidth=0.6, zorder=0)
        _plain(axes)
    figure.legend(
        *upper.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def slice_figure(slices: Sequence[Slice], title: str) -> Figure:
    """Return one panel per plane, all in one scale; circles mark atoms close to the plane."""
    n_columns = min(3, len(slices))
    n_rows = -(-len(slices) // n_columns)
    shapes = [np.ptp(item.x) / np.ptp(item.y) for item in slices[:n_columns]]
    ratios = np.clip(shapes, 0.35, 2.0).tolist()
    size = (3.4 * sum(ratios) + 1.2 * n_columns + 0.8, 4.2 * n_rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False, width_ratios=ratios).ravel()
    lowest = min(float(item.potential.min()) for item in slices)
    highest = max(float(item.potential.max()) for item in slices)
    # around zero where zero is part of the picture: the colour then shows the sign
    centre = 0.0 if lowest < 0.0 < highest else 0.5 * (lowest + highest)
    reach = max(highest - centre, centre - lowest, 1.0e-6)
    levels = MaxNLocator(N_LEVELS, symmetric=centre == 0.0).tick_values(centre - reach, centre + reach)
    filled = None
    for axes, item in zip(panels, slices, strict=False):
        filled = axes.contourf(item.x, item.y, item.potential, levels=levels, cmap=DIVERGING, extend="both")
        axes.contour(item.x, item.y, item.potential, levels=levels, colors="black", linewidths=0.3)
        _mark_atoms(axes, item)
        axes.set_aspect("equal")
        axes.set_title(item.name, fontsize=9)
        axes.set(xlabel=f"{item.axes[0]} [Å]", ylabel=f"{item.axes[1]} [Å]")
        _plain(axes)
    for axes in panels[len(slices) :]:
        axes.set_axis_off()
    if filled is not None:
        bar = figure.colorbar(filled, ax=panels[: len(slices)].tolist(), shrink=0.85)
        bar.set_label("potential [V]", fontsize=9)
        bar.ax.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def _mark_atoms(axes: Axes, item: Slice) -> None:
    axes.set_xlim(float(item.x.min()), float(item.x.max()))
    axes.set_ylim(float(item.y.min()), float(item.y.max()))
    if not len(item.atoms):
        return
    axes.scatter(
        item.atoms[:, 0], item.atoms[:, 1], s=90, color="white", edgecolors="black", linewidths=0.8, zorder=3
    )
    for (x, y), symbol in zip(item.atoms, item.symbols, strict=True):
        axes.annotate(symbol, (x, y), ha="center", va="center", fontsize=6, zorder=4, annotation_clip=True)


def average_figure(profiles: Sequence[Profile], title: str) -> Figure:
    """Return one column per normal: planar average of the potential, and below it of the charge density."""
    figure = Figure(figsize=(4.2 * len(profiles) + 0.6, 5.0), layout="constrained")
    panels = figure.subplots(2, len(profiles), sharex="col", squeeze=False)
    for (upper, lower), profile in zip(panels.T, profiles, strict=True):
        upper.plot(profile.height, profile.potential, color=BLUE, linewidth=1.5)
        lower.plot(profile.height, profile.density, color=ORANGE, linewidth=1.5)
        upper.set_title(f"along the normal of {profile.name}", fontsize=9)
        upper.set_ylabel("mean potential [V]")
        lower.set_ylabel("mean density [e/Å³]")
        lower.set_xlabel("height [Å]")
        for axes in (upper, lower):
            axes.axhline(0.0, color=GREY, linewidth=0.6, zorder=0)
            _plain(axes)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    axes.xaxis.set_major_locator(MaxNLocator(6))
