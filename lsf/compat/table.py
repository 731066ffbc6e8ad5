"""The compatibility table: what every old flag, and every name in the old YAML, becomes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from lsf.machine.caches import once

FOLDER: Final = Path(__file__).parent

Kind = Literal["mapped", "script", "ignored", "refused"]


@attrs.frozen
class Row:
    """One flag; see the head of ``flags.toml`` for what each part says."""

    name: str
    kind: Kind
    takes: str
    default: Any = None
    key: str = ""
    rule: str = ""
    values: Mapping[str, Any] = attrs.field(factory=dict)
    models: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    pending: str = ""
    means: str = ""
    why: str = ""
    instead: str = ""
    needs: str = ""
    example: str = ""
    gives: Any = None
    new: bool = False

    def new_value(self, value: Any) -> Any:
        """Return a value of the flag as the recipe writes it; the row's ``values`` rename words."""
        if isinstance(value, bool) and self.values:
            return self.values.get(str(value).lower(), self.values.get(str(value), value))
        return self.values.get(str(value), value) if self.values else value

    def applies_to(self, model: str) -> bool:
        """Tell whether the flag means anything for an (old) model name."""
        return not self.models or model in self.models


@attrs.frozen
class Name:
    """A name inside the old YAML: what it becomes, or why it is left out or refused."""

    becomes: str = ""
    drop: str = ""
    refused: str = ""
    pending: str = ""


@once
def flag_rows(table: str = "flags") -> dict[str, Row]:
    """Return the rows of all flags of a script by name."""
    kinds = tomllib.loads((FOLDER / f"{table}.toml").read_text(encoding="utf-8"))
    return {
        name: Row(name=name, kind=kind, **content)  # type: ignore[arg-type]
        for kind, rows in kinds.items()
        for name, content in rows.items()
    }


@once
def names_of(kind: str) -> dict[str, Name]:
    """Return the names of a kind (models, properties, losses, stages, error_tables)."""
    kinds = tomllib.loads((FOLDER / "names.toml").read_text(encoding="utf-8"))
    return {name: Name(**content) for name, content in kinds[kind].items()}


def markdown_table(table: str = "flags") -> str:
    """Return the table of all flags of a script for the documentation, in the order of the file."""
    lines = ["| flag | default then | now |", "|---|---|---|"]
    for row in flag_rows(table).values():
        flag = f"`--{row.name}`"
        default = "" if row.default in (None, "") else f"`{row.default}`"
        lines.append(f"| {flag} | {default} | {_fate(row).replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _fate(row: Row) -> str:
    if row.kind == "ignored":
        return f"no effect: {row.why}"
    if row.kind == "refused":
        return f"refused: {row.why}; instead: {row.instead}"
    text = f"new: {row.means}" if row.new else row.means
    if row.kind == "mapped":
        words = ", ".join(f"{old} → {new}" for old, new in row.values.items())
        text = f"`{row.key}`" + (f" ({words})" if words else "")
        text += f"; with {', '.join(row.models)} only" if row.models else ""
    return f"{text}; not yet: {row.pending}" if row.pending else text
