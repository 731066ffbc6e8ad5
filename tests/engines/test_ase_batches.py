"""The ASE calculator's skin and its batches: results are those without."""

import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

import lsf
from lsf.engines.ase import batches
from lsf.errors import DataError, LsfError
from tests.engines.engines import exported, structures
from tests.formats.test_package import stored
from tests.models.helpers import triclinic_salt, water

PROPERTIES = ("energy", "forces", "potential", "born_charges")


@pytest.fixture(scope="module")
def salt(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("salt"), "auto")[0]


@pytest.fixture
def molecules(tmp_path):
    return lsf.load(stored(tmp_path)[1])


def assert_same(one, other, tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], rtol=0.0, atol=tolerance, err_msg=name)


def mixed(count=9):
    """Return crystals, slabs and molecules, in fields, of different sizes."""
    found = []
    for index in range(count):
        atoms = (
            water(1 + index % 3, index) if index % 3 == 2 else list(structures().values())[index % 4].copy()
        )
        atoms.info["external_field"] = np.array([0.0, 0.01 * index, -0.02])
        found.append(atoms)
    return found


def test_a_skin_changes_no_result(salt):
    rng = np.random.default_rng(1)
    kept, plain = salt.ase_calculator(skin=0.6), salt.ase_calculator(skin=0.0)
    atoms = structures()["triclinic"]
    for step in range(8):
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        if step == 4:
            atoms.set_cell(np.array(atoms.cell) * 1.01, scale_atoms=True)
        if step == 6:
            atoms.numbers[:2] = atoms.numbers[:2][::-1]
        results = []
        for calculator in (kept, plain):
            calculator.calculate(atoms, PROPERTIES)
            results.append(calculator.results)
        # the same edges in the same order: the same operations
        assert_same(*results, 1e-12)


def test_dynamics_search_for_neighbours_now_and_then(molecules, monkeypatch):
    from lsf.data import neighbors

    searches = []
    find = neighbors.find_neighbors
    monkeypatch.setattr(neighbors, "find_neighbors", lambda *given: searches.append(1) or find(*given))
    atoms = water(2)
    atoms.calc = molecules.ase_calculator()
    VelocityVerlet(atoms, 0.1 * units.fs).run(20)
    assert 1 <= len(searches) < 10


@pytest.mark.parametrize("memory", [1e-9, 5e-3, 1.0])
def test_batches_give_the_numbers_of_single_structures(salt, memory, monkeypatch):
    sizes = []
    evaluate = batches.evaluate
    monkeypatch.setattr(
        batches,
        "evaluate",
        lambda model, batch, compute: sizes.append(batch.num_graphs) or evaluate(model, batch, compute),
    )
    atoms, calculator = mixed(), salt.ase_calculator()
    found = calculator.evaluate_many(atoms, PROPERTIES, memory)
    assert calculator.results == {}
    for item, results in zip(atoms, found, strict=True):
        single = salt.ase_calculator()
        single.calculate(item, PROPERTIES)
        assert ("stress" in results) == all(item.pbc)
        # sums over more atoms are worked off in other blocks
        assert_same(results, single.results, 1e-10)
    assert sum(sizes) == len(atoms)
    # too little memory for two, for all, and enough
    assert max(sizes) == 1 if memory < 1e-6 else max(sizes) > 1
    assert len(sizes) == 2 if memory == 1.0 else len(sizes) > 2


def test_batches_see_the_field_of_the_calculator(salt):
    atoms = mixed(4)
    calculator = salt.ase_calculator(electric_field=[0.0, 0.0, 0.03])
    found = calculator.evaluate_many(atoms)
    for item, results in zip(atoms, found, strict=True):
        calculator.calculate(item)
        assert results["energy"] == pytest.approx(calculator.results["energy"], abs=1e-10)
    assert calculator.evaluate_many([]) == []


def test_batches_of_an_older_calculator_are_in_its_units(tmp_path):
    from lsf.compat.calculators import LocalSplitChargesCalculator

    path = stored(tmp_path)[1]
    calculator = LocalSplitChargesCalculator(path, energy_units_to_eV=2.0, length_units_to_A=0.5)
    atoms = [water(1), water(2)]
    for item, results in zip(atoms, calculator.evaluate_many(atoms), strict=True):
        calculator.calculate(item)
        assert_same(results, calculator.results, 1e-10)


def test_what_batches_refuse(molecules):
    calculator = molecules.ase_calculator()
    periodic = water(1)
    periodic.set_cell(np.eye(3) * 9.0)
    periodic.pbc = True
    with pytest.raises(DataError, match=r"(?s)frame 1.*frame 2.*realspace"):
        calculator.evaluate_many([water(1), periodic, periodic])
    with pytest.raises(DataError, match=r"frame 1.*Na"):
        calculator.evaluate_many([water(1), triclinic_salt()])
    with pytest.raises(LsfError, match="one structure at a time"):
        calculator.evaluate_many([water(1)], ["hessian"])
    with pytest.raises(LsfError, match="above zero"):
        calculator.evaluate_many([water(1)], memory=0.0)
    with pytest.raises(LsfError, match="expected a length in Å"):
        molecules.ase_calculator(skin=-0.1)
