"""What every benchmark prints: one row per bar, and an exit status that says whether all hold."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table


@attrs.frozen
class Bar:
    """A figure and what it is held against: ``at_least`` or at most ``bound``."""

    name: str
    figure: float
    bound: float
    unit: str = ""
    at_least: bool = True
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the figure is on the right side of the bound."""
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the two flags every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a short version; its figures mean little")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    return parser


def report(bars: Sequence[Bar], file: Path | None, extra: Mapping[str, Any] | None = None) -> int:
    """Print the rows, write them as JSON where asked, and return the exit status."""
    table = Table("bar", "figure", "bound", "result", "note")
    for bar in bars:
        sign = "≥" if bar.at_least else "≤"
        result = "holds" if bar.holds else "falls short"
        table.add_row(
            bar.name, f"{bar.figure:.3g} {bar.unit}", f"{sign} {bar.bound:g} {bar.unit}", result, bar.note
        )
    Console().print(table)
    if file is not None:
        machine = {"python": platform.python_version(), "processor": platform.machine()}
        rows = [{**attrs.asdict(bar), "holds": bar.holds} for bar in bars]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"machine": machine, "bars": rows, **(extra or {})}, indent=1) + "\n")
    return 0 if all(bar.holds for bar in bars) else 1
