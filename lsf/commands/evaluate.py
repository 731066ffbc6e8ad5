"""``lsf eval``: a model's predictions for the frames of a file, written beside what the file holds.

Errors are stated where the file has references, under the keys of the model's recipe or others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lsf.data.build import build_graphs
from lsf.data.checks import label_problems, species_problems, tolerated
from lsf.data.frames import Frame, atom_entries, frame_entries, frame_from_atoms
from lsf.data.graph import AtomGraph, collate
from lsf.data.readers.base import TITLE, Structures, limited
from lsf.data.readers.choose import read_structures, reader_of
from lsf.errors import DataError, LsfError, Problem, did_you_mean
from lsf.formats.model_file.file import LoadedModel, load_model
from lsf.machine.device import pick_device
from lsf.machine.files import replacing
from lsf.models.derivatives import evaluate
from lsf.models.inputs import check_charge_range
from lsf.recipe.catalog import catalog
from lsf.recipe.data_files import DataFile
from lsf.recipe.quantities import ENERGY_PART, OUTPUTS, outputs_of_charges, row_of_output
from lsf.recipe.schema import Checks, Head
from lsf.report.tables import rich_table
from lsf.train.objective.error_tables import build_error_table
from lsf.train.objective.labels import derived_outputs, labelled
from lsf.train.objective.metrics import ErrorSums, SplitMetrics

if TYPE_CHECKING:
    from ase import Atoms

_PREFIX: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def evaluate_file(
    model_path: str | Path,
    data_path: str | Path,
    out_path: str | Path | None = None,
    prefix: str = "lsf_",
    info_keys: Mapping[str, str] | None = None,
    arrays_keys: Mapping[str, str] | None = None,
    device: str = "auto",
    batch_size: int = 8,
    console: Console | None = None,
) -> SplitMetrics:
    """Evaluate a model on the frames of a file, write them labelled, and return and print the errors.

    Parameters
    ----------
    model_path : model file of lsf
    data_path : frames in any format of ``lsf list readers``, also a part of a file (``run.traj@::10``)
    out_path : where the labelled frames go, in the order of the file and with everything they had; None
        to compare only. What is added, and its names after ``prefix``, stand in
        :mod:`lsf.recipe.quantities`; stress only where a frame is fully periodic, charges only where the
        model has any. Units: see :mod:`lsf.units`.
    prefix : letters, digits and underscores
    info_keys, arrays_keys : key in the file by property, in place of those of the model's recipe; where
        the file lacks a key of the recipe, the property is not compared, but a key given here must be there
    device : "auto", "cpu", "cuda", …
    batch_size : frames at a time; it changes speed and memory, not results
    console : for the progress bar and the error table; None is silent

    Raises
    ------
    LsfError
        when the model or a frame cannot be read, an element is unknown to the model, a given key is in no
        frame, a frame already has an entry of a name that would be written, or the output would replace an
        input. Nothing has been written then.
    """
    console = console or Console(quiet=True)
    data_path = Path(data_path)
    out = None if out_path is None else Path(out_path)
    _check_names(Path(model_path), data_path, out, prefix)
    target = torch.device(pick_device(device))
    loaded = load_model(model_path)
    read = read_structures(data_path)
    structures = [atoms for _, atoms in read.numbered]
    reader, given = reader_of(data_path), Head(dict(info_keys or {}), dict(arrays_keys or {}))
    _check_keys(structures, read.source, given, reader.keys_of_structures({"": given})[""])
    heads = reader.keys_of_structures(_with_given(loaded.recipe.heads, given))
    frames = _frames(read, loaded, heads, console)
    graphs = _graphs(frames, loaded)
    if out is not None:
        _check_clashes(structures, read.source, prefix)

    run = _Evaluation.of(loaded, graphs, target, everything=out is not None)
    steps = range(0, len(graphs), batch_size)
    shown = track(steps, "evaluating", console=console, transient=True, disable=not console.is_terminal)
    results = [result for start in shown for result in run.batch(graphs[start : start + batch_size])]

    metrics = run.sums.result()
    _print_errors(metrics, f"Errors of {loaded.path.name}", data_path.stem, console)
    if out is not None:
        _write(out, structures, results, prefix)
        console.print(f"labelled {len(results)} frames: {out}", markup=False, highlight=False, soft_wrap=True)
    return metrics


# ---------------------------------------------------------------------------------------------------
# input


def _check_names(model: Path, data: Path, out: Path | None, prefix: str) -> None:
    if not _PREFIX.fullmatch(prefix):
        raise LsfError(
            f"--prefix {prefix!r}: expected letters, digits and underscores, a letter first, for example lsf_"
        )
    if out is None:
        return
    for role, path in (("the model", model), ("the data it labels", data)):
        if out.resolve() == DataFile.of(path).path.resolve():
            raise LsfError(f"--out {out} is {role}, which would be overwritten: give another file")
    if out.is_dir():
        raise LsfError(f"--out {out} is a folder: give the name of a file, for example {out / data.name}")


def _with_given(heads: Mapping[str, Head], given: Head) -> dict[str, Head]:
    """Return the key mappings with the given keys in place of theirs."""
    return {
        name: Head({**head.info_keys, **given.info_keys}, {**head.arrays_keys, **given.arrays_keys})
        for name, head in heads.items()
    }


def _check_keys(structures: Sequence[Atoms], source: str, given: Head, stored: Head) -> None:
    """Refuse keys asked for on the command line that no frame has: a slip would compare nothing.

    ``stored`` are the names of the keys given in the structures.
    """
    problems = []
    for flag, level, mapping, names, entries in (
        ("--info-key", "frame", given.info_keys, stored.info_keys, frame_entries),
        ("--array-key", "atom", given.arrays_keys, stored.arrays_keys, atom_entries),
    ):
        present = set().union(*(entries(atoms).keys() for atoms in structures))
        problems += [
            Problem(
                source,
                f"{flag} {name}={key}",
                f"the key {key!r} in no frame",
                f"a key of the file, once per {level}",
                did_you_mean(key, present),
            )
            for name, key in mapping.items()
            if names[name] not in present
        ]
    if problems:
        raise DataError(TITLE, problems)


def _frames(
    structures: Structures,
    loaded: LoadedModel,
    heads: Mapping[str, Head],
    console: Console,
) -> list[Frame]:
    """Return the frames with the references that can be compared, or raise with all that is wrong."""
    # references of a file to be labelled are nobody's training data: what is unusable is not compared
    checks = Checks(drop_nonfinite_labels=True, drop_short_multipoles=True, max_force=None)
    max_l = loaded.recipe.electrostatics.multipoles_max_l
    frames: list[Frame] = []
    problems: list[Problem] = []
    n_dropped = 0
    for index, atoms in structures.numbered:
        frame, found = frame_from_atoms(atoms, heads, source=structures.source, index=index)
        problems += found
        if frame is not None:
            usable = tolerated(frame, checks, max_l)
            n_dropped += usable is not frame
            frames.append(usable)
    problems += label_problems(frames, max_l, checks)
    problems += species_problems(frames, loaded.facts.species)
    if problems:
        raise DataError(TITLE, limited(problems))
    if n_dropped:
        console.print(
            f"{n_dropped} of {len(frames)} frames have references that are not finite or have too few "
            "columns; these are not compared",
            highlight=False,
        )
    return frames


def _graphs(frames: Sequence[Frame], loaded: LoadedModel) -> list[AtomGraph]:
    options = loaded.recipe.model.options
    graphs = build_graphs(
        frames, loaded.model.r_max, loaded.recipe.electrostatics, options.formal_charge_rule()
    )
    check_charge_range(options, graphs)
    return graphs


def _check_clashes(structures: Sequence[Atoms], source: str, prefix: str) -> None:
    """Refuse to write over entries the frames already have, whichever of the labels they are."""
    added = {prefix + row.prediction.written for row in OUTPUTS.values() if row.prediction.written}
    present: set[str] = set()
    for atoms in structures:
        entries = frame_entries(atoms).keys() | atom_entries(atoms).keys()
        present |= {name for name in entries if name in added or name.startswith(prefix + ENERGY_PART)}
    if present:
        raise LsfError(
            f"{source} already has {', '.join(sorted(present))}: choose other names with --prefix, for "
            f"example --prefix {prefix.rstrip('_')}2_"
        )


# ---------------------------------------------------------------------------------------------------
# evaluation


Result = dict[str, Any]
"""Outputs of one frame as arrays and numbers, by name."""


@attrs.frozen
class _Evaluation:
    """A model at work on one set of frames: what to compute, and the errors added up so far."""

    loaded: LoadedModel
    device: torch.device
    place: dict[str, int]
    left_out: frozenset[str]
    compute: frozenset[str]
    everything: bool
    sums: ErrorSums

    @classmethod
    def of(
        cls, loaded: LoadedModel, graphs: Sequence[AtomGraph], device: torch.device, everything: bool
    ) -> _Evaluation:
        """Return the evaluation; with ``everything``, outputs to be written are computed too."""
        has_charges = "partial_charges" in catalog().entry("models", loaded.recipe.model.use).provides
        left_out = frozenset() if has_charges else outputs_of_charges()
        if not loaded.model.has_polarizability:
            left_out |= {"polarizability"}
        given = [row for row in OUTPUTS.values() if row.prediction.output not in left_out]
        compared = [row.name for row in given if row.name in labelled(graphs)]
        files = [row.name for row in given if row.prediction.written and not row.prediction.costly]
        # stress is computed batch by batch, where there is a cell
        derived = derived_outputs(files) - {"stress"} if everything else frozenset()
        types = tuple(dict.fromkeys(graph.config_type for graph in graphs))
        loaded.model.to(device)
        return cls(
            loaded,
            device,
            {name: index for index, name in enumerate(types)},
            left_out,
            derived_outputs(compared) | derived,
            everything,
            ErrorSums(compared, types, device),
        )

    def batch(self, graphs: Sequence[AtomGraph]) -> list[Result]:
        """Evaluate some frames: add their errors, return their outputs."""
        batch = collate(graphs).to(self.device)
        periodic = [bool(graph.pbc.all()) for graph in graphs]
        stress = {"stress"} if self.everything and any(periodic) else set()
        outputs = evaluate(self.loaded.model, batch, self.compute | stress)
        types = torch.tensor([self.place[graph.config_type] for graph in graphs], device=self.device)
        self.sums.update(outputs, batch, types)
        return list(self._by_frame(outputs, periodic, batch.ptr.tolist())) if self.everything else []

    def _by_frame(
        self, outputs: Mapping[str, Tensor], periodic: Sequence[bool], starts: Sequence[int]
    ) -> Iterator[Result]:
        arrays = {name: value.cpu().numpy() for name, value in outputs.items() if name not in self.left_out}
        for place, has_stress in enumerate(periodic):
            parts: dict[str, int | slice] = {"atom": slice(starts[place], starts[place + 1]), "frame": place}
            yield {
                name: array[parts[row_of_output(name).level]]
                for name, array in arrays.items()
                # a strain of a molecule or a slab is no strain of a volume
                if has_stress or name != "stress"
            }


# ---------------------------------------------------------------------------------------------------
# output


def _print_errors(metrics: SplitMetrics, title: str, name: str, console: Console) -> None:
    if metrics.errors:
        console.print(rich_table(build_error_table("auto")({name: metrics}, title)))
    else:
        console.print(
            "no references to compare with: name their keys with --info-key and --array-key",
            highlight=False,
        )


def labelled_atoms(atoms: Atoms, result: Mapping[str, Any], prefix: str) -> Atoms:
    """Return a copy of a structure with everything it had, and a model's outputs under prefixed names.

    What ASE moved into a calculator on reading stands in ``info`` and ``arrays`` again.
    """
    copy = atoms.copy()
    copy.calc = None
    copy.info = frame_entries(atoms)
    for name, column in atom_entries(atoms).items():
        copy.arrays[name] = np.asarray(column)
    if np.shape(copy.info.get("stress")) == (6,):
        from ase.stress import voigt_6_to_full_3x3_stress

        copy.info["stress"] = voigt_6_to_full_3x3_stress(copy.info["stress"])
    for output, value in result.items():
        row = row_of_output(output)
        name = prefix + row.prediction.written
        if row.prediction.written and row.level == "frame":
            copy.info[name] = np.asarray(value, dtype=np.float64) if row.shape else float(value)
        elif row.prediction.written:
            column = np.asarray(value, dtype=np.float64)
            # the file has rows of numbers: a matrix of each atom is written row by row
            copy.arrays[name] = column.reshape(len(copy), -1) if column.ndim > 2 else column
    return copy


def _write(path: Path, structures: Collection[Atoms], results: Collection[Result], prefix: str) -> None:
    """Write the labelled frames, whole or not at all."""
    from ase.io.extxyz import write_xyz

    images = (labelled_atoms(*pair, prefix) for pair in zip(structures, results, strict=True))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        write_xyz(file, images, write_results=False)
