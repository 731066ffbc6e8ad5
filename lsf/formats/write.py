"""Writing a model in the formats of the registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
from rich.console import Console
from rich.markup import escape

from lsf.errors import ExportError, did_you_mean
from lsf.formats.model_file.file import LoadedModel, load_model
from lsf.recipe.catalog import catalog

NATIVE = "safetensors"


class Exporter(Protocol):
    """What an entry of ``registry/exporters`` makes of its options."""

    suffix: str

    def __call__(self, loaded: LoadedModel, path: Path) -> str:
        """Write the model, whole or not at all, and return one line about the file."""


def exporter(name: str, **options: Any) -> Exporter:
    """Return the exporter of a name; options that are None are left at their defaults.

    Raises
    ------
    ExportError
        when there is no such format, or it has no such option.
    MissingExtraError
        when a package it needs is not installed.
    """
    names = catalog().names("exporters")
    if name not in names:
        raise ExportError(f"there is no format {name!r}; {did_you_mean(name, names)}")
    entry = catalog().entry("exporters", name)
    cls = entry.options_class()
    known = {field.name for field in attrs.fields(cls)}
    chosen = {key: value for key, value in options.items() if value is not None}
    for key in chosen:
        if key not in known:
            raise ExportError(
                f"the format {name} has no option {key!r}; its options: {sorted(known) or 'none'}"
            )
    made: Exporter = entry.target()(cls(**chosen))
    return made


def export_file(model: Path, name: str, out: Path | None, dtype: str | None, console: Console) -> Path:
    """Write a model file in another format and return the new file.

    ``out`` is by default the model file with the suffix of the format. Raises
    :class:`lsf.errors.LsfError` when the model cannot be read, written, or does not agree with the file.
    """
    made = exporter(name, dtype=dtype)
    path = model.with_suffix(made.suffix) if out is None else out
    if path.suffix != made.suffix:
        raise ExportError(f"--out {path}: files of the format {name} end in {made.suffix}")
    if path.resolve() == model.resolve():
        raise ExportError(f"{path} is the model itself: name another file with --out")
    told = made(load_model(model), path)
    console.print(f"wrote {escape(str(path))} ({path.stat().st_size / 1e6:.2f} MB): {told}", highlight=False)
    return path


def write_formats(model: Path, formats: Sequence[str], console: Console) -> list[Path]:
    """Write a finished model in the formats of a recipe, beside the model file; return the new files."""
    return [export_file(model, name, None, None, console) for name in formats if name != NATIVE]
