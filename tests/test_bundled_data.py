"""The bundled data sets keep the conventions of lsf, and the tools that made them are exact."""

from __future__ import annotations

import importlib
import sys
import tomllib
from itertools import combinations
from pathlib import Path
from types import ModuleType

import ase.io
import numpy as np
import pytest
from ase import Atoms

from lsf.units import COULOMB_CONSTANT

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
DATA = RECIPES / "data"
FILES = sorted(path.name for path in DATA.glob("*.xyz"))
XTB_FILES = [name for name in FILES if name.startswith(("water", "ions", "dissociation", "ag3"))]
RESPONSE_FILES = [name for name in XTB_FILES if name.startswith(("water", "ions"))]
ION_FILES = [name for name in FILES if not name.startswith("ag3")]
NACL_FILES = [name for name in FILES if name not in XTB_FILES]
SETS = ("water_clusters", "ions", "dissociation", "nacl", "mixed_periodic", "ag3")

# Half a unit of the sixth decimal, times the sum of |r| of up to 18 atoms within 8 Å, and some room.
ROUNDING = 1e-4


def frames_of(name: str) -> list[Atoms]:
    return ase.io.read(DATA / name, ":")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch):
    """Return an importer of the modules in tools/, which are scripts and no package."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and "tools" in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_the_data_folder_stays_below_four_megabytes() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 4_000_000


def test_recipes_name_the_files_that_exist_and_every_file_is_used() -> None:
    used = set()
    for path in RECIPES.glob("*.toml"):
        data = tomllib.loads(path.read_text(encoding="utf-8"))["data"]
        tests = data["test"]
        used |= {data["train"], data["valid"], *(tests.values() if isinstance(tests, dict) else [tests])}
    assert used == {f"data/{name}" for name in FILES}


def test_the_two_dissociation_recipes_differ_in_the_model_only() -> None:
    charged, short = (
        tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))
        for name in ("dissociation", "dissociation_mace")
    )
    backbone = {
        key: value for key, value in charged.pop("model").items() if key not in ("use", "formal_charges")
    }
    assert {key: value for key, value in short.pop("model").items() if key != "use"} == backbone
    assert {charged.pop("name"), short.pop("name")} == {"dissociation", "dissociation_mace"}
    assert charged == short


@pytest.mark.parametrize("name", ION_FILES)
def test_formal_charges_add_up_to_the_total_charge(name: str) -> None:
    for frame in frames_of(name):
        assert frame.arrays["formal_charges"].sum() == frame.info["total_charge"]  # integers: no rounding


@pytest.mark.parametrize("name", XTB_FILES)
def test_atomic_multipoles_carry_charge_and_dipole_of_the_frame(name: str) -> None:
    for frame in frames_of(name):
        multipoles = frame.arrays["REF_atomic_multipoles"]
        charges, dipoles = multipoles[:, 0], multipoles[:, [3, 1, 2]]  # stored Q, y, z, x
        assert charges.sum() == pytest.approx(frame.info["total_charge"], abs=ROUNDING)
        np.testing.assert_allclose(charges, frame.arrays["REF_charges"], atol=1e-12)
        dipole = charges @ frame.positions + dipoles.sum(axis=0)
        np.testing.assert_allclose(frame.info["REF_dipole"], dipole, atol=ROUNDING)


@pytest.mark.parametrize("name", RESPONSE_FILES)
def test_fields_have_the_stated_sign_and_push_a_charged_cluster(name: str) -> None:
    frames = frames_of(name)
    fields = np.array([frame.info["electric_field"] for frame in frames], dtype=float)
    assert np.count_nonzero(np.any(fields != 0.0, axis=1)) == pytest.approx(len(frames) / 3, abs=1)
    for frame, field in zip(frames, fields, strict=True):
        np.testing.assert_array_equal(np.asarray(frame.info["external_field"], dtype=float), -field)
        force = frame.arrays["REF_forces"].sum(axis=0)
        # the SCF is converged to about 1e-6 eV/Å per atom
        np.testing.assert_allclose(force, frame.info["total_charge"] * field, atol=ROUNDING)


@pytest.mark.parametrize("name", RESPONSE_FILES)
def test_polarizabilities_are_symmetric_and_positive(name: str) -> None:
    for frame in frames_of(name):
        tensor = np.reshape(frame.info["REF_polarizability"], (3, 3))
        np.testing.assert_allclose(tensor, tensor.T, atol=1e-12)
        # a minimal basis gives water almost no polarizability out of its plane, so zero is a valid value
        assert np.linalg.eigvalsh(tensor).min() > -1e-3


@pytest.mark.parametrize("name", NACL_FILES)
def test_dipole_weights_follow_the_periodicity(name: str) -> None:
    for frame in frames_of(name):
        np.testing.assert_array_equal(frame.info["config_dipole_weight"], np.where(frame.pbc, 0.0, 1.0))
        assert ("REF_stress" in frame.info) == bool(frame.pbc.all())
        dipole = frame.arrays["formal_charges"] @ frame.positions
        np.testing.assert_allclose(frame.info["REF_dipole"], dipole, atol=1e-7)  # eight decimals are stored


def test_the_mixed_set_has_all_three_periodicities_in_every_split() -> None:
    for split in ("train", "valid", "test"):
        frames = frames_of(f"mixed_periodic_{split}.xyz")
        assert {int(frame.pbc.sum()) for frame in frames} == {0, 2, 3}
        assert {frame.info["total_charge"] for frame in frames if not frame.pbc.any()} - {0.0}


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_silver_geometry_comes_in_both_charge_states(split: str) -> None:
    frames = frames_of(f"ag3_{split}.xyz")
    for one, other in zip(frames[::2], frames[1::2], strict=True):
        assert {one.info["total_charge"], other.info["total_charge"]} == {1.0, -1.0}
        np.testing.assert_array_equal(one.positions, other.positions)


@pytest.mark.parametrize("name", SETS)
def test_splits_share_no_structure(name: str) -> None:
    prints = {
        file: {_fingerprint(frame) for frame in frames_of(file)} for file in FILES if file.startswith(name)
    }
    assert len(prints) >= 3
    for first, second in combinations(prints, 2):
        assert not prints[first] & prints[second], f"{first} and {second} share structures"


def _fingerprint(frame: Atoms) -> tuple[float, ...]:
    """Return what does not change when a structure is moved, turned or its atoms reordered, to 1e-5 Å."""
    distances = frame.get_all_distances(mic=bool(frame.pbc.any()))
    return tuple(np.sort(distances[np.triu_indices(len(frame), 1)]).round(5).tolist())


def test_far_ions_attract_each_other_as_two_charges_do() -> None:
    for name in ("dissociation_curve.xyz", "dissociation_test_far.xyz"):
        for frame in frames_of(name):
            distance = frame.info["distance"]
            if distance < 10.0:
                continue
            first = frame.arrays["REF_charges"][: int(frame.info["natomsA"])].sum()
            assert first == pytest.approx(1.0, abs=1e-3)
            energy = frame.info["REF_energy"] - frame.info["energyA"] - frame.info["energyB"]
            # thermal ions carry dipoles of up to 0.2 e·Å: k_e 2 μ/r² is 0.06 eV at 10 Å
            allowed = 0.005 if name == "dissociation_curve.xyz" else 0.06
            assert energy == pytest.approx(-COULOMB_CONSTANT / distance, abs=allowed)


def test_training_pairs_end_where_the_far_test_begins() -> None:
    def distances(name: str) -> list[float]:
        return [frame.info["distance"] for frame in frames_of(name) if "distance" in frame.info]

    assert max(distances("dissociation_train.xyz") + distances("dissociation_valid.xyz")) < 6.0
    assert min(distances("dissociation_test_far.xyz")) > 6.0
    assert max(distances("dissociation_curve.xyz")) == pytest.approx(15.0)


@pytest.mark.parametrize("name", NACL_FILES)
def test_labels_of_point_ions_are_recomputed(name: str, tool) -> None:
    energies = tool("fumi_tosi")
    for frame in frames_of(name)[:3]:
        labels = energies.label(frame.numbers, frame.positions, frame.cell[:], int(frame.pbc.sum()))
        assert labels.energy == pytest.approx(frame.info["REF_energy"], abs=2e-8)  # eight decimals
        np.testing.assert_allclose(labels.forces, frame.arrays["REF_forces"], atol=1e-6)  # six decimals
        if frame.pbc.all():
            stress = labels.strain_derivative.ravel() / frame.get_volume()
            np.testing.assert_allclose(stress, frame.info["REF_stress"], atol=2e-8)


@pytest.mark.parametrize("dimensions", [0, 2, 3])
def test_forces_of_point_ions_are_the_slope_of_their_energy(dimensions: int, tool) -> None:
    energies, step = tool("fumi_tosi"), 1e-4
    frame = next(f for f in frames_of("mixed_periodic_test.xyz") if f.pbc.sum() == dimensions)
    for atom, axis in ((0, 0), (1, 1), (2, 2)):
        values = []
        for sign in (1.0, -1.0):
            positions = frame.positions.copy()
            positions[atom, axis] += sign * step
            values.append(energies.label(frame.numbers, positions, frame.cell[:], dimensions).energy)
        slope = (values[0] - values[1]) / (2.0 * step)
        forces = energies.label(frame.numbers, frame.positions, frame.cell[:], dimensions).forces
        assert forces[atom, axis] == pytest.approx(-slope, abs=1e-6)  # step² times the third derivative


def test_stress_of_point_ions_is_the_strain_derivative(tool) -> None:
    energies, step = tool("fumi_tosi"), 1e-5
    frame = frames_of("nacl_test.xyz")[0]
    exact = energies.label(frame.numbers, frame.positions, frame.cell[:], 3).strain_derivative
    for a, b in ((0, 0), (0, 1), (2, 1)):
        values = []
        for sign in (1.0, -1.0):
            strain = np.eye(3)
            strain[a, b] += sign * step  # vectors are rows: r_b gains ε_ab r_a
            values.append(
                energies.label(frame.numbers, frame.positions @ strain, frame.cell[:] @ strain, 3).energy
            )
        # energies near -60 eV carry about 1e-13 eV of rounding, divided by the step
        assert exact[a, b] == pytest.approx((values[0] - values[1]) / (2.0 * step), abs=1e-6)


def test_slab_sum_is_the_limit_of_three_dimensional_sums(tool) -> None:
    energies = tool("fumi_tosi")
    frame = next(f for f in frames_of("mixed_periodic_test.xyz") if f.pbc.sum() == 2)
    cell = frame.cell[:].copy()
    cell[2, 2] = 60.0
    slab = energies.label(frame.numbers, frame.positions, cell, 2).energy
    periodic = energies.label(frame.numbers, frame.positions, cell, 3).energy
    normal = frame.arrays["formal_charges"] @ frame.positions[:, 2]
    # Yeh and Berkowitz: the k = 0 term; what is left decays as exp(-2π · gap / a), below 1e-12 here
    periodic += 2.0 * np.pi * COULOMB_CONSTANT * normal**2 / abs(np.linalg.det(cell))
    assert slab == pytest.approx(periodic, abs=1e-9)


@pytest.mark.parametrize(("dimensions", "match"), [(1, "expected 0, 2 or 3"), (3, "has charge \\+1 e")])
def test_point_ion_sums_refuse_what_they_cannot_do(dimensions: int, match: str, tool) -> None:
    with pytest.raises(ValueError, match=match):
        tool("fumi_tosi").label(np.array([11]), np.zeros((1, 3)), np.eye(3) * 6.0, dimensions)


def test_written_frames_read_back(tmp_path: Path, tool) -> None:
    writer = tool("extxyz")
    positions = writer.rounded([[0.1234567, -1e-9, 2.0], [1.0, 0.0, 0.0]])
    frame = writer.Frame(
        np.array([11, 17]),
        positions,
        (True, True, False),
        np.diag([4.0, 5.0, 6.0]),
        {"config_type": "a b", "REF_energy": -1.5, "vector": np.array([1.0, 2.0, -3.0])},
        {"REF_forces": positions},
    )
    writer.write_frames(tmp_path / "deep" / "frames.xyz", [frame])
    read = ase.io.read(tmp_path / "deep" / "frames.xyz")
    np.testing.assert_array_equal(read.positions, positions)
    np.testing.assert_array_equal(read.arrays["REF_forces"], positions)
    np.testing.assert_array_equal(read.cell.lengths(), [4.0, 5.0, 6.0])
    assert read.pbc.tolist() == [True, True, False]
    assert read.info["config_type"] == "a b"
    assert read.info["REF_energy"] == -1.5
    np.testing.assert_array_equal(read.info["vector"], [1.0, 2.0, -3.0])


@pytest.mark.parametrize("name", XTB_FILES)
def test_xtb_labels_are_recomputed(name: str, tool) -> None:
    pytest.importorskip("tblite", reason="recomputing GFN2-xTB labels needs the package tblite")
    method = tool("gfn2")
    for frame in frames_of(name)[:3]:  # none of them has a state below that of the standard guess
        field = np.asarray(frame.info.get("electric_field", np.zeros(3)), dtype=float)
        labels = method.label(frame.numbers, frame.positions, frame.info["total_charge"], field)
        # SCF thresholds: other processors and library versions agree to about 1e-6
        assert labels.energy == pytest.approx(frame.info["REF_energy"], abs=1e-5)
        np.testing.assert_allclose(labels.forces, frame.arrays["REF_forces"], atol=1e-5)
        np.testing.assert_allclose(labels.dipole(frame.positions), frame.info["REF_dipole"], atol=1e-5)


@pytest.mark.parametrize(("name", "index"), [("ag3_test.xyz", 16), ("ag3_train.xyz", 90)])
def test_labels_of_silver_are_those_of_the_lowest_state(name: str, index: int, tool) -> None:
    pytest.importorskip("tblite", reason="recomputing GFN2-xTB labels needs the package tblite")
    silver, frame = tool("make_silver_data"), frames_of(name)[index]
    labels, start = silver.ground_state(frame)
    assert start is not None
    assert labels.energy == pytest.approx(frame.info["REF_energy"], abs=1e-5)
    np.testing.assert_allclose(labels.forces, frame.arrays["REF_forces"], atol=1e-5)
    np.testing.assert_allclose(labels.dipole(frame.positions), frame.info["REF_dipole"], atol=1e-5)
    # the standard guess ends tens of meV higher
    standard = tool("gfn2").label(frame.numbers, frame.positions, frame.info["total_charge"])
    assert standard.energy > labels.energy + 0.02
