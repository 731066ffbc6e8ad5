"""The graphs of all splits, and what one pass over them finds."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from lsf.data import checks
from lsf.data.build import boundary_problem, build_graph, share_lists
from lsf.data.charges import FormalCharges, charges_of
from lsf.data.frames import Frame
from lsf.data.graph import AtomGraph
from lsf.data.lazy import LazyGraphs
from lsf.data.potentials import add_reference_potentials, trains_on_potentials
from lsf.data.readers.base import TITLE, LazyFrames, limited
from lsf.data.statistics import Summary, Survey
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import BoundaryError, DataError, Problem

if TYPE_CHECKING:
    from lsf.recipe.schema import Recipe

Frames = dict[str, Sequence[Frame]]
"""Frames by split."""


@attrs.define
class Findings:
    """Problems and warnings collected on the way; problems are raised once, at the end."""

    problems: list[Problem] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)
    told: int = 0
    """Number of warnings that were logged."""
    unread: bool = False
    """Whether frames of a file could not be read; what follows from that alone is no problem of its own."""

    def stop_if_any(self, log: logging.Logger) -> None:
        """Log the warnings; raise DataError where there are problems."""
        for warning in self.warnings[self.told :]:
            log.warning("%s", warning)
        self.told = len(self.warnings)
        if self.problems:
            raise DataError(TITLE, limited(self.problems))


def formal_charge_rule(recipe: Recipe) -> FormalCharges:
    """Return the model's rule for formal charges; None for models without them."""
    options = recipe.model.options
    if "formal_charges" not in attrs.fields_dict(type(options)):
        return None
    rule: FormalCharges = options.formal_charges
    return rule


@attrs.frozen
class Builder:
    """Builds the graphs of frames that have passed the checks."""

    rule: FormalCharges
    r_max: float
    settings: Electrostatics
    with_potentials: bool

    @classmethod
    def of(cls, recipe: Recipe) -> Builder:
        """Return the builder of a recipe's graphs."""
        r_max: float = recipe.model.options.r_max
        return cls(formal_charge_rule(recipe), r_max, recipe.electrostatics, trains_on_potentials(recipe))

    def __call__(self, frame: Frame) -> AtomGraph:
        """Return the graph; BoundaryError where the boundary method cannot treat the frame."""
        charges, _ = charges_of(frame.numbers, frame.values, self.rule)
        graph = build_graph(frame, self.r_max, self.settings, charges)
        if self.with_potentials:
            add_reference_potentials([graph], self.settings)
        return graph


def build_splits(
    recipe: Recipe, frames: Frames, energies: Mapping[int, float], findings: Findings, log: logging.Logger
) -> tuple[dict[str, Sequence[AtomGraph]], dict[str, Summary]]:
    """Return graphs and summary by split; frames that cannot have a graph become problems, or are left out.

    Graphs of lazy frames are built once for the survey, and again whenever they are asked for.
    """
    build = Builder.of(recipe)
    limits = recipe.data.checks
    graphs: dict[str, Sequence[AtomGraph]] = {}
    summaries: dict[str, Summary] = {}
    for split, split_frames in frames.items():
        stored = isinstance(split_frames, LazyFrames)
        survey, kept, built = Survey(energies), array("q"), []
        dropped = derived = 0
        for place, frame in enumerate(split_frames):
            broken = checks.structure_problems(frame, limits)
            findings.problems += broken
            if broken:
                continue
            try:
                graph = build(frame)
            except BoundaryError as error:
                dropped += 1
                if not limits.drop_unsupported_frames:
                    findings.problems.append(boundary_problem(frame, error))
                continue
            survey.add(graph)
            derived += build.with_potentials and _is_derived(frame, graph)
            kept.append(place)
            if not stored:
                built.append(graph)
        _tell_dropped(split, split_frames, dropped, recipe, findings)
        if derived:
            log.info(
                "%s: potentials at atoms of %d frames follow from their atomic_multipoles", split, derived
            )
        share_lists(built)
        graphs[split] = built
        summaries[split] = survey.summary(split)
        if isinstance(split_frames, LazyFrames):
            graphs[split] = LazyGraphs(split_frames.select(kept), build, summaries[split])
    return graphs, summaries


def _is_derived(frame: Frame, graph: AtomGraph) -> bool:
    """Tell whether a graph has a potential that its frame does not state."""
    stated = float(frame.weights["electrostatic_potentials"]) > 0.0
    return not stated and bool((graph.weight_electrostatic_potentials > 0.0).any())


def _tell_dropped(
    split: str, frames: Sequence[Frame], dropped: int, recipe: Recipe, findings: Findings
) -> None:
    if not dropped or not recipe.data.checks.drop_unsupported_frames:
        return
    findings.warnings.append(
        f"{split}: {dropped} of {len(frames)} frames left out, which boundary "
        f"{recipe.electrostatics.boundary!r} cannot treat"
    )
    if dropped == len(frames):
        expected = "at least one frame the boundary method can treat"
        findings.problems.append(Problem(frames[0].source, split, "none", expected))


def lazy_splits(
    recipe: Recipe, frames: Frames, summaries: Mapping[str, Summary]
) -> dict[str, Sequence[AtomGraph]]:
    """Return the graphs of lazy frames whose summaries are known."""
    build = Builder.of(recipe)
    return {
        split: LazyGraphs(split_frames, build, summaries[split])
        for split, split_frames in frames.items()
        if isinstance(split_frames, LazyFrames)
    }
