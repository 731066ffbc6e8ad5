"""Write the option tables of docs/recipe.md from the classes in lsf.recipe.

Run it from anywhere after changing an option: ``python tools/make_option_tables.py``. A test fails while the
page is behind the classes.
"""

from __future__ import annotations

import re
from pathlib import Path

from lsf.describe import option_rows
from lsf.recipe import TABLES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipe.md"
BLOCK = re.compile(r"(<!-- options: (?P<table>[\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown_table(name: str) -> str:
    """Return the options of one table of the recipe as Markdown."""
    lines = ["| option | accepts | default | meaning |", "|---|---|---|---|"]
    for row in option_rows(TABLES[name]):
        default = row.default if row.default == "required" else f"`{row.default}`"
        cells = (f"`{row.name}`", row.accepts, default, row.doc)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def with_tables(page: str) -> str:
    """Return the page with every block between its markers written anew."""
    return BLOCK.sub(lambda match: match.group(1) + markdown_table(match["table"]) + match.group(3), page)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
