"""What old flags become where several of them decide together.

A rule yields assignments: the flag that is responsible, the recipe key, and its value there. Rules of the
training itself: :mod:`lsf.compat.training_rules`.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from ase.data import chemical_symbols

from lsf.compat.arguments import Assignment, Assignments, Flags
from lsf.compat.schedule import heads_table, stage_tables
from lsf.compat.table import flag_rows, names_of
from lsf.compat.training_rules import averaging, batches, optimizer, stages, trackers
from lsf.data.atomic_energies import ISOLATED_ATOM
from lsf.data.readers.base import Reader
from lsf.errors import LsfError, did_you_mean
from lsf.models.backbone_options import BackboneOptions
from lsf.recipe.data_files import DataFile, reader_for

BACKBONE_KEYS: Final = frozenset(
    f"model.{field.name}" for field in attrs.fields(BackboneOptions) if field.name != "start_from"
)
"""Keys of a recipe that a model to start from decides about."""

KERNEL_FLAGS: Final = ("enable_cueq", "only_cueq")
"""Flags that choose the accelerated backend of the message passing."""

ISOLATED: Final = re.compile(r"""config_type=["']?IsolatedAtom\b""")


def general(flags: Flags) -> Assignments:
    """Name the run."""
    if not flags.has("name"):
        flags.refuse("name", "nothing", "a name for the run", "for example --name water")
        return
    yield Assignment("name", "name", flags["name"])


def files(flags: Flags) -> Assignments:
    """Place the data files; their names start at work_dir, where the recipe stands."""
    if flags.has("train_file"):
        yield Assignment("train_file", "data.train", from_work_dir(flags, flags["train_file"]))
    else:
        flags.refuse("train_file", "nothing", "the file with the training frames")
    if flags.has("valid_file"):
        yield Assignment("valid_file", "data.valid", from_work_dir(flags, flags["valid_file"]))
        if flags.has("valid_fraction"):
            flags.note("valid_fraction", "no effect with --valid_file")
    else:
        yield Assignment("valid_fraction", "data.valid_fraction", flags["valid_fraction"])
    if flags.has("test_file"):
        yield Assignment("test_file", "data.test", from_work_dir(flags, flags["test_file"]))
    # the older trainer never looked for repeated frames, and its own examples test on the training file
    yield Assignment("train_file", "data.checks.allow_duplicates", True)


def from_work_dir(flags: Flags, file: str) -> str:
    """Return a file name as it is written in a recipe that stands in the working folder."""
    if Path(file).is_absolute():
        return file
    return Path(os.path.relpath(file, flags["work_dir"])).as_posix()


def atomic_energies(flags: Flags) -> Assignments:
    """Choose the atomic energies: isolated atoms among the training frames win, then --E0s."""
    given = flags["E0s"]
    if given is None:
        given = statistics(flags).get("atomic_energies")
    if flags.has("train_file") and _has_isolated_atoms(Path(flags["train_file"])):
        if flags.has("E0s"):
            flags.note(
                "E0s", "no effect: the training file has frames of config_type IsolatedAtom, which win"
            )
        yield Assignment("E0s", "data.atomic_energies", "isolated")
    elif isinstance(given, Mapping):
        yield Assignment("E0s", "data.atomic_energies", by_symbol(flags, "E0s", given))
    elif flags.has("foundation_model") and given in (None, "foundation"):
        yield Assignment("E0s", "data.atomic_energies", "foundation")
    elif given == "foundation":
        flags.refuse("E0s", "foundation", "--foundation_model with it, whose energies these are")
    elif given is None or given == "None":
        yield Assignment("E0s", "data.atomic_energies", "isolated")
    elif given == "average":
        yield Assignment("E0s", "data.atomic_energies", "average")
    elif given.endswith((".json", ".toml")):
        yield Assignment("E0s", "data.atomic_energies", from_work_dir(flags, given))
    else:
        flags.refuse(
            "E0s", repr(given), "average, a table {1: -13.6, 8: …} or a .json file", _e0s_hint(given)
        )


def foundation(flags: Flags) -> Assignments:
    """Start from a model file, whose backbone then decides about all flags that are not given."""
    if not flags.has("foundation_model") or flags["foundation_model"] == "None":
        return
    file = flags["foundation_model"]
    if Path(file).suffix == ".safetensors":
        yield Assignment("foundation_model", "model.start_from", from_work_dir(flags, file))
        return
    hint = (
        "to make one of a .model file: tools/export_mace_weights.py where mace-torch is installed, then "
        "lsf import-mace (docs/foundation_models.md)"
    )
    flags.refuse("foundation_model", repr(file), "a model file of lsf (.safetensors)", hint)


def left_to_foundation(item: Assignment, flags: Flags) -> bool:
    """Tell whether a default of the older trainer gives way to what the model to start from has."""
    if not flags.has("foundation_model") or flags["foundation_model"] == "None":
        return False
    if item.key == "data.atomic_energies":
        return bool(item.value == "foundation")
    return item.key in BACKBONE_KEYS and not flags.has(item.flag)


def _e0s_hint(given: str) -> str:
    if given == "estimated":
        return "energies estimated from a foundation model are not part of lsf; average fits them to the data"
    return did_you_mean(given, ["average"])


def statistics(flags: Flags) -> dict[str, Any]:
    """Return what the file of --statistics_file says, in plain values; nothing where there is none.

    The older script wrote tables as texts.
    """
    if not flags.has("statistics_file"):
        return {}
    expected = "the statistics.json of preprocess_data.py"
    path = Path(flags["statistics_file"])
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}")
        energies = content.get("atomic_energies")
        if isinstance(energies, str):
            content["atomic_energies"] = ast.literal_eval(energies)
        numbers = {name: content.get(name) for name in ("avg_num_neighbors", "mean", "std")}
        return content | {name: None if value is None else float(value) for name, value in numbers.items()}
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        found = f"{path}, which cannot be read ({getattr(error, 'strerror', None) or error})"
        if all(problem.key != flags.label("statistics_file") for problem in flags.problems):
            flags.refuse("statistics_file", found, expected)
        return {}


def _has_isolated_atoms(path: Path) -> bool:
    """Tell whether a frame is marked as an isolated atom; False where the file cannot be read."""
    try:
        data = DataFile.of(path)
        reader: Reader | None = reader_for(data)
        statistics = None if reader is None else reader.statistics(data)
        if statistics is not None:
            return ISOLATED_ATOM in statistics.get("config_types", {})
        with path.open(encoding="utf-8", errors="replace") as file:
            return any("IsolatedAtom" in line and ISOLATED.search(line) for line in file)
    except (OSError, LsfError):
        return False


def by_symbol(flags: Flags, flag: str, table: Mapping[Any, Any]) -> dict[str, float]:
    """Return numbers by chemical symbol out of numbers by atomic number."""
    result: dict[str, float] = {}
    for key, value in table.items():
        number = (
            int(key)
            if str(key).isdecimal()
            else chemical_symbols.index(key)
            if key in chemical_symbols
            else 0
        )
        if not 0 < number < len(chemical_symbols):
            flags.refuse(flag, f"the key {key!r}", "an atomic number", "for example {1: 1.0, 8: -2.0}")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            flags.refuse(flag, f"{key}: {value!r}", "a number for every element")
        else:
            result[chemical_symbols[number]] = float(value)
    return result


def config_type_weights(flags: Flags) -> Assignments:
    """Weigh config types; the default, 1 for all, is left out."""
    weights = flags["config_type_weights"]
    if weights is None:
        return
    wrong = [
        key for key, value in weights.items() if isinstance(value, bool) or not isinstance(value, int | float)
    ]
    for key in wrong:
        flags.refuse("config_type_weights", f"{key}: {weights[key]!r}", "a number for every config type")
    if not wrong:
        plain = {str(key): float(value) for key, value in weights.items()}
        yield Assignment("config_type_weights", "data.config_type_weights", plain)


def model(flags: Flags) -> Assignments:
    """Choose the model."""
    names, old = names_of("models"), flags["model"]
    name = names.get(old)
    if name is None:
        usable = [known for known, item in names.items() if item.becomes]
        flags.refuse("model", repr(old), "a model", did_you_mean(old, usable))
    elif name.refused or name.pending:
        flags.refuse("model", repr(old), "a model lsf has", name.refused or name.pending)
    else:
        yield Assignment("model", "model.use", name.becomes)


def kernels(flags: Flags) -> Assignments:
    """Choose the kernels; either flag of the older trainer asks for those of cuequivariance."""
    for name in [name for name in KERNEL_FLAGS if flags[name]][:1]:
        yield Assignment(name, "model.kernels", flag_rows()[name].new_value(True))


def hidden_irreps(flags: Flags) -> Assignments:
    """Write the node features as irreps."""
    if flags.has("hidden_irreps"):
        for name in ("num_channels", "max_L"):
            if flags.has(name):
                flags.note(name, "no effect with --hidden_irreps")
        yield Assignment("hidden_irreps", "model.hidden_irreps", flags["hidden_irreps"])
        return
    channels = flags["num_channels"] if flags.has("num_channels") else 128
    highest = flags["max_L"] if flags.has("max_L") else 1
    irreps = " + ".join(f"{channels}x{degree}{'eo'[degree % 2]}" for degree in range(highest + 1))
    flag = "max_L" if flags.has("max_L") and not flags.has("num_channels") else "num_channels"
    yield Assignment(flag, "model.hidden_irreps", irreps)


def neighbors(flags: Flags) -> Assignments:
    """Fix the average number of neighbours where it is not to be measured."""
    counted = statistics(flags).get("avg_num_neighbors")
    if counted is not None and not flags.has("avg_num_neighbors"):
        yield Assignment("statistics_file", "model.avg_num_neighbors", counted)
    elif not flags["compute_avg_num_neighbors"]:
        flag = "avg_num_neighbors" if flags.has("avg_num_neighbors") else "compute_avg_num_neighbors"
        yield Assignment(flag, "model.avg_num_neighbors", flags["avg_num_neighbors"])
    elif flags.has("avg_num_neighbors"):
        flags.note("avg_num_neighbors", "no effect without --compute_avg_num_neighbors False")


def scale_shift(flags: Flags) -> Assignments:
    """Scale and shift the short-range energy of the models without electrostatics."""
    known = statistics(flags)
    if flags.has("std"):
        yield Assignment("std", "model.scale", flags["std"])
    elif known.get("std") is not None and flags["scaling"] != "no_scaling":
        yield Assignment("statistics_file", "model.scale", known["std"])
    else:
        yield Assignment("scaling", "model.scale", flag_rows()["scaling"].new_value(flags["scaling"]))
    if flags["model"] == "ScaleShiftMACE":
        free = "none" if flags["scaling"] == "no_scaling" else "mean"
        if free == "mean" and known.get("mean") is not None and not flags.has("mean"):
            yield Assignment("statistics_file", "model.shift", known["mean"])
        else:
            yield Assignment("mean", "model.shift", flags["mean"] if flags.has("mean") else free)


def formal_charges(flags: Flags) -> Assignments:
    """Say where formal charges come from."""
    table = flags["atomic_formal_charges"]
    if flags["formal_charges_from_data"]:
        if table:
            flags.note("atomic_formal_charges", "no effect with --formal_charges_from_data")
        yield Assignment("formal_charges_from_data", "model.formal_charges", "from_data")
    elif table:
        charges = by_symbol(flags, "atomic_formal_charges", table)
        yield Assignment("atomic_formal_charges", "model.formal_charges", charges)
    else:
        hint = "or --formal_charges_from_data, with arrays_keys: {charges: …} in heads"
        flags.refuse("atomic_formal_charges", "nothing", "a charge for every element", hint)


def polarizability(flags: Flags) -> Assignments:
    """Read a polarizability where it is asked for, or trained on."""
    if flags.has("compute_polarizability"):
        yield Assignment("compute_polarizability", "model.polarizability", flags["compute_polarizability"])
        return
    trained = any("polarizability" in stage["loss"] for stage in _stages_quietly(flags))
    if not trained:
        flags.note(
            "compute_polarizability",
            "False, since no stage trains it (the older trainer built an untrained readout); "
            "--compute_polarizability True builds it all the same",
        )
    yield Assignment("compute_polarizability", "model.polarizability", trained)


def _stages_quietly(flags: Flags) -> list[dict[str, Any]]:
    """Return the stages without collecting what is wrong with them once more."""
    return stage_tables(Flags(given=flags.given))


def heads(flags: Flags) -> Assignments:
    """Map the properties of each head."""
    for head, parts in heads_table(flags).items():
        for part, mapped in parts.items():
            if mapped:
                yield Assignment("heads", f"heads.{head}.{part}", mapped)


RULES: Final[dict[str, Callable[[Flags], Assignments]]] = {
    rule.__name__: rule
    for rule in (
        general,
        files,
        atomic_energies,
        foundation,
        config_type_weights,
        batches,
        model,
        kernels,
        hidden_irreps,
        neighbors,
        scale_shift,
        formal_charges,
        polarizability,
        heads,
        stages,
        optimizer,
        averaging,
        trackers,
    )
}
"""The rules by the name the table uses."""
