"""The older evaluation script: frames of a file labelled under the old names."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.console import Console
from torch import Tensor

from lsf.commands.terminal import print_line
from lsf.compat.calculators import model_file, with_boundary
from lsf.data.build import build_graphs
from lsf.data.checks import species_problems
from lsf.data.frames import Frame, atom_entries, frame_entries, frame_from_atoms
from lsf.data.graph import AtomGraph, collate
from lsf.data.readers.base import TITLE, limited, shown_path
from lsf.data.readers.choose import read_atoms, reader_of
from lsf.errors import DataError, LsfError, Problem, did_you_mean
from lsf.formats.model_file.file import LoadedModel, load_model
from lsf.machine.device import pick_device
from lsf.machine.files import replacing
from lsf.models.derivatives import evaluate
from lsf.models.inputs import check_charge_range
from lsf.recipe.schema import Head

if TYPE_CHECKING:
    from ase import Atoms

OLD_CHARGES_KEY: Final = "formal_oxidation_states"
"""Column of formal charges the older script read where none was named."""

Labels = dict[str, Any]


def run(arguments: Sequence[str], console: Console) -> None:
    """Label frames as the flags of the older script say."""
    chosen = _chosen(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    label_file(chosen, console)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with the flags of the older script."""
    parser = argparse.ArgumentParser(prog="lsf compat eval", description=__doc__, allow_abbrev=False)
    parser.add_argument("--configs", required=True, type=Path, help="frames, extended XYZ")
    parser.add_argument("--model", required=True, type=Path, help="model file (.safetensors)")
    parser.add_argument("--output", required=True, type=Path, help="labelled frames")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")
    parser.add_argument("--batch_size", type=int, default=64, help="frames at a time")
    parser.add_argument("--compute_stress", action="store_true", help="stress of fully periodic frames, 3×3")
    parser.add_argument(
        "--return_contributions", action="store_true", help="energies of atoms and short range"
    )
    parser.add_argument("--info_prefix", default="MACE_", help="what the names of the labels begin with")
    parser.add_argument("--pbc_handling", help="boundary method (default: that of training)")
    parser.add_argument("--external_field_key", default="external_field", help="entry of the frame, V/Å")
    parser.add_argument("--fermi_level_key", help="no effect: local-source models have no Fermi level")
    parser.add_argument(
        "--formal_charges_key",
        help=f"column of formal charges (default: {OLD_CHARGES_KEY}, or that of training)",
    )
    return parser


def _chosen(arguments: Sequence[str]) -> argparse.Namespace:
    parser = build_parser()
    chosen, rest = parser.parse_known_args(arguments)
    if rest:
        known = [option for action in parser._actions for option in action.option_strings]
        name = rest[0].partition("=")[0]
        raise LsfError(f"unknown flag {name}: {did_you_mean(name, known)}")
    if chosen.batch_size < 1:
        raise LsfError(f"--batch_size {chosen.batch_size}: expected a whole number above 0")
    return chosen


def label_file(chosen: argparse.Namespace, console: Console) -> None:
    """Evaluate the model on all frames and write them with its labels, whole or not at all."""
    device = pick_device(chosen.device)
    for path in (chosen.configs, chosen.model):
        if path.resolve() == chosen.output.resolve():
            raise LsfError(f"--output {chosen.output} would overwrite {path}: give another file")
    loaded = with_boundary(load_model(model_file(chosen.model)), chosen.pbc_handling)
    loaded.model.to(device)
    structures = read_atoms(chosen.configs)
    graphs = _graphs(structures, chosen, loaded)
    compute = {"forces"} | ({"stress"} if chosen.compute_stress else set())
    labels: list[tuple[Labels, Labels]] = []
    for start in range(0, len(graphs), chosen.batch_size):
        batch = collate(graphs[start : start + chosen.batch_size]).to(device)
        outputs = evaluate(loaded.model, batch, compute)
        labels += _labels(outputs, batch.ptr.tolist(), chosen.return_contributions)
    _write(structures, labels, chosen)
    print_line(console, f"labelled {len(labels)} frames: {chosen.output}")


def _graphs(structures: Sequence[Atoms], chosen: argparse.Namespace, loaded: LoadedModel) -> list[AtomGraph]:
    options = loaded.recipe.model.options
    rule = options.formal_charge_rule()
    arrays = {"charges": _charges_key(structures, chosen, loaded)} if rule == "from_data" else {}
    head = Head({"external_field": chosen.external_field_key}, arrays)
    heads = reader_of(chosen.configs).keys_of_structures({"default": head})
    frames: list[Frame] = []
    problems: list[Problem] = []
    for index, atoms in enumerate(structures):
        frame, found = frame_from_atoms(atoms, heads, source=shown_path(chosen.configs), index=index)
        problems += found
        frames += [frame] if frame is not None else []
    problems += species_problems(frames, loaded.facts.species)
    if problems:
        raise DataError(TITLE, limited(problems))
    graphs = build_graphs(frames, loaded.model.r_max, loaded.recipe.electrostatics, rule)
    check_charge_range(options, graphs)
    return graphs


def _charges_key(structures: Sequence[Atoms], chosen: argparse.Namespace, loaded: LoadedModel) -> str:
    """Return the column of formal charges: the one named, the old default, or the one of training."""
    if chosen.formal_charges_key is not None:
        return str(chosen.formal_charges_key)
    trained = [
        head.arrays_keys["charges"] for head in loaded.recipe.heads.values() if "charges" in head.arrays_keys
    ]
    if all(OLD_CHARGES_KEY in atoms.arrays for atoms in structures):
        return OLD_CHARGES_KEY
    return trained[0] if trained else OLD_CHARGES_KEY


def _labels(
    outputs: Mapping[str, Tensor], starts: Sequence[int], contributions: bool
) -> Iterator[tuple[Labels, Labels]]:
    """Yield what is written of every frame, and of its atoms."""
    arrays = {name: value.cpu().numpy() for name, value in outputs.items()}
    for place, (start, end) in enumerate(pairwise(starts)):
        frame: Labels = {"energy": float(arrays["energy"][place]), "dipole": arrays["dipole"][place]}
        frame |= {name: arrays[name][place] for name in ("stress", "polarizability") if name in arrays}
        if contributions:
            parts = ("energy_atomic", "energy_short_range")
            frame["BO_contributions"] = np.array([arrays[name][place] for name in parts])
        yield frame, {name: arrays[name][start:end] for name in ("forces", "density_coefficients")}


def _write(
    structures: Sequence[Atoms], labels: Sequence[tuple[Labels, Labels]], chosen: argparse.Namespace
) -> None:
    from ase.io.extxyz import write_xyz

    images = [
        _labelled(atoms, *both, chosen.info_prefix) for atoms, both in zip(structures, labels, strict=True)
    ]
    with replacing(chosen.output) as temporary, temporary.open("w", encoding="utf-8") as file:
        write_xyz(file, images, write_results=False)


def _labelled(atoms: Atoms, frame: Labels, columns: Labels, prefix: str) -> Atoms:
    """Return a copy with everything the frame had, and the labels; stress of fully periodic frames only."""
    copy = atoms.copy()
    copy.calc = None
    copy.info = dict(frame_entries(atoms))
    for name, column in atom_entries(atoms).items():
        copy.arrays[name] = np.asarray(column)
    for name, value in frame.items():
        if name != "stress" or all(atoms.pbc):
            copy.info[prefix + name] = value
    for name, column in columns.items():
        copy.arrays[prefix + name] = column
    return copy
