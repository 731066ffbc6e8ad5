"""Write the tables of flags of docs/migration.md from lsf/compat/flags.toml and preprocess.toml.

Run it from anywhere after changing a row: ``python tools/make_flag_table.py``. A test fails while the page is
behind the file.
"""

from __future__ import annotations

import re
from pathlib import Path

from lsf.compat.table import markdown_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "migration.md"
BLOCK = re.compile(r"(<!-- (flags|preprocess) -->\n).*?(<!-- end -->)", re.DOTALL)

if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    table = BLOCK.sub(lambda match: match.group(1) + markdown_table(match.group(2)) + match.group(3), page)
    PAGE.write_text(table, encoding="utf-8")
