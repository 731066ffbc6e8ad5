"""The older preprocessing command line: frames of extended XYZ files as folders of shards."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.data import chemical_symbols
from rich.console import Console

from lsf.commands.terminal import print_line
from lsf.compat.arguments import Flags, read_flags
from lsf.compat.rules import by_symbol
from lsf.compat.schedule import heads_table
from lsf.compat.table import flag_rows
from lsf.data.atomic_energies import (
    average_energies,
    energies_from_file,
    given_energies,
    is_isolated_atom,
    isolated_energies,
)
from lsf.data.frames import Frame
from lsf.data.readers.base import TITLE, limited
from lsf.data.readers.choose import read_frames
from lsf.data.readers.shard_statistics import statistics_of
from lsf.data.readers.shards import write_shards
from lsf.errors import DataError, RecipeError, did_you_mean
from lsf.machine.files import replacing
from lsf.recipe.quantities import array_properties
from lsf.recipe.schema import Head

TABLE: Final = "preprocess"
"""The table of flags beside this module."""

FRAMES_PER_SHARD: Final = 1000

SCALINGS: Final = {"rms_forces_scaling": "forces_rms", "std_scaling": "energy_std", "no_scaling": ""}
"""What ``std`` of the statistics is, by the flag."""

KEY_FLAGS: Final = {
    f"{name}_key": (name, "arrays_keys" if name in array_properties() else "info_keys")
    for name in (
        "energy",
        "forces",
        "stress",
        "virials",
        "dipole",
        "polarizability",
        "charges",
        "total_charge",
        "external_field",
        "atomic_multipoles",
        "electrostatic_potentials",
        "total_spin",
        "head",
    )
}
"""Property and table of a head by the flag that names its key."""

USAGE: Final = """usage: lsf compat preprocess --train_file FILE --h5_prefix PREFIX [flags of mace-scf]
       lsf shards RECIPE --out FOLDER, for the data of a recipe

Writes frames as folders of shards, which lsf compat train and recipes take in place of a file.
"""


def run(arguments: Sequence[str], console: Console) -> None:
    """Write shards as the flags of the older script say."""
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(usage())
        return
    flags = read_flags(arguments, TABLE)
    heads = _checked(flags)
    for note in flags.notes:
        sys.stderr.write(f"{note}\n")
    weights = {str(key): float(value) for key, value in (flags["config_type_weights"] or {}).items()}
    splits = {"train": read_frames(flags["train_file"], heads, weights)}
    rng = np.random.default_rng(flags["seed"])
    if flags.has("valid_file"):
        splits["val"] = read_frames(flags["valid_file"], heads, weights)
    elif flags["valid_fraction"] > 0.0:
        splits["train"], splits["val"] = _drawn(splits["train"], flags["valid_fraction"], rng)
    if flags.has("test_file"):
        splits["test"] = read_frames(flags["test_file"], heads, weights)
    if flags["shuffle"]:
        splits["train"] = [splits["train"][place] for place in rng.permutation(len(splits["train"]))]
    energies = _atomic_energies(flags, splits["train"])
    for split, frames in splits.items():
        file = flags[{"val": "valid_file"}.get(split, f"{split}_file")] or flags["train_file"]
        content = {"file": Path(file).name, **statistics_of(frames, flags["r_max"])}
        write_shards(frames, _place(flags, split), FRAMES_PER_SHARD, content)
        print_line(console, f"{_place(flags, split)}: {len(frames)} frames")
    if flags["compute_statistics"]:
        _write_statistics(flags, splits["train"], energies, console)


def usage() -> str:
    """Return the usage and what every flag does."""
    lines = []
    for row in flag_rows(TABLE).values():
        fate = {"script": row.means, "ignored": f"no effect: {row.why}", "refused": f"refused: {row.why}"}
        lines.append(f"  --{row.name:30} {fate[row.kind]}")
    return f"{USAGE}\n" + "\n".join(lines) + "\n"


def _place(flags: Flags, name: str) -> Path:
    """Return the path of an output: the prefix is put before its name, as it is."""
    return Path(flags["work_dir"]) / f"{flags['h5_prefix']}{name}"


def _checked(flags: Flags) -> dict[str, Head]:
    """Return the heads; raise RecipeError with all that is wrong with the flags."""
    for name, given in list(flags.given.items()):
        row = flag_rows(TABLE)[name]
        if row.kind == "ignored":
            flags.note(name, f"no effect: {row.why}")
        elif row.kind == "refused":
            flags.refuse(name, str(given.value), f"to be left out: {row.why}", f"instead: {row.instead}")
    if not flags.has("train_file"):
        flags.refuse("train_file", "nothing", "the file with the training frames")
    if not 0.0 <= flags["valid_fraction"] < 1.0:
        flags.refuse("valid_fraction", str(flags["valid_fraction"]), "a number from 0 to below 1")
    if flags["scaling"] not in SCALINGS:
        hint = did_you_mean(flags["scaling"], SCALINGS)
        flags.refuse("scaling", repr(flags["scaling"]), ", ".join(SCALINGS), hint)
    for key, value in (flags["config_type_weights"] or {}).items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            flags.refuse("config_type_weights", f"{key}: {value!r}", "a number, at least 0")
    heads = _heads(flags)
    if flags.problems:
        raise RecipeError("the command line cannot be used", flags.problems)
    return heads


def _heads(flags: Flags) -> dict[str, Head]:
    keyed = [name for name in KEY_FLAGS if flags.has(name)]
    if flags.has("heads"):
        for name in keyed:
            flags.refuse(name, "both it and --heads", "one of the two")
        return {name: Head(**parts) for name, parts in heads_table(flags).items()}
    if not keyed:
        flags.refuse("heads", "nothing", "the keys of the data file", "or --energy_key, --forces_key, …")
        return {}
    parts: dict[str, dict[str, str]] = {"info_keys": {}, "arrays_keys": {}}
    for name in keyed:
        prop, table = KEY_FLAGS[name]
        parts[table][prop] = flags[name]
    return {"default": Head(**parts)}


def _drawn(
    frames: Sequence[Frame], fraction: float, rng: np.random.Generator
) -> tuple[list[Frame], list[Frame]]:
    """Return the frames that stay and those drawn for validation; isolated atoms stay."""
    places = [place for place, frame in enumerate(frames) if not is_isolated_atom(frame)]
    chosen = set(rng.permutation(places)[: max(1, round(fraction * len(places)))].tolist())
    return (
        [frame for place, frame in enumerate(frames) if place not in chosen],
        [frame for place, frame in enumerate(frames) if place in chosen],
    )


def _atomic_energies(flags: Flags, frames: Sequence[Frame]) -> dict[int, float]:
    """Return the energies of free atoms for the statistics, chosen as run_train.py does."""
    species = sorted({number for frame in frames for number in frame.numbers.tolist()})
    isolated, given = [frame for frame in frames if is_isolated_atom(frame)], flags["E0s"]
    if isolated:
        found = isolated_energies(isolated, species, flags["train_file"])
    elif isinstance(given, Mapping):
        found = given_energies(by_symbol(flags, "E0s", given), species, "--E0s")
    elif given == "average":
        found = average_energies(frames, species)
    else:
        found = energies_from_file(Path(given), species)
    if found.problems or flags.problems:
        raise DataError(TITLE, limited([*flags.problems, *found.problems]))
    for warning in found.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    return found.energies


def _write_statistics(
    flags: Flags, frames: Sequence[Frame], energies: Mapping[int, float], console: Console
) -> None:
    trained = [frame for frame in frames if not is_isolated_atom(frame)]
    found = statistics_of(trained, flags["r_max"], energies)
    scale = SCALINGS[flags["scaling"]]
    content: dict[str, Any] = {
        "atomic_energies": {chemical_symbols[number]: energy for number, energy in energies.items()},
        "avg_num_neighbors": found["avg_num_neighbors"],
        "mean": found["energy_mean"],
        "std": found[scale] if scale else 1.0,
        "atomic_numbers": sorted(energies),
        "r_max": flags["r_max"],
    }
    path = _place(flags, "statistics.json")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    print_line(console, f"{path}: statistics of {len(trained)} frames")
