"""Pictures and page of a run, from plain numbers."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from lsf.errors import LsfError
from lsf.report.page import LONG, write_report
from lsf.report.plots import Panel, loss_figure, parity_figure, save
from lsf.report.tables import Table

PNG = b"\x89PNG\r\n\x1a\n"


def history(n_epochs: int = 6) -> list[dict]:
    """Two stages; every second epoch is evaluated."""
    records = []
    for epoch in range(1, n_epochs + 1):
        record = {"epoch": epoch, "stage": "first" if epoch <= 3 else "second", "train_loss": 1.0 / epoch}
        record["seconds"] = 10.0
        if epoch % 2 == 0:
            record |= {"valid_loss": 2.0 / epoch, "rmse_energy_per_atom": 0.01, "rmse_forces": 0.1 / epoch}
        records.append(record)
    return records


def panel(title, unit, reference, predicted, factor=1e3) -> Panel:
    return Panel(title, unit, f"m{unit}", factor, reference, predicted)


def parity() -> dict[str, list[Panel]]:
    rng = np.random.default_rng(0)
    forces = rng.normal(size=(40, 3))
    energy = np.array([-45.0, -44.0, -43.0])
    return {
        "valid": [
            panel("Energy per atom", "eV/atom", energy, energy - 0.002),
            panel("Forces", "eV/Å", forces, forces + 0.003),
        ],
        "far pairs/λ": [panel("Total charge", "e", np.ones(4), np.ones(4))],
        "nothing": [panel("Dipole", "e·Å", np.full(3, np.nan), np.zeros(3))],
    }


# ------------------------------------------------------------------------------ pictures


def test_only_entries_with_a_reference_are_compared():
    reference = np.array([[1.0, np.nan], [3.0, 4.0]])
    predicted = np.array([[1.5, 9.0], [np.inf, 4.5]])
    shown = panel("Forces", "eV/Å", reference, predicted).labelled()
    assert shown.reference.tolist() == [1.0, 4.0]
    assert shown.predicted.tolist() == [1.5, 4.5]
    with pytest.raises(ValueError, match="reference has 3 entries, prediction 2"):
        panel("Forces", "eV/Å", np.zeros(3), np.zeros(2)).labelled()


def test_panels_keep_their_order_and_empty_ones_are_left_out():
    full, empty = np.ones(2), np.full(2, np.nan)
    panels = [panel(name, "e", empty if name == "Dipole" else full, full) for name in ("B", "Dipole", "A")]
    titles = [axes.get_title() for axes in parity_figure(panels, "run").figure.axes if axes.get_title()]
    assert [title.partition("\n")[0] for title in titles] == ["B", "A"]


def test_parity_panels_state_the_error_in_their_unit():
    figure = parity_figure(parity()["valid"], "run: valid")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["Energy per atom\nRMSE 2 meV/atom  (3 values)", "Forces\nRMSE 3 meV/Å  (120 values)"]
    labels = {axes.get_xlabel() for axes in figure.axes} | {axes.get_ylabel() for axes in figure.axes}
    assert {"reference [eV/Å]", "model [eV/Å]", "error [meV/Å]"} <= labels


def test_every_point_is_inside_its_panel():
    figure = parity_figure(parity()["valid"], "run: valid")
    for axes in figure.axes:
        low, high = axes.get_xlim()
        bottom, top = axes.get_ylim()
        for x, y in axes.collections[0].get_offsets():
            assert low <= x <= high
            assert bottom <= y <= top


def test_rounding_errors_do_not_fill_a_panel():
    charges = np.ones(8)
    figure = parity_figure([panel("Total charge", "e", charges, charges + 1e-15)], "run")
    low, high = figure.axes[0].get_xlim()
    assert high - low > 1e-4


def test_loss_curves_break_where_the_loss_changes_and_errors_do_not():
    figure = loss_figure(history(), "run")
    losses, errors = figure.axes
    train, valid = losses.lines[:2]
    assert train.get_xdata().tolist() == [1, 2, 3, 3.5, 4, 5, 6]
    assert np.isnan(train.get_ydata()[3])
    assert valid.get_xdata().tolist() == [2, 3.5, 4, 6]
    assert [text.get_text() for text in losses.texts] == ["first", "second"]
    energy = next(line for line in errors.lines if line.get_label() == "energy [meV/atom]")
    assert energy.get_xdata().tolist() == [2, 4, 6]
    np.testing.assert_allclose(energy.get_ydata(), 10.0)


@pytest.mark.parametrize("highest", [0.5, 3.0, 200.0, 1e7])
def test_a_logarithmic_axis_has_plain_numbers_few_and_not_none(highest):
    records = [
        {"epoch": 1, "stage": "a", "train_loss": highest},
        {"epoch": 2, "stage": "a", "train_loss": 0.4},
    ]
    axes = loss_figure(records, "run").axes[0]
    low, high = axes.get_ylim()
    shown = [
        label.get_text()
        for place, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        if low <= place <= high
    ]
    assert 2 <= len(shown) <= 10
    assert [float(text) for text in shown]  # not as powers in mathematical type
    assert not any(label.get_text() for label in axes.get_yticklabels(minor=True))


def test_the_name_of_the_first_stage_stands_over_the_axes():
    losses = loss_figure(history(), "run").axes[0]
    assert losses.get_xlim() == (0.5, 6.5)
    assert losses.texts[0].xy[0] == 0.5


def test_what_has_no_place_on_a_logarithm_is_left_out():
    records = [{"epoch": 1, "stage": "a", "train_loss": 0.0}, {"epoch": 2, "stage": "a", "train_loss": None}]
    assert loss_figure(records, "run") is None
    assert loss_figure([*records, {"epoch": 3, "stage": "a", "train_loss": 0.5}], "run") is not None
    assert loss_figure([], "run") is None
    assert parity_figure([], "run") is None


def test_pictures_are_files_of_their_own(tmp_path):
    path = save(loss_figure(history(), "costs $1_2 & more"), tmp_path / "new" / "losses.png")
    assert path.read_bytes().startswith(PNG)
    pixels = imread(path)
    assert pixels.shape[0] > 500
    assert pixels[0, 0, :3].tolist() == [1.0, 1.0, 1.0]
    again = save(loss_figure(history(), "costs $1_2 & more"), tmp_path / "again.png")
    assert again.read_bytes() == path.read_bytes()


# ------------------------------------------------------------------------------ page


class Tags(HTMLParser):
    """Checks that tags are closed in order and collects what they refer to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.sources: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def arguments() -> dict:
    return report_of()


def report_of() -> dict:
    table = Table("Errors <all>", ("frames", "RMSE E"), [("valid", 1.25)], ("", "meV/atom"))
    return {
        "name": "water & <ions>",
        "history": history(),
        "parity": parity(),
        "tables": [table],
        "recipe_text": 'name = "water & <ions>"\n',
        "versions": {"lsf": "0.1.0", "torch": "2.13.0"},
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of a run, in a folder that had a report before."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "parity_old.png").write_bytes(PNG)
    return write_report(folder, **report_of())


def test_page_is_whole_and_needs_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    tags = Tags(text)
    assert tags.open == []
    assert "script" not in tags.names
    assert tags.names.count("img") == 3
    for source in tags.sources:
        assert source.startswith("data:image/png;base64,")
        assert base64.b64decode(source.partition(",")[2]).startswith(PNG)
    assert not re.search(r"https?://|url\(|@import", text)


def test_page_shows_tables_recipe_versions_and_escapes_names(page):
    text = page.read_text(encoding="utf-8")
    for shown in (
        "water &amp; &lt;ions&gt;",
        "Errors &lt;all&gt;",
        "RMSE E [meV/atom]",
        '<td class="number">1.250</td>',
        "6 epochs (first, second) in 1.0 min",
        "Made with lsf 0.1.0, torch 2.13.0.",
    ):
        assert shown in text
    assert "<ions>" not in text


def test_long_tables_are_folded_up(tmp_path, arguments):
    table = Table("Errors by type", ("frames",), [(f"type {number}",) for number in range(LONG + 1)])
    arguments |= {"tables": [*arguments["tables"], table], "parity": {}, "history": []}
    text = write_report(tmp_path, **arguments).read_text(encoding="utf-8")
    assert Tags(text).open == []
    assert f"<details><summary>Errors by type ({LONG + 1} rows)</summary>" in text
    assert text.count("<details>") == 2  # this table and the recipe


def test_pictures_stand_beside_the_page_and_old_ones_go(page):
    names = {path.name for path in page.parent.iterdir()}
    assert names == {"index.html", "losses.png", "parity_valid.png", "parity_far_pairs_λ.png"}


def test_a_run_without_anything_to_show_still_has_a_page(tmp_path, arguments):
    arguments |= {"history": [], "parity": {}, "tables": [], "versions": {}}
    page = write_report(tmp_path, **arguments)
    assert Tags(page.read_text(encoding="utf-8")).open == []
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_a_report_that_cannot_be_written_is_one_message(tmp_path, arguments):
    (tmp_path / "report").write_text("a file")
    with pytest.raises(LsfError, match=r"cannot write .*report"):
        write_report(tmp_path / "report", **arguments)
