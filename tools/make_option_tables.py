"""Write the option tables of docs/*.md from the option classes.

Run it from anywhere after changing an option: ``python tools/make_option_tables.py``. A test fails while a
page is behind the classes. A block between ``<!-- options: NAME -->`` and ``<!-- end -->`` holds a table of
the recipe (``data.checks``), what all models share (``model``) or a component (``models.LocalCharges``; of a
model, only what it adds to the rest).
"""

from __future__ import annotations

import re
from pathlib import Path

from lsf.models.backbone_options import BackboneOptions
from lsf.recipe.catalog import catalog
from lsf.recipe.describe import OptionRow, option_rows
from lsf.recipe.schema import TABLES

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"(<!-- options: (?P<table>[\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rows_of(name: str) -> list[OptionRow]:
    """Return the options a block of this name shows."""
    if name in TABLES:
        return option_rows(TABLES[name])
    shared = option_rows(BackboneOptions)
    if name == "model":
        return shared
    kind, _, component = name.partition(".")
    own = option_rows(catalog().options_class(kind, component))
    return [row for row in own if kind != "models" or row not in shared]


def markdown_table(name: str) -> str:
    """Return one table of options as Markdown."""
    lines = ["| option | accepts | default | meaning |", "|---|---|---|---|"]
    for row in rows_of(name):
        default = row.default if row.default == "required" else f"`{row.default}`"
        cells = (f"`{row.name}`", row.accepts, default, row.doc)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def with_tables(page: str) -> str:
    """Return the page with every block between its markers written anew."""
    return BLOCK.sub(lambda match: match.group(1) + markdown_table(match["table"]) + match.group(3), page)


if __name__ == "__main__":
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if with_tables(text) != text:
            path.write_text(with_tables(text), encoding="utf-8")
