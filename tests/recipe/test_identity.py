"""When two recipes are one run: moved files and written-out defaults do not matter, settings do."""

from __future__ import annotations

import shutil
from pathlib import Path

import attrs
import pytest

from lsf.recipe.catalog import own_folder
from lsf.recipe.read import read_recipe, resolved_toml
from lsf.recipe.run_identity import differences, identity_of
from lsf.recipe.schema import Chosen, Recipe

SOURCE = own_folder("recipes") / "nacl_fixed.toml"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return read_recipe(SOURCE)


def test_a_recipe_is_the_run_it_left(recipe: Recipe) -> None:
    assert differences(resolved_toml(recipe), recipe) == []


def test_a_moved_checkout_is_the_same_run(recipe: Recipe, tmp_path: Path) -> None:
    moved = read_recipe(shutil.copy(SOURCE, tmp_path))
    assert moved.data.train != recipe.data.train
    assert differences(resolved_toml(recipe), moved) == []
    assert identity_of(moved) == identity_of(recipe)


def test_defaults_of_keys_an_older_file_lacks_do_not_matter(recipe: Recipe) -> None:
    text = resolved_toml(recipe)
    older = text.replace("clip_grad = 10.0\n", "")
    assert older != text
    assert differences(older, recipe) == []
    assert "clip_grad" not in identity_of(recipe)
    assert "allow_duplicates" not in identity_of(recipe)


def test_trackers_may_change_between_the_legs_of_a_run(recipe: Recipe) -> None:
    tracked = attrs.evolve(recipe, trackers={"tensorboard": Chosen(None)})
    assert identity_of(tracked) == identity_of(recipe)


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("training.batch_size=3", "training.batch_size: 4 there, 3 here"),
        ("stages.0.lr=0.5", "stages.0.lr: 0.01 there, 0.5 here"),
        ("data.test=other.xyz", "data.test: 'nacl_test.xyz' there, 'other.xyz' here"),
        ("stages.0.loss.forces=7", "stages.0.loss.forces: "),
        ("training.optimizer.use=adamw", "training.optimizer.use: 'adam' there, 'adamw' here"),
    ],
)
def test_what_differs_is_named(recipe: Recipe, override: str, difference: str) -> None:
    other = read_recipe(SOURCE, [override])
    found = differences(resolved_toml(recipe), other)
    assert any(item.startswith(difference) for item in found), found
    assert identity_of(other) != identity_of(recipe)


def test_a_stored_recipe_that_cannot_be_read(recipe: Recipe) -> None:
    (found,) = differences(resolved_toml(recipe).replace("batch_size", "batch_sizes", 1), recipe)
    assert found.startswith("training.batch_sizes: an unknown key")
