"""A trained model's calculator in periodic cells: lists kept between steps, net charges warned of."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import lsf
from lsf.electrostatics.plan import cache as plan_cache
from lsf.formats.model_file.file import LoadedModel
from tests.builders import WATER, model_file, small_recipe
from tests.models.helpers import water


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    return lsf.load(model_file(tmp_path, small_recipe(electrostatics={"boundary": "auto"}), WATER))


def wet_cell(pbc: bool | tuple[bool, bool, bool]):
    atoms = water(2)
    atoms.set_cell(np.diag([9.0, 8.0, 8.5]))
    atoms.pbc = pbc
    return atoms


def test_lists_are_kept_while_the_cell_stays(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = plan_cache.plan_outline
    monkeypatch.setattr(plan_cache, "plan_outline", lambda *inputs: made.append(1) or original(*inputs))
    atoms = wet_cell(True)
    atoms.calc = loaded.ase_calculator()
    for step in range(3):
        atoms.rattle(0.01, seed=step)
        atoms.get_forces()
    assert len(made) == 1
    atoms.set_cell(atoms.cell * 1.05)
    grown = atoms.get_potential_energy()
    assert len(made) == 2
    atoms.calc = loaded.ase_calculator()
    assert atoms.get_potential_energy() == grown  # to the bit


def test_a_net_charge_is_warned_of_once(loaded: LoadedModel) -> None:
    ion = wet_cell(True)
    del ion[-1]  # OH-
    ion.calc = loaded.ase_calculator()
    with pytest.warns(UserWarning, match="a net charge of -1 e in a fully periodic cell"):
        ion.get_potential_energy()
    ion.rattle(0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ion.get_potential_energy()
        neutral = wet_cell((True, True, False))
        neutral.calc = loaded.ase_calculator()
        neutral.get_potential_energy()
