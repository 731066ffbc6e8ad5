"""Meshes inside TorchScript files: chosen as in Python, with the same numbers."""

import attrs
import numpy as np
import pytest
import torch

from lsf.electrostatics import PlanCache
from lsf.electrostatics.boundary import kinds_by_periodicity
from lsf.electrostatics.plan.coulomb_plan import plan_structure
from lsf.electrostatics.settings import Electrostatics
from lsf.formats.torchscript.plan import ScriptPlanner
from lsf.formats.torchscript.read import ScriptFile, ScriptSystem
from lsf.models.derivatives import evaluate
from tests.formats.test_torchscript import assert_equal, batch, exported
from tests.models.helpers import boxed_water, salt_slab, triclinic_salt, water


def planned(planner, positions, cell, pbc):
    """Return the plan of one structure by the file's planner."""
    return planner(
        torch.tensor(positions),
        torch.tensor(cell)[None],
        torch.tensor(np.array(pbc))[None],
        torch.zeros(len(positions), dtype=torch.int64),
    )


CHOICES = [
    # backend, boundary, periodicity, atoms, whether on a mesh
    ("auto", "pbc", (True, True, True), 50, False),
    ("auto", "pbc", (True, True, True), 6000, True),
    ("auto", "slab", (True, False, True), 400, False),
    ("auto", "slab", (True, False, True), 6000, True),
    ("auto", "realspace", (False, False, False), 100, False),
    ("auto", "realspace", (False, False, False), 1500, True),
    ("auto", "molecule_in_box", (False, False, False), 30, False),
    ("mesh", "auto", (True, True, True), 8, True),
    ("mesh", "auto", (True, True, False), 9, True),
    ("mesh", "auto", (False, False, False), 1, True),
    ("mesh", "molecule_in_box", (False, False, False), 3, True),
    ("direct", "auto", (True, True, True), 6000, False),
]


@pytest.mark.parametrize(("backend", "boundary", "pbc", "n_atoms", "meshed"), CHOICES)
@pytest.mark.parametrize("degree", [0, 2])
def test_meshes_are_those_of_python(backend, boundary, pbc, n_atoms, meshed, degree):
    rng = np.random.default_rng(n_atoms)
    settings = Electrostatics(
        boundary=boundary, backend=backend, multipoles_max_l=degree, mesh_accuracy=rng.uniform(1e-6, 1e-4)
    )
    edge = max((n_atoms / 0.1) ** (1.0 / 3.0), 6.0)
    cell = np.eye(3) * edge
    if boundary != "molecule_in_box":
        cell = cell * rng.uniform(0.9, 1.2, size=3) + rng.normal(scale=0.05 * edge, size=(3, 3))
    positions = rng.uniform(0.1, 0.9, size=(n_atoms, 3)) @ cell
    plan = plan_structure(settings, positions, cell, np.array(pbc))
    planner = torch.jit.script(ScriptPlanner(settings, kinds_by_periodicity(boundary)))
    found = planned(planner, positions, cell, pbc)
    assert bool(found.mesh_order > 0) is meshed
    for name in found._fields[1:]:
        assert torch.equal(getattr(found, name), getattr(plan, name)), name


def test_a_mesh_is_kept_while_it_is_fit():
    settings = Electrostatics(boundary="auto", backend="mesh")
    planner = torch.jit.script(ScriptPlanner(settings, kinds_by_periodicity("auto")))
    cache = PlanCache()
    rng = np.random.default_rng(0)
    sizes = {True: [], False: []}
    for keeps in (False, True):
        planner.meshes.keeps = keeps
        for factor in np.concatenate([np.linspace(1.0, 1.25, 30), np.linspace(1.25, 0.8, 60)]):
            cell = np.eye(3) * [12.0, 13.0, 14.0] * factor
            positions = rng.uniform(size=(20, 3)) @ cell
            found = planned(planner, positions, cell, (True, True, True))
            sizes[keeps].append((*found.mesh_size[0].tolist(), int(found.mesh_order)))
            if keeps:
                plan = cache(settings, positions, cell, np.array([True, True, True]))
                assert sizes[keeps][-1] == (*plan.mesh_size[0].tolist(), int(plan.mesh_order))
    assert len(set(sizes[True])) < len(set(sizes[False]))


STRUCTURES = {
    "slab": lambda: [salt_slab(4) * (2, 1, 1)],
    "realspace": lambda: [water(1), water(11, seed=3)],
    "molecule_in_box": lambda: [boxed_water(), water(4)],
    "auto": lambda: [salt_slab(), water(3), triclinic_salt(9) * (1, 2, 1), water(1)[[0]]],
}
CASES = [("slab", 0), ("realspace", 1), ("molecule_in_box", 1), ("auto", 2)]


@pytest.mark.parametrize(("boundary", "degree"), CASES)
def test_the_file_gives_the_numbers_of_the_model_on_meshes(tmp_path, boundary, degree):
    more = 'num_interactions = 1\nhidden_irreps = "2x0e + 2x1o + 2x2e"'
    settings = {"boundary": boundary, "more": more, "degree": degree, "settings": 'backend = "mesh"'}
    loaded, path = exported(tmp_path, **settings)
    script = ScriptFile(path)
    structures = STRUCTURES[boundary]()
    for chosen in (structures, *([atoms] for atoms in structures)):
        assert bool((batch(loaded, chosen)["mesh_order"] > 0).all())
        # transforms add up some 1e5 numbers: 1e-12 of energies of order 100
        assert_equal(loaded, script, chosen, tolerance=1e-11)
    found = script.evaluate(script.inputs(structures))["energy_coulomb"]
    direct = attrs.evolve(loaded.recipe.electrostatics, backend="direct")
    exact = evaluate(loaded.model, batch(loaded, structures, direct), ())["energy_coulomb"]
    # meshes indeed, and as accurate as asked for
    assert bool(((found - exact).abs() > 1e-12).any())
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_meshed_and_exact_structures_share_a_batch(tmp_path):
    loaded, path = exported(tmp_path, boundary="auto", more="num_interactions = 1")
    script = ScriptFile(path)
    # as if exact sums were so slow that a mesh pays from 50 atoms on
    meshes = script.module.planner.meshes
    assert not meshes.always
    small, slab, large = triclinic_salt(4), salt_slab(3), triclinic_salt(5) * (3, 2, 2)
    meshes.direct_atom, meshes.short_time = 1.0, 50.0
    structures = [small, large, slab]
    plan = script.module.planner(
        *(script.inputs(structures)[name] for name in ("positions", "cell", "pbc", "batch"))
    )
    assert (plan.mesh_order > 0).tolist() == [False, True, False]
    found = script.evaluate(script.inputs(structures), detail=2)
    for name in ("energy", "virial", "stress", "dipole"):
        for index, (atoms, backend) in enumerate(zip(structures, ("direct", "mesh", "direct"), strict=True)):
            settings = attrs.evolve(loaded.recipe.electrostatics, backend=backend)
            alone = evaluate(loaded.model, batch(loaded, [atoms], settings), ("virial", "stress"))
            scale = max(1.0, float(alone[name].abs().max()))
            difference = float((found[name][index] - alone[name][0]).abs().max())
            assert difference < 1e-11 * scale, (name, index)


def test_dynamics_of_a_cell_keep_the_mesh(tmp_path):
    settings = {"boundary": "pbc", "more": "num_interactions = 1", "settings": 'backend = "mesh"'}
    loaded, path = exported(tmp_path, **settings)
    file = ScriptFile(path)
    atoms = triclinic_salt(4)
    system = ScriptSystem(file, atoms.get_chemical_symbols())
    calculator = loaded.ase_calculator()
    for factor in (1.0, 1.03, 1.06, 1.03, 1.0):
        moved = atoms.copy()
        moved.set_cell(atoms.cell * factor, scale_atoms=True)
        moved.calc = calculator
        found = system.evaluate(moved.positions, np.array(moved.cell), moved.pbc)
        assert float(found["energy"][0]) == pytest.approx(moved.get_potential_energy(), abs=1e-9)
    assert system.mesh[3] > 0
    # others that share the file choose their own
    assert not file.module.planner.meshes.keeps


@pytest.mark.slow
def test_a_large_structure_is_summed_on_a_mesh_by_itself(tmp_path):
    loaded, path = exported(tmp_path, boundary="auto", more="num_interactions = 1", degree=0)
    atoms = triclinic_salt(7) * (8, 8, 8)
    atoms.positions += np.random.default_rng(1).normal(scale=0.05, size=atoms.positions.shape)
    assert bool(batch(loaded, [atoms])["mesh_order"] > 0)
    script = ScriptFile(path)
    # 4096 energies of order 100 add up to some 1e6 eV, of which float64 keeps 1e-10
    assert_equal(loaded, script, [atoms], tolerance=1e-12)
