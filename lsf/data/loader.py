"""From a recipe to graphs: read, check, split, fit the atomic energies, build."""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import torch
from ase.data import chemical_symbols

from lsf.data import atomic_energies, checks
from lsf.data.build import boundary_problem, build_graph, share_lists
from lsf.data.charges import FormalCharges, charges_of
from lsf.data.frames import Frame
from lsf.data.graph import AtomGraph
from lsf.data.lazy import LazyGraphs
from lsf.data.net_charge import net_charge_warnings
from lsf.data.potentials import add_reference_potentials, trains_on_potentials
from lsf.data.read import TITLE, Reading, limited, read_file, shown_path
from lsf.data.shard_frames import ShardFrames, changed_frames, chosen_frames, read_shards
from lsf.data.shards import INDEX, is_shard_folder
from lsf.data.statistics import DataFacts, SplitCounts, Survey, provenance_of
from lsf.electrostatics.boundary import Electrostatics
from lsf.errors import BoundaryError, DataError, Problem

if TYPE_CHECKING:
    from lsf.recipe import Recipe

TRAIN: Final = "train"
VALID: Final = "valid"

PORTION: Final = 256
"""Frames of shards that are checked together."""

Frames = dict[str, Sequence[Frame]]
"""Frames by split."""


@attrs.frozen(eq=False)
class DataSplits:
    """Everything a training run needs to know about its data."""

    train: Sequence[AtomGraph]
    valid: Sequence[AtomGraph]
    tests: dict[str, Sequence[AtomGraph]]
    facts: DataFacts
    counts: tuple[SplitCounts, ...]


@attrs.define
class _Findings:
    """Problems and warnings collected on the way; problems are raised once, at the end."""

    problems: list[Problem] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)
    unread: bool = False
    """Whether frames of a file could not be read; what follows from that alone is no problem of its own."""

    def stop_if_any(self, log: logging.Logger) -> None:
        for warning in self.warnings:
            log.warning("%s", warning)
        self.warnings.clear()
        if self.problems:
            raise DataError(TITLE, limited(self.problems))


def load_data(recipe: Recipe, log: logging.Logger) -> DataSplits:
    """Return the graphs of all splits and the facts a model is built from.

    The same recipe and files give the same splits, in the same order. Raises
    :class:`lsf.errors.DataError` with every problem of every file; warnings go to ``log``.
    """
    findings = _Findings()
    paths = _paths(recipe)
    readings = _read(recipe, paths, findings)
    frames: Frames = {
        split: changed_frames(
            reading.frames, partial(checks.tolerated, checks=recipe.data.checks, max_l=_max_l(recipe))
        )
        for split, reading in readings.items()
    }
    if not frames[TRAIN]:
        findings.stop_if_any(log)
    isolated = _isolated_atoms(recipe, frames)
    _split_off_validation(recipe, frames)
    if not frames[TRAIN]:
        expected = "at least one frame left for training"
        found = "none after isolated atoms and validation frames were taken out"
        findings.problems.append(Problem(readings[TRAIN].source, "train", found, expected))
        findings.stop_if_any(log)
    energies = _check(recipe, frames, isolated, findings)
    graphs, surveys = _build(recipe, frames, energies, findings, log)
    findings.stop_if_any(log)
    counts = tuple(survey.counts(split) for split, survey in surveys.items())
    facts = _facts(paths, surveys[TRAIN], counts, energies)
    _report(recipe, frames, facts, log)
    tests = {split: graphs[split] for split in graphs if split not in (TRAIN, VALID)}
    return DataSplits(graphs[TRAIN], graphs[VALID], tests, facts, counts)


def _isolated_atoms(recipe: Recipe, frames: Frames) -> list[Frame]:
    """Return the free atoms among the training frames; take them out where they are not to be trained on."""
    isolated, others = [], array("q")
    for place, frame in enumerate(frames[TRAIN]):
        if atomic_energies.is_isolated_atom(frame):
            isolated.append(frame)
        else:
            others.append(place)
    if isolated and not recipe.data.keep_isolated_atoms:
        frames[TRAIN] = chosen_frames(frames[TRAIN], others)
    return isolated


def _max_l(recipe: Recipe) -> int:
    return recipe.electrostatics.multipoles_max_l


def _paths(recipe: Recipe) -> dict[str, str]:
    """Return the file of every split; validation frames drawn from the training file have none."""
    data = recipe.data
    tests = {"test": data.test} if isinstance(data.test, str) else dict(data.test or {})
    reserved = sorted({TRAIN, VALID} & set(tests))
    if reserved:
        problem = Problem(
            "recipe", f"data.test.{reserved[0]}", repr(reserved[0]), "another name for a test set"
        )
        raise DataError(TITLE, [problem])
    valid = {} if data.valid is None else {VALID: data.valid}
    return {TRAIN: data.train, **valid, **tests}


def _read(recipe: Recipe, paths: Mapping[str, str], findings: _Findings) -> dict[str, Reading]:
    readings = {
        split: (read_shards if is_shard_folder(path) else read_file)(
            path, recipe.heads, recipe.data.config_type_weights
        )
        for split, path in paths.items()
    }
    for split, reading in readings.items():
        findings.problems += reading.problems
        findings.unread |= bool(reading.problems)
        if split == TRAIN:
            findings.problems += reading.absent
        else:
            findings.warnings += [f"{item.where}: {item.key}: {item.found}" for item in reading.absent]
        findings.warnings += [
            f"{reading.source}: {key} is no weight lsf knows and has no effect"
            for key in reading.unknown_weights
        ]
    used = set(readings[TRAIN].heads)
    if used:
        findings.problems += [
            Problem(
                readings[TRAIN].source,
                f"heads.{name}",
                "no frame of this head",
                "at least one",
                "drop the head",
            )
            for name in recipe.heads
            if name not in used
        ]
    return readings


def _split_off_validation(recipe: Recipe, frames: Frames) -> None:
    """Move the share of the training frames that the recipe asks for into the validation split."""
    fraction = recipe.data.valid_fraction
    if fraction is None:
        return
    everything = frames[TRAIN]
    n_valid = max(1, round(fraction * len(everything)))
    seed = recipe.seed if recipe.data.valid_seed is None else recipe.data.valid_seed
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(len(everything), dtype=torch.bool)
    drawn[torch.randperm(len(everything), generator=generator)[:n_valid]] = True
    tests = {split: frames.pop(split) for split in list(frames) if split != TRAIN}
    frames[TRAIN] = chosen_frames(everything, torch.nonzero(~drawn)[:, 0].numpy())
    frames[VALID] = chosen_frames(everything, torch.nonzero(drawn)[:, 0].numpy())
    frames.update(tests)


def _check(
    recipe: Recipe, frames: Frames, isolated: Sequence[Frame], findings: _Findings
) -> dict[int, float]:
    """Run the checks that need no graph, and return the atomic energies."""
    limits = recipe.data.checks
    rule = _formal_charge_rule(recipe)
    for split, split_frames in frames.items():
        for portion in _portions(split_frames):
            findings.problems += checks.density_problems(portion, limits)
            findings.problems += checks.dipole_weight_problems(portion, limits)
            findings.problems += checks.charge_problems(portion, rule, limits)
            findings.problems += checks.label_problems(portion, _max_l(recipe), limits)
        findings.warnings += checks.dipole_warnings(split, split_frames)
        findings.warnings += net_charge_warnings(split, split_frames, rule, recipe.electrostatics)
    findings.problems += checks.duplicate_problems(frames, limits)
    species = sorted({number for frame in frames[TRAIN] for number in frame.numbers.tolist()})
    chosen = _atomic_energies(recipe, frames[TRAIN], isolated, species)
    if findings.unread:
        # what the readable frames lack, and energies fitted to them, say nothing about the rest of a file
        return chosen.energies
    for split, split_frames in frames.items():
        if split != TRAIN:
            findings.problems += checks.species_problems(split_frames, species)
    findings.problems += chosen.problems
    findings.warnings += chosen.warnings
    judged = chosen.energies
    if recipe.data.atomic_energies == "average":
        judged = atomic_energies.robust_energies(frames[TRAIN], species)
    if not chosen.problems:
        for split_frames in frames.values():
            findings.problems += checks.energy_problems(split_frames, judged, limits)
    return chosen.energies


def _portions(frames: Sequence[Frame]) -> Iterable[Sequence[Frame]]:
    """Return the frames in portions that may be in memory together."""
    if not isinstance(frames, ShardFrames):
        return [frames]
    return (frames[start : start + PORTION].read() for start in range(0, len(frames), PORTION))


def _atomic_energies(
    recipe: Recipe, train: Sequence[Frame], isolated: Sequence[Frame], species: Sequence[int]
) -> atomic_energies.AtomicEnergies:
    option = recipe.data.atomic_energies
    if not isinstance(option, str):
        return atomic_energies.given_energies(option, species, f"recipe {recipe.name}")
    if option == "average":
        return atomic_energies.average_energies(train, species)
    if option == "isolated":
        return atomic_energies.isolated_energies(isolated, species, shown_path(Path(recipe.data.train)))
    return atomic_energies.energies_from_file(Path(option), species)


def _formal_charge_rule(recipe: Recipe) -> FormalCharges:
    """Return the model's rule for formal charges; None for models without them."""
    options = recipe.model.options
    if "formal_charges" not in attrs.fields_dict(type(options)):
        return None
    rule: FormalCharges = options.formal_charges
    return rule


@attrs.frozen
class _Builder:
    """Builds the graphs of frames that have passed the checks."""

    rule: FormalCharges
    r_max: float
    settings: Electrostatics
    with_potentials: bool

    @classmethod
    def of(cls, recipe: Recipe) -> _Builder:
        """Return the builder of a recipe's graphs."""
        r_max: float = recipe.model.options.r_max
        return cls(_formal_charge_rule(recipe), r_max, recipe.electrostatics, trains_on_potentials(recipe))

    def __call__(self, frame: Frame) -> AtomGraph:
        """Return the graph; BoundaryError where the boundary method cannot treat the frame."""
        charges, _ = charges_of(frame.numbers, frame.values, self.rule)
        graph = build_graph(frame, self.r_max, self.settings, charges)
        if self.with_potentials:
            add_reference_potentials([graph], self.settings)
        return graph


def _build(
    recipe: Recipe, frames: Frames, energies: Mapping[int, float], findings: _Findings, log: logging.Logger
) -> tuple[dict[str, Sequence[AtomGraph]], dict[str, Survey]]:
    """Return graphs and survey by split; frames that cannot have a graph become problems, or are left out.

    Graphs of frames in shards are built once for the survey, and again whenever they are asked for.
    """
    build = _Builder.of(recipe)
    limits = recipe.data.checks
    graphs: dict[str, Sequence[AtomGraph]] = {}
    surveys = {split: Survey(energies) for split in frames}
    for split, split_frames in frames.items():
        stored = isinstance(split_frames, ShardFrames)
        survey, kept, built = surveys[split], array("q"), []
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
        if isinstance(split_frames, ShardFrames):
            graphs[split] = LazyGraphs(split_frames.select(kept), build, survey)
    return graphs, surveys


def _is_derived(frame: Frame, graph: AtomGraph) -> bool:
    """Tell whether a graph has a potential that its frame does not state."""
    stated = float(frame.weights["electrostatic_potentials"]) > 0.0
    return not stated and bool((graph.weight_electrostatic_potentials > 0.0).any())


def _tell_dropped(
    split: str, frames: Sequence[Frame], dropped: int, recipe: Recipe, findings: _Findings
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


def _facts(
    paths: Mapping[str, str],
    train: Survey,
    counts: Sequence[SplitCounts],
    energies: Mapping[int, float],
) -> DataFacts:
    # the index of a folder of shards holds the checksums of all its files
    contents = {path: Path(path) / INDEX if is_shard_folder(path) else Path(path) for path in paths.values()}
    checksums = {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in contents.items()}
    files = {count.split: paths.get(count.split, paths[TRAIN]) for count in counts}
    return DataFacts(
        species=tuple(sorted(energies)),
        atomic_energies=dict(energies),
        avg_num_neighbors=train.average_neighbors(),
        **attrs.asdict(train.label_scales()),
        n_frames={count.split: count.frames for count in counts},
        provenance={
            count.split: provenance_of(Path(files[count.split]).name, checksums[files[count.split]], count)
            for count in counts
        },
    )


def _report(recipe: Recipe, frames: Frames, facts: DataFacts, log: logging.Logger) -> None:
    listed = ", ".join(f"{chemical_symbols[n]} {energy:.4f}" for n, energy in facts.atomic_energies.items())
    log.info("atomic energies [eV]: %s", listed)
    log.info("neighbours per atom within the cutoff, on average: %.2f", facts.avg_num_neighbors)
    if recipe.electrostatics.boundary not in ("molecule_in_box", "mixed_periodic"):
        return
    boxed = sum(
        not frame.pbc.any() and not frame.cell.any()
        for split_frames in frames.values()
        for frame in split_frames
    )
    if boxed:
        log.info(
            "%d non-periodic frames without a cell are summed in a cubic box of at least 30 Å and their "
            "extent + 20 Å",
            boxed,
        )
