"""What a model demands of its input beyond what a graph can hold."""

from __future__ import annotations

from collections.abc import Sequence

from lsf.data.graph import AtomGraph
from lsf.errors import DataError, Problem
from lsf.models.backbone_options import BackboneOptions
from lsf.models.options import LocalSplitChargesOptions

SHOWN = 5


def check_charge_range(options: BackboneOptions, graphs: Sequence[AtomGraph]) -> None:
    """Refuse formal charges the oxidation embedding does not cover.

    Beyond its range the embedding's polynomials grow without bound. Raises
    :class:`lsf.errors.DataError` naming the first frames.
    """
    if not isinstance(options, LocalSplitChargesOptions):
        return
    low, high = options.oxidation_range
    problems = []
    for graph in graphs:
        smallest, largest = float(graph.formal_charges.min()), float(graph.formal_charges.max())
        if smallest < low or largest > high:
            problems.append(
                Problem(
                    f"frame {int(graph.frame_index)} ({graph.config_type})",
                    "formal_charges",
                    f"charges from {smallest:g} to {largest:g} e",
                    f"charges from {low:g} to {high:g} e (model.oxidation_range)",
                )
            )
    if problems:
        raise DataError(f"{len(problems)} frames have formal charges out of range", problems[:SHOWN])
