import io

import pytest
from rich.console import Console

from lsf.report.tables import Table, format_cell, html_table, rich_table


@pytest.fixture
def table() -> Table:
    return Table(
        "Errors [test]",
        ["config type", "energy", "frames"],
        [["ions <far>", 1.23456, 3], ["[bold]", None, 0]],
        ["", "meV/atom", ""],
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        ("water", "water"),
        (12, "12"),
        (0.0, "0.000"),
        (1.23456, "1.235"),
        (123.456, "123.5"),
        (0.0123456, "0.0123"),
        (-12345.6, "-12346"),
        (1.23e-10, "1.23e-10"),
        (4.0e8, "4.00e+08"),
    ],
)
def test_cells_show_four_digits_and_a_dash_for_what_is_missing(value, text):
    assert format_cell(value) == text


def test_terminal_table_shows_units_and_brackets_as_written(table):
    stream = io.StringIO()
    Console(file=stream, width=80).print(rich_table(table))
    shown = stream.getvalue()
    assert "Errors [test]" in shown
    assert "energy [meV/atom]" in shown
    assert "[bold]" in shown
    assert "–" in shown


def test_html_table_escapes_every_text(table):
    fragment = html_table(table)
    assert "ions &lt;far&gt;" in fragment
    assert '<td class="number">1.235</td>' in fragment
    assert "<th>config type</th>" in fragment


def test_rows_and_units_must_match_the_columns():
    with pytest.raises(ValueError, match="a row has 1 cells, not 2"):
        Table("t", ["a", "b"], [[1]])
    with pytest.raises(ValueError, match="1 units for 2 columns"):
        Table("t", ["a", "b"], [], ["eV"])
