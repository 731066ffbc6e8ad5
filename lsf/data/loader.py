"""From a recipe to graphs: read, check, split, fit the atomic energies, build."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import numpy as np
import torch
from ase.data import chemical_symbols

from lsf.data import atomic_energies, checks
from lsf.data.frames import Frame
from lsf.data.graph import AtomGraph
from lsf.data.net_charge import net_charge_warnings
from lsf.data.readers.base import TITLE, LazyFrames, Reading, changed_frames, chosen_frames, shown_path
from lsf.data.readers.choose import checksum_of, read_file
from lsf.data.splits import Findings, Frames, build_splits, formal_charge_rule, lazy_splits
from lsf.data.statistics import DataFacts, SplitCounts, Summary, provenance_of
from lsf.data.survey_cache import Known, SurveyCache
from lsf.errors import DataError, Problem

if TYPE_CHECKING:
    from lsf.recipe.schema import Recipe

TRAIN: Final = "train"
VALID: Final = "valid"

PORTION: Final = 256
"""Lazy frames that are checked together."""


@attrs.frozen(eq=False)
class DataSplits:
    """Everything a training run needs to know about its data."""

    train: Sequence[AtomGraph]
    valid: Sequence[AtomGraph]
    tests: dict[str, Sequence[AtomGraph]]
    facts: DataFacts
    counts: tuple[SplitCounts, ...]


def load_data(recipe: Recipe, log: logging.Logger) -> DataSplits:
    """Return the graphs of all splits and the facts a model is built from.

    The same recipe and files give the same splits, in the same order. Raises
    :class:`lsf.errors.DataError` with every problem of every file; warnings go to ``log``.
    """
    findings = Findings()
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
    cache = SurveyCache.of(recipe, paths, frames)
    known = cache.read()
    places = _isolated_atoms(frames[TRAIN]) if known is None else known.isolated
    isolated = list(chosen_frames(frames[TRAIN], places))
    if not recipe.data.keep_isolated_atoms:
        others = np.delete(np.arange(len(frames[TRAIN])), places)
        frames[TRAIN] = chosen_frames(frames[TRAIN], others)
    _split_off_validation(recipe, frames)
    if not frames[TRAIN]:
        expected = "at least one frame left for training"
        found = "none after isolated atoms and validation frames were taken out"
        findings.problems.append(Problem(readings[TRAIN].source, "train", found, expected))
        findings.stop_if_any(log)
    if known is None:
        energies = _check(recipe, frames, isolated, findings)
        graphs, summaries = build_splits(recipe, frames, energies, findings, log)
        boxed = _count_boxed(frames)
    else:
        log.info("checks and statistics of the frames are those of %s", cache.path)
        findings.warnings += [item for item in known.warnings if item not in findings.warnings]
        energies, summaries, boxed = known.energies, known.summaries, known.boxed
        graphs = lazy_splits(recipe, frames, summaries)
    findings.stop_if_any(log)
    if known is None and all(len(graphs[split]) == len(frames[split]) for split in frames):
        cache.write(Known(energies, summaries, boxed, list(places), findings.warnings))
    counts = tuple(summary.counts for summary in summaries.values())
    facts = _facts(paths, summaries[TRAIN], counts, energies, recipe.data.reader)
    _report(recipe, boxed, facts, log)
    tests = {split: graphs[split] for split in graphs if split not in (TRAIN, VALID)}
    return DataSplits(graphs[TRAIN], graphs[VALID], tests, facts, counts)


def _isolated_atoms(frames: Sequence[Frame]) -> list[int]:
    """Return the places of the free atoms among the training frames."""
    return [place for place, frame in enumerate(frames) if atomic_energies.is_isolated_atom(frame)]


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


def _read(recipe: Recipe, paths: Mapping[str, str], findings: Findings) -> dict[str, Reading]:
    readings = {
        split: read_file(path, recipe.heads, recipe.data.config_type_weights, recipe.data.reader)
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


def _check(recipe: Recipe, frames: Frames, isolated: Sequence[Frame], findings: Findings) -> dict[int, float]:
    """Run the checks that need no graph, and return the atomic energies."""
    limits = recipe.data.checks
    rule = formal_charge_rule(recipe)
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
    if not isinstance(frames, LazyFrames):
        return [frames]
    return (list(frames[start : start + PORTION]) for start in range(0, len(frames), PORTION))


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


def _facts(
    paths: Mapping[str, str],
    train: Summary,
    counts: Sequence[SplitCounts],
    energies: Mapping[int, float],
    reader: str,
) -> DataFacts:
    checksums = {path: checksum_of(path, reader) for path in paths.values()}
    files = {count.split: paths.get(count.split, paths[TRAIN]) for count in counts}
    return DataFacts(
        species=tuple(sorted(energies)),
        atomic_energies=dict(energies),
        avg_num_neighbors=train.average_neighbors,
        **attrs.asdict(train.scales),
        n_frames={count.split: count.frames for count in counts},
        provenance={
            count.split: provenance_of(Path(files[count.split]).name, checksums[files[count.split]], count)
            for count in counts
        },
    )


def _count_boxed(frames: Frames) -> int:
    """Return the number of frames without a cell, which methods that use a box sum without one."""
    return sum(
        not frame.pbc.any() and not frame.cell.any()
        for split_frames in frames.values()
        for frame in split_frames
    )


def _report(recipe: Recipe, boxed: int, facts: DataFacts, log: logging.Logger) -> None:
    listed = ", ".join(f"{chemical_symbols[n]} {energy:.4f}" for n, energy in facts.atomic_energies.items())
    log.info("atomic energies [eV]: %s", listed)
    log.info("neighbours per atom within the cutoff, on average: %.2f", facts.avg_num_neighbors)
    if recipe.electrostatics.boundary not in ("molecule_in_box", "mixed_periodic"):
        return
    if boxed:
        log.info(
            "%d non-periodic frames without a cell are summed in open space, not in a box",
            boxed,
        )
