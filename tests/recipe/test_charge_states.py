"""One geometry in two charge states: learnable with the total charge as input, not without."""

import io

import numpy as np
import pytest
from ase.io import read
from rich.console import Console

from lsf import load
from lsf.catalog import own_folder
from lsf.errors import RecipeError
from lsf.pipeline import run_recipe
from lsf.resolve import resolve

RECIPE = "charge_states.toml"


def relative_errors(tmp_path, *overrides: str) -> dict[float, float]:
    """Root mean square errors of the test forces by charge, relative to the spread of the references."""
    path = own_folder("recipes") / RECIPE
    result = run_recipe(path, overrides, tmp_path / "run", False, Console(file=io.StringIO()))
    calculator = load(result.model_file).ase_calculator()
    errors: dict[float, list[np.ndarray]] = {1.0: [], -1.0: []}
    references: dict[float, list[np.ndarray]] = {1.0: [], -1.0: []}
    for atoms in read(own_folder("recipes") / "data" / "ag3_test.xyz", ":"):
        reference, charge = atoms.arrays["REF_forces"], atoms.info["total_charge"]
        atoms.calc = calculator
        errors[charge].append(atoms.get_forces() - reference)
        references[charge].append(reference)
    return {
        charge: float(np.std(np.concatenate(errors[charge])) / np.std(np.concatenate(references[charge])))
        for charge in errors
    }


@pytest.mark.slow
def test_charge_states_are_told_apart(tmp_path):
    found = relative_errors(tmp_path)
    assert found[1.0] < 0.15, found
    # the anion's energy has a cusp at the equilateral triangle (Jahn-Teller), where a smooth model errs most
    assert found[-1.0] < 0.5, found


@pytest.mark.slow
def test_a_model_blind_to_the_charge_fits_neither_state(tmp_path):
    found = relative_errors(tmp_path, "model.total_charge_embedding=false")
    # one force for both states is off by half their difference: 0.61 and 0.56 of their spreads, on average
    assert found[1.0] > 0.6, found
    assert found[-1.0] > 0.5, found


def test_a_charge_that_no_key_holds_is_refused():
    path = own_folder("recipes") / RECIPE
    text = "model.total_spin_embedding: found true, but heads.default maps no total_spin"
    with pytest.raises(RecipeError, match=text):
        resolve(path, ["model.total_spin_embedding=true"])
