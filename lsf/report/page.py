"""The report of a run: its pictures as PNG files, and one page that holds everything and needs nothing.

The page has no scripts and loads nothing, so it can be mailed, archived and opened anywhere.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from lsf.machine.files import replacing
from lsf.report.plots import Panel, loss_figure, parity_figure, save
from lsf.report.tables import Table, html_table

PAGE: Final = "index.html"
LOSSES: Final = "losses.png"

_UNSAFE: Final = re.compile(r"[^\w.-]")
"""Characters that do not go into the name of a file."""

LONG: Final = 15
"""Rows above which a table is folded up."""

STYLE: Final = """
body { max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem; color: #222; background: #fff;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
h1 { margin: 0; font-size: 1.8rem; overflow-wrap: anywhere; }
h2 { margin: 2.4rem 0 0.8rem; padding-bottom: 0.2rem; border-bottom: 1px solid #ccc; font-size: 1.25rem; }
p.summary { margin: 0.2rem 0 0; color: #555; }
div.wide { overflow-x: auto; margin-bottom: 1.6rem; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { padding-bottom: 0.4rem; text-align: left; font-weight: 600; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #e4e4e4; text-align: left; }
td { white-space: nowrap; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; line-height: 1.25; }
th.number, td.number { text-align: right; }
img { display: block; max-width: 100%; height: auto; margin: 0 0 1.6rem; }
pre { overflow-x: auto; padding: 0.8rem 1rem; background: #f6f6f6; font-size: 0.85rem; line-height: 1.4; }
summary { cursor: pointer; }
footer { margin: 2.4rem 0; color: #555; font-size: 0.9rem; }
"""


def write_report(
    folder: str | Path,
    name: str,
    history: Sequence[Mapping[str, Any]],
    parity: Mapping[str, Sequence[Panel]],
    tables: Sequence[Table],
    recipe_text: str,
    versions: Mapping[str, str],
) -> Path:
    """Write the report of a run and return the path of its page, ``index.html``.

    Beside the page stand its pictures, ``losses.png`` and one ``parity_<frames>.png`` per set of frames;
    a picture without anything to show is left out, and one of an earlier report is removed. Every file
    appears whole or not at all.

    Parameters
    ----------
    folder : made where it is missing
    name : of the run
    history : one record per epoch, see :func:`lsf.report.plots.loss_figure`; ``seconds`` are summed up
    parity : by name of the set of frames
    tables : shown in their order, errors first
    recipe_text : the resolved recipe
    versions : by name of the program

    Raises :class:`lsf.errors.LsfError` when a file cannot be written.
    """
    folder = Path(folder)
    figures = {LOSSES: (loss_figure(history, name), "losses and validation errors by epoch")}
    for frames, panels in parity.items():
        file = f"parity_{_UNSAFE.sub('_', frames)}.png"
        figures[file] = (parity_figure(panels, f"{name}: {frames}"), f"predictions by reference, {frames}")
    pictures = [_picture(figure, folder / file, text) for file, (figure, text) in figures.items()]
    page = _page(
        name, _summary(history), tables, [shown for shown in pictures if shown], recipe_text, versions
    )
    with replacing(folder / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    for old in folder.glob("parity_*.png"):
        if old.name not in figures:
            old.unlink(missing_ok=True)
    return folder / PAGE


def _table(table: Table) -> str:
    """Return a table that scrolls where it is too wide, and is folded up where it is long."""
    shown = f'<div class="wide">{html_table(table)}</div>'
    if len(table.rows) <= LONG:
        return shown
    heading = f"{html.escape(table.title)} ({len(table.rows)} rows)"
    return f"<details><summary>{heading}</summary>\n{shown}</details>"


def _picture(figure: Figure | None, path: Path, text: str) -> str:
    """Write a figure and return it as an image that is part of the page; "" where there is none."""
    if figure is None:
        path.unlink(missing_ok=True)
        return ""
    content = base64.b64encode(save(figure, path).read_bytes()).decode("ascii")
    return f'<img src="data:image/png;base64,{content}" alt="{html.escape(text)}">'


def _summary(history: Sequence[Mapping[str, Any]]) -> str:
    """Return how long the training was, in one line; "" where nothing was trained."""
    if not history:
        return ""
    stages = ", ".join(dict.fromkeys(str(record["stage"]) for record in history))
    minutes = sum(float(record.get("seconds", 0.0)) for record in history) / 60.0
    epochs = f"{len(history)} epoch" + ("s" if len(history) != 1 else "")
    return f"{epochs} ({stages}) in {minutes:.1f} min"


def _page(
    name: str,
    summary: str,
    tables: Sequence[Table],
    pictures: Sequence[str],
    recipe_text: str,
    versions: Mapping[str, str],
) -> str:
    shown_name = html.escape(name)
    shown_tables = "\n".join(_table(table) for table in tables)
    made_with = ", ".join(f"{program} {version}" for program, version in versions.items())
    parts = [
        f"<h1>{shown_name}</h1>",
        f'<p class="summary">{html.escape(summary)}</p>' if summary else "",
        f"<h2>Tables</h2>\n{shown_tables}" if tables else "",
        "<h2>Pictures</h2>\n" + "\n".join(pictures) if pictures else "",
        "<h2>Recipe</h2>\n<details><summary>all settings, defaults filled in</summary>\n"
        f"<pre>{html.escape(recipe_text)}</pre></details>",
        f"<footer>Made with {html.escape(made_with)}.</footer>" if versions else "",
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{shown_name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
