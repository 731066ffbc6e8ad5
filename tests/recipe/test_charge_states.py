"""One geometry in two charge states: learnable with the total charge as input, not without."""

import pytest

from benchmarks.charge_states.run import BLIND, SMOOTH, force_errors, relative_errors
from lsf.errors import RecipeError
from lsf.recipe.catalog import own_folder
from lsf.recipe.rules import resolve

RECIPE = "charge_states.toml"


@pytest.mark.slow
def test_charge_states_are_told_apart(tmp_path):
    found = relative_errors(force_errors(tmp_path / "run"))
    assert found["+1"] < 0.15, found
    assert found["-1"] < 0.15, found


@pytest.mark.slow
def test_a_model_blind_to_the_charge_fits_neither_state(tmp_path):
    found = relative_errors(force_errors(tmp_path / "run", *BLIND))
    # one force half way between both states would be off by 0.64 and 0.56 of their spreads
    assert found["both"] > 0.6, found
    assert min(found.values()) > 0.5, found


@pytest.mark.slow
def test_smooth_atomic_energies_miss_the_cusps_of_the_anion(tmp_path):
    found = relative_errors(force_errors(tmp_path / "run", *SMOOTH))
    assert found["-1"] > 0.3, found


def test_a_charge_that_no_key_holds_is_refused():
    path = own_folder("recipes") / RECIPE
    text = "model.total_spin_embedding: found true, but heads.default maps no total_spin"
    with pytest.raises(RecipeError, match=text):
        resolve(path, ["model.total_spin_embedding=true"])
