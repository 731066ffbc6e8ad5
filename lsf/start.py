"""``model.start_from``: what a recipe takes over from a model file.

The backbone and the short-range readout come from the file, so that training starts from its short-range
energies; charges start anew. Settings of the backbone that a recipe leaves out are those of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from ase.data import chemical_symbols

from lsf.errors import ModelFileError, Problem
from lsf.models.options import BackboneOptions

OWN: Final = ("start_from", "kernels", "recompute")
"""Options of the backbone that are not part of its architecture."""

STATE: Final = ("total_charge_embedding", "total_spin_embedding")


def fill_from_model_file(table: dict[str, Any], folder: Path) -> None:
    """Complete a recipe's tables in place with the settings of the file that ``model.start_from`` names.

    The backbone's options that are not given are those of the file, and so are the atomic energies, which
    its short-range energy belongs to. Nothing happens without ``start_from`` or its file; relative names
    start at ``folder``. Raises :class:`lsf.errors.ModelFileError` when the file is no model of lsf.
    """
    model = table.get("model")
    name = model.get("start_from") if isinstance(model, dict) else None
    if not isinstance(name, str) or not isinstance(model, dict):
        return
    path = folder / Path(name).expanduser()
    if not path.is_file():
        return
    architecture, energies = read_start(path)
    for option, value in architecture.items():
        model.setdefault(option, _as_toml(value))
    data = table.get("data")
    if isinstance(data, dict):
        data.setdefault("atomic_energies", {chemical_symbols[z]: energy for z, energy in energies.items()})


def read_start(path: str | Path) -> tuple[dict[str, Any], dict[int, float]]:
    """Return the backbone's options of a model file, numbers in place of rules, and its atomic energies.

    Raises :class:`lsf.errors.ModelFileError` when it is no model file, or one without such a backbone.
    """
    import cattrs

    from lsf.data.statistics import DataFacts
    from lsf.export.package import read_header
    from lsf.models.library import energy_scale, energy_shift
    from lsf.recipe_io import read_recipe_text

    header = read_header(path)
    options = read_recipe_text(header["recipe"], f"{path} (stored recipe)").model.options
    if not isinstance(options, BackboneOptions):
        raise ModelFileError(f"{path}: {header['model']} has no backbone of lsf to start from")
    facts = cattrs.structure(header["facts"], DataFacts)
    architecture = {
        field.name: getattr(options, field.name)
        for field in attrs.fields(BackboneOptions)
        if field.name not in OWN
    }
    architecture |= {
        "avg_num_neighbors": options.avg_num_neighbors or facts.avg_num_neighbors,
        "scale": energy_scale(options, facts),
        "shift": energy_shift(options, facts),
    }
    return architecture, facts.atomic_energies


def _as_toml(value: Any) -> Any:
    if value is None:
        return "none"
    return list(value) if isinstance(value, tuple) else value


def start_problems(options: Any) -> list[Problem]:
    """Return what tells the backbone of a recipe from the one in the file it starts from, as one problem."""
    if not isinstance(options, BackboneOptions) or options.start_from is None:
        return []
    if not Path(options.start_from).is_file():
        return []  # reported with the other missing files
    theirs, _ = read_start(options.start_from)
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
    """Return an option as :func:`read_start` gives it: no scale is 1, no shift 0."""
    return {"scale": 1.0, "shift": 0.0}.get(name) if value is None else value


def _may_differ(name: str, theirs: Mapping[str, Any]) -> bool:
    """Tell whether the recipe may ask for more than the file has, without a change of energies at the start.

    A last layer with scalars may be extended to all hidden irreps: energies are read from its scalars. The
    embeddings of charge and spin begin at zero.
    """
    if name in STATE:
        return not any(theirs[item] for item in STATE)
    return name == "last_layer" and bool(theirs[name] == "scalars")
