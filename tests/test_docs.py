"""What the documentation says is so: links, commands, recipes, examples, and tables that follow the code."""

from __future__ import annotations

import importlib.util
import logging
import re
import shlex
import sys
from pathlib import Path

import attrs
import pytest
import torch

from lsf import units
from lsf.cli import build_parser
from lsf.data.loader import load_data
from lsf.models.derivatives import DERIVED, evaluate
from lsf.recipe.catalog import Catalog, catalog, own_folder
from lsf.recipe.old_names import ERROR_TABLES
from lsf.recipe.quantities import OUTPUTS, PROPERTIES, measures, row_of_output
from lsf.recipe.rules import resolve
from lsf.recipe.schema import Checks
from tests.formats.test_package import small_model, stored
from tests.models.helpers import batch_of, make_model, water

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "recipes" / "data" / "README.md"]
}
# pictures that a script draws after hours of training, and the script
DRAWN = {"docs/images/dissociation.png": "benchmarks/dissociation/run.py"}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def blocks(page: str, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(PAGES[page]) if name == language]


def section_blocks(page: str, heading: str, language: str) -> list[str]:
    """Return the blocks below a heading, up to the next one of its level or above."""
    level = heading.count("#")
    _, _, text = PAGES[page].partition(f"\n{heading}\n")
    end = re.search(
        rf"^#{{1,{level}}} ", FENCE.sub(lambda block: re.sub(r"(?m)^#", " ", block[0]), text), re.M
    )
    return [code for name, code in FENCE.findall(text[: end.start()] if end else text) if name == language]


def prose(page: str) -> str:
    return FENCE.sub("", PAGES[page])


def commands() -> list[tuple[str, str]]:
    """Return (page, command line) of every call of lsf in blocks of shell lines and in running text."""
    found = []
    for page in PAGES:
        joined = (re.sub(r"\\\n\s*", "", block) for block in blocks(page, "sh"))
        lines = [line for block in joined for line in block.splitlines()]
        lines += re.findall(r"`((?:python -m )?lsf(?: [^`]*)?)`", prose(page))
        for line in lines:
            call = re.match(r"(?:\S*/)?(?:python -m )?lsf(?=\s|$)(.*)", line.strip())
            if call and call[1].strip():
                found.append((page, call[1].strip()))
    return found


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, made the way GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", PAGES[page]), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


LINKS = sorted(
    {
        (page, link)
        for page in PAGES
        for link in LINK.findall(prose(page))
        if not link.startswith(("http://", "https://"))
    }
)


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_and_pictures_are_there(page: str, link: str) -> None:
    name, _, anchor = link.partition("#")
    target = (ROOT / page).parent / name if name else ROOT / page
    place = str(target.resolve().relative_to(ROOT))
    if place in DRAWN and not target.exists():
        assert (ROOT / DRAWN[place]).is_file()
        pytest.skip(f"{place} is not there yet: {DRAWN[place]} draws it")
    assert target.exists(), f"{page} links to {link}"
    if anchor:
        assert anchor in anchors(place), f"{page} links to {link}"


@pytest.mark.parametrize(
    "line", [pytest.param(line, id=f"{page}: {line}") for page, line in sorted(set(commands()))]
)
def test_command_lines_are_understood(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(re.sub(r"[\[\]]", "", line), comments=True)
    words = ["run" if word == "COMMAND" else word for word in words]
    if len(words) == 1 and not words[0].startswith("-"):
        words.append("--help")  # the text speaks of the command as such
    if {"--help", "--version"} & set(words):
        with pytest.raises(SystemExit) as end:
            build_parser().parse_args(words)
        assert end.value.code == 0, capsys.readouterr().err
        return
    chosen = build_parser().parse_args(words)
    if words[0] == "describe" and words[1].islower() and words[2] != "NAME" and words[1] != "recipe":
        assert words[2] in catalog().names(words[1])
    recipe = getattr(chosen, "recipe", None)
    if recipe is not None and not recipe.isupper() and not recipe.startswith("my_"):
        assert (own_folder("recipes") / Path(recipe).with_suffix(".toml").name).is_file()


def test_recipes_that_are_named_exist_and_all_are_named() -> None:
    there = {path.stem for path in (ROOT / "recipes").glob("*.toml")}
    for page in PAGES:
        assert set(re.findall(r"recipes/(\w+)\.toml", PAGES[page])) <= there, page
    assert set(re.findall(r"\(recipes/(\w+)\.toml\)", PAGES["README.md"])) == there


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_are_named_exist(page: str) -> None:
    for file, name in TEST.findall(PAGES[page]):
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{page}: {file}::{name}"


# ---------------------------------------------------------------------------------------------------
# examples

EXAMPLES = [
    pytest.param(page, code, id=f"{page}-{index}")
    for page in PAGES
    if page != "CONTRIBUTING.md"
    for index, code in enumerate(blocks(page, "python"))
]


@pytest.mark.parametrize(("page", "code"), EXAMPLES)
def test_python_examples_run(page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example runs in a folder where the demo has left its model (here an untrained, small one)."""
    folder = tmp_path / "runs" / "water_split"
    folder.mkdir(parents=True)
    stored(folder)[1].rename(folder / "water_split.safetensors")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec"), {"__name__": "example"})


def test_the_recipe_of_the_readme_trains_on_bundled_data(tmp_path: Path) -> None:
    (text,) = blocks("README.md", "toml")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "data").symlink_to(ROOT / "recipes" / "data")
    (tmp_path / "my_water.toml").write_text(text, encoding="utf-8")
    recipe = resolve(tmp_path / "my_water.toml")
    splits = load_data(recipe, logging.getLogger("lsf.test"))
    assert len(splits.train) > 9 * len(splits.valid) / 2
    assert splits.facts.species == (1, 8)


def test_the_loss_of_the_contribution_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = section_blocks("CONTRIBUTING.md", "### A loss, step by step", "python")
    (entry,) = section_blocks("CONTRIBUTING.md", "### A loss, step by step", "toml")
    (tmp_path / "huber.py").write_text(code, encoding="utf-8")
    (tmp_path / "registry" / "losses").mkdir(parents=True)
    (tmp_path / "registry" / "losses" / "forces_huber.toml").write_text(entry, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = Catalog([own_folder("registry"), tmp_path / "registry"]).entry("losses", "forces_huber")
    loss = found.target()(found.options_class()(delta=0.2))
    model, recipe = small_model()
    batch = batch_of([water(1)], model, recipe.electrostatics)
    batch.weight_forces = torch.ones(1, dtype=torch.float64)
    errors = torch.tensor([[0.1, 0.0, -0.5]] * 3, dtype=torch.float64)
    value = float(loss({"forces": batch.target_forces + errors}, batch))
    # 0.1² within delta, 0.2 · (2 · 0.5 − 0.2) beyond, over three components
    assert value == pytest.approx((0.01 + 0.16) / 3.0, rel=1e-12)
    assert loss.compute == {"forces"}
    sys.modules.pop("huber")


# ---------------------------------------------------------------------------------------------------
# tables that follow the code


def first_cells(page: str) -> set[str]:
    """Return the words in the first column of a page's tables."""
    cells = re.findall(r"^\| ([^|]+) \|", PAGES[page], re.MULTILINE)
    return {word.strip() for cell in cells for word in re.findall(r"`([^`]+)`", cell) or [cell]}


def test_every_convention_of_the_code_is_on_its_page() -> None:
    rows = {
        cells[0]: cells[1]
        for cells in re.findall(r"^\| ([^|]+) \| ([^|]*)\|", PAGES["docs/conventions.md"], re.MULTILINE)
    }
    for name, unit in units.UNITS.items():
        assert rows[name].strip() == unit
    for name in units.CONVENTIONS:
        assert name in rows or name.replace("_", " ") in rows


def test_every_property_and_check_is_on_the_data_page() -> None:
    assert set(PROPERTIES) | {"head"} <= first_cells("docs/data.md")
    for name, item in PROPERTIES.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", PAGES["docs/data.md"], re.MULTILINE)
        assert item.level in row
        assert ("label" in row) == item.label
    for field in attrs.fields(Checks):
        assert f"`{field.name}`" in PAGES["docs/data.md"], field.name


def test_every_error_column_is_on_the_losses_page_with_its_unit_and_statistics() -> None:
    section = PAGES["docs/losses.md"].partition("## Error tables")[2]
    for name, (label, measure) in measures().items():
        (row,) = re.findall(rf"^\| `{name}` \| (`{label.name}`.*)$", section, re.MULTILINE)
        *_, heading, unit, given = (cell.strip() for cell in row.strip(" |").split("|"))
        assert (heading, unit) == (measure.symbol, measure.shown_unit)
        assert given == ", ".join(measure.statistics)


def test_old_error_tables_are_on_the_migration_page() -> None:
    for name, columns in ERROR_TABLES.items():
        listed = ", ".join(f"`{column}`" for column in columns)
        assert f"| `{name}` | {listed} |" in PAGES["docs/migration.md"]


def test_the_table_has_every_output_and_tells_which_are_derivatives() -> None:
    model, recipe = small_model()
    batch = batch_of([water(1)], model, recipe.electrostatics)
    outputs, always = evaluate(model, batch, DERIVED), evaluate(model, batch, ())
    for name, value in outputs.items():
        row = row_of_output(name)
        rows = {"frame": 1, "atom": 3, "pair": 9}[row.level]
        shape = (9,) if row.level == "pair" else tuple(4 if size == -1 else size for size in row.shape)
        assert value.shape == (rows, *shape), name
        assert row.prediction.derived == (name not in always)
    # and nothing else: a model without the readout has no polarizability
    assert {row.prediction.output for row in OUTPUTS.values()} - {"polarizability"} <= set(outputs)


def test_every_output_is_on_the_models_page() -> None:
    model, recipe = small_model()
    outputs = evaluate(model, batch_of([water(1)], model, recipe.electrostatics), DERIVED)
    polarizable = make_model("LocalSplitCharges", recipe.electrostatics)
    outputs |= evaluate(polarizable, batch_of([water(1)], polarizable, recipe.electrostatics), ())
    assert set(outputs) <= first_cells("docs/models.md")


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        ("models", "docs/models.md"),
        ("boundaries", "docs/boundary_methods.md"),
        ("losses", "docs/losses.md"),
        ("optimizers", "docs/losses.md"),
        ("metrics", "docs/losses.md"),
    ],
)
def test_every_component_is_on_its_page(kind: str, page: str) -> None:
    missing = [name for name in catalog().names(kind) if not re.search(rf"\b{name}\b", PAGES[page])]
    assert not missing, f"{page} does not mention {missing}"


def test_the_recipe_page_names_every_kind_of_component() -> None:
    (sentence,) = re.findall(r"^The kinds are (.*?);", PAGES["docs/recipe.md"], re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", sentence)) == set(catalog().kinds())


def test_option_tables_are_those_of_the_classes() -> None:
    """When this fails: python tools/make_option_tables.py"""
    spec = importlib.util.spec_from_file_location("make_option_tables", ROOT / "tools/make_option_tables.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for page in PAGES:
        if page.startswith("docs/"):
            assert tool.with_tables(PAGES[page]) == PAGES[page], page
