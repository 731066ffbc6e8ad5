"""The one table of the project: made by metrics and counts, shown on the terminal and in the report."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

import attrs
from rich.markup import escape
from rich.table import Table as RichTable

Cell = str | int | float | None
"""What one place of a table holds; None and NaN mean "not labelled" and are shown as a dash."""

DASH = "–"


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


def _rows(rows: Iterable[Iterable[Cell]]) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(row) for row in rows)


@attrs.frozen
class Table:
    """A titled table of plain values.

    ``units`` has one entry per column ("" where there is none); empty, it means no column has one.
    """

    title: str
    columns: tuple[str, ...] = attrs.field(converter=_names)
    rows: tuple[tuple[Cell, ...], ...] = attrs.field(converter=_rows)
    units: tuple[str, ...] = attrs.field(default=(), converter=_names)

    def __attrs_post_init__(self) -> None:
        width = len(self.columns)
        if self.units and len(self.units) != width:
            raise ValueError(f"table {self.title!r}: {len(self.units)} units for {width} columns")
        for row in self.rows:
            if len(row) != width:
                raise ValueError(f"table {self.title!r}: a row has {len(row)} cells, not {width}")

    def headings(self) -> list[str]:
        """Return the column names, each with its unit in brackets."""
        units = self.units or ("",) * len(self.columns)
        return [f"{name} [{unit}]" if unit else name for name, unit in zip(self.columns, units, strict=True)]

    def numeric(self) -> list[bool]:
        """Return for each column whether it is to be aligned as numbers."""
        return [
            any(isinstance(row[place], int | float) for row in self.rows)
            for place in range(len(self.columns))
        ]


def format_cell(value: Cell) -> str:
    """Return a value as shown to a reader: four significant digits, a dash for what is missing."""
    if value is None:
        return DASH
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return DASH
    if value != 0.0 and not 1e-2 <= abs(value) < 1e5:
        return f"{value:.2e}"
    digits = 4 - 1 - (math.floor(math.log10(abs(value))) if value else 0)
    return f"{value:.{min(max(digits, 0), 4)}f}"


def rich_table(table: Table) -> RichTable:
    """Return the table for a rich console."""
    shown = RichTable(title=escape(table.title), title_justify="left", title_style="bold")
    for heading, numeric in zip(table.headings(), table.numeric(), strict=True):
        shown.add_column(escape(heading), justify="right" if numeric else "left")
    for row in table.rows:
        shown.add_row(*(escape(format_cell(value)) for value in row))
    return shown


def html_table(table: Table) -> str:
    """Return the table as an HTML fragment; every text is escaped."""
    numeric = table.numeric()

    def line(tag: str, texts: Sequence[str]) -> str:
        cells = (
            f'<{tag} class="number">{html.escape(text)}</{tag}>'
            if right
            else f"<{tag}>{html.escape(text)}</{tag}>"
            for text, right in zip(texts, numeric, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"

    body = "\n".join(line("td", [format_cell(value) for value in row]) for row in table.rows)
    return (
        f"<table>\n<caption>{html.escape(table.title)}</caption>\n"
        f"<thead>{line('th', table.headings())}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    )
