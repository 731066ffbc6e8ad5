"""What ``lsf list``, ``lsf describe`` and ``lsf show`` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lsf.errors import LsfError, did_you_mean
from lsf.recipe.catalog import catalog, own_folder
from lsf.recipe.describe import option_rows

RECIPES = "recipes"


def print_kinds(kind: str | None, console: Console) -> None:
    """Print the components of one kind, or of all kinds and the recipes that come with lsf."""
    known = catalog()
    kinds = [*known.kinds(), RECIPES]
    if kind is not None and kind not in kinds:
        raise LsfError(f"there is nothing of the kind {kind!r} to list; {did_you_mean(kind, kinds)}")
    for name in kinds if kind is None else [kind]:
        if name == RECIPES:
            rows = bundled_recipes()
        else:
            rows = [(entry.name, entry.summary) for entry in known.entries(name)]
        _print_table(name, ("name", "what it is"), rows, console)


def bundled_recipes() -> list[tuple[str, str]]:
    """Return name and first comment line of the recipes that come with lsf."""
    rows = []
    for file in sorted(own_folder(RECIPES).glob("*.toml")):
        first = file.read_text(encoding="utf-8").partition("\n")[0]
        rows.append((file.name, first.lstrip("# ") if first.startswith("#") else ""))
    return rows


def print_component(kind: str, name: str, console: Console) -> None:
    """Print a component's entry and its options."""
    entry = catalog().entry(kind, name)
    facts = {
        "what it is": entry.summary,
        "component": entry.target_path,
        "requires": ", ".join(entry.requires),
        "provides": ", ".join(entry.provides),
        "references": ", ".join(entry.references),
        "defined in": str(entry.file),
    }
    _print_facts(f"{kind} {name}", facts, console)
    print_options(entry.options_class(), console)


def print_recipe_table(name: str, console: Console) -> None:
    """Print the options of one table of the recipe."""
    from lsf.recipe.schema import TABLES

    if name not in TABLES:
        raise LsfError(f"a recipe has no table {name!r}; {did_you_mean(name, TABLES)}")
    print_options(TABLES[name], console)


def print_options(cls: type, console: Console) -> None:
    """Print the options of an attrs class."""
    rows = [(row.name, row.accepts, row.default, row.doc) for row in option_rows(cls)]
    _print_table("options", ("option", "accepts", "default", "meaning"), rows, console)


def print_model(path: Path, console: Console) -> None:
    """Print the header of a model file: what it was trained on and how."""
    from lsf.formats.model_file.file import read_header

    header = read_header(path)
    energies = header["facts"]["atomic_energies"]
    facts = {
        "file": str(path),
        "model": header["model"],
        "elements": ", ".join(header["species"]),
        "cutoff": f"{header['cutoff']:g} Å",
        "boundary": header["boundary"],
        "dtype": header["dtype"],
        "atomic energies": _pairs(_by_symbol(energies), " eV"),
        "training": _pairs(header["training"]),
        "units": _pairs(header["units"]),
        "written by": f"lsf {header['lsf_version']}, torch {header['torch_version']}, "
        f"format {header['format_version']}",
    }
    _print_facts(header["name"], facts, console)


def _by_symbol(energies: Mapping[str, float]) -> dict[str, float]:
    """Return energies by chemical symbol; in a file they stand by atomic number."""
    from ase.data import chemical_symbols

    return {chemical_symbols[int(number)]: energy for number, energy in energies.items()}


def _pairs(table: Mapping[str, Any], unit: str = "") -> str:
    return ", ".join(
        f"{key} {value:.6g}{unit}" if isinstance(value, float) else f"{key} {value}{unit}"
        for key, value in table.items()
    )


def _print_facts(title: str, facts: Mapping[str, str], console: Console) -> None:
    rows = [(key, value) for key, value in facts.items() if value]
    _print_table(title, ("", ""), rows, console)


def _print_table(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], console: Console
) -> None:
    console.print(f"[bold]{escape(title)}[/bold]" if rows else f"{escape(title)}: none", highlight=False)
    if not rows:
        return
    # plain aligned columns off a terminal, so that the output can be searched and cut
    frame = box.SIMPLE if console.is_terminal else None
    table = Table(box=frame, show_header=any(headings), pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(escape(heading), no_wrap=index == 0 or not console.is_terminal, overflow="fold")
    for row in rows:
        table.add_row(*(escape(text) for text in row))
    console.print(table)
