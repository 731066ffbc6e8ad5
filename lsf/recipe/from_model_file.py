"""``model.start_from``: what a recipe takes over from a model file.

The backbone and the short-range readout come from the file, so that training starts from its short-range
energies; charges start anew. Settings of the backbone that a recipe leaves out are those of the file. What
reads model files is handed in: recipes know nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from ase.data import chemical_symbols

from lsf.errors import LsfError, Problem

STATE: Final = ("total_charge_embedding", "total_spin_embedding")


class Start(NamedTuple):
    """What a model file has for a new training."""

    architecture: dict[str, Any]
    """Options of the backbone, numbers in place of rules."""
    atomic_energies: dict[int, float]
    """Energies of free atoms in eV by atomic number, which the short-range energy belongs to."""


ReadStart = Callable[[Path], Start]
"""Reads a model file; raises :class:`lsf.errors.ModelFileError` when there is no backbone to start from."""


@runtime_checkable
class StartsFromFile(Protocol):
    """Options of models that may start from a model file."""

    start_from: str | None


def no_reader(path: Path) -> Start:
    """Refuse to start from a model file, where nothing was handed in that reads one."""
    raise LsfError(
        f"model.start_from = {str(path)!r}: use lsf.commands.train.resolved_recipe to read this recipe"
    )


def fill_from_model_file(table: dict[str, Any], folder: Path, read_start: ReadStart) -> None:
    """Complete a recipe's tables in place with the settings of the file that ``model.start_from`` names.

    The backbone's options that are not given are those of the file, and so are the atomic energies.
    Nothing happens without ``start_from`` or its file; relative names start at ``folder``.
    """
    model = table.get("model")
    name = model.get("start_from") if isinstance(model, dict) else None
    if not isinstance(name, str) or not isinstance(model, dict):
        return
    path = folder / Path(name).expanduser()
    if not path.is_file():
        return
    start = read_start(path)
    for option, value in start.architecture.items():
        model.setdefault(option, _as_toml(value))
    data = table.get("data")
    if isinstance(data, dict):
        energies = {chemical_symbols[z]: energy for z, energy in start.atomic_energies.items()}
        data.setdefault("atomic_energies", energies)


def _as_toml(value: Any) -> Any:
    if value is None:
        return "none"
    return list(value) if isinstance(value, tuple) else value


def start_problems(options: Any, read_start: ReadStart) -> list[Problem]:
    """Return what tells the backbone of a recipe from the one in the file it starts from, as one problem."""
    if not isinstance(options, StartsFromFile) or options.start_from is None:
        return []
    path = Path(options.start_from)
    if not path.is_file():
        return []  # reported with the other missing files
    theirs = read_start(path).architecture
    differing = [
        name
        for name, value in theirs.items()
        if _plain(name, getattr(options, name)) != value and not _may_differ(name, theirs)
    ]
    if not differing:
        return []
    found = ", ".join(f"{name} = {_as_toml(theirs[name])!r}" for name in differing)
    ours = ", ".join(f"{name} = {_as_toml(getattr(options, name))!r}" for name in differing)
    hint = f"leave {', '.join(differing)} out of [model] to take what the file has"
    return [Problem("", "model.start_from", f"a model with {found}", f"one with {ours}, as in [model]", hint)]


def _plain(name: str, value: Any) -> Any:
    """Return an option as a :class:`Start` has it: no scale is 1, no shift 0."""
    return {"scale": 1.0, "shift": 0.0}.get(name) if value is None else value


def _may_differ(name: str, theirs: Mapping[str, Any]) -> bool:
    """Tell whether the recipe may ask for more than the file has, without a change of energies at the start.

    A last layer with scalars may be extended to all hidden irreps: energies are read from its scalars. The
    embeddings of charge and spin begin at zero.
    """
    if name in STATE:
        return not any(theirs[item] for item in STATE)
    return name == "last_layer" and bool(theirs[name] == "scalars")
