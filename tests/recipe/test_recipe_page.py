from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path

import attrs

from lsf.recipe.schema import TABLES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")


def test_the_page_shows_the_options_as_they_are():
    """When this fails: python tools/make_option_tables.py"""
    spec = importlib.util.spec_from_file_location("make_option_tables", ROOT / "tools/make_option_tables.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.with_tables(PAGE) == PAGE
    assert all(f"<!-- options: {name} -->" in PAGE for name in TABLES)


def test_every_option_has_a_sentence_of_meaning_and_one_of_consequence():
    for name, cls in TABLES.items():
        for field in attrs.fields(cls):
            meaning, _, consequence = field.metadata["doc"].partition(". ")
            assert meaning, f"{name}.{field.name}"
            assert consequence.endswith("."), f"{name}.{field.name}"


def test_the_example_of_the_page_is_a_recipe():
    from lsf.recipe.read import read_recipe_text

    example = PAGE.split("```toml\n")[1].split("```")[0]
    tomllib.loads(example)
    assert read_recipe_text(example, "docs/recipe.md", ROOT).name == "water_split"
