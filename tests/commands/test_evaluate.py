"""Labelling files: what is written, what is compared, and every way it is refused."""

import io

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from rich.console import Console

import lsf
from lsf.commands.evaluate import evaluate_file
from lsf.data.readers.choose import read_frames
from lsf.data.readers.shards import write_shards
from lsf.errors import DataError, LsfError, ModelFileError
from lsf.recipe.schema import Head
from tests.builders import SPLIT, model_file, small_recipe
from tests.models.helpers import CHARGES, triclinic_salt, water

INFO = {"dipole": "REF_dipole", "total_charge": "total_charge", "external_field": "external_field"}


def labelling_model(folder, model=SPLIT, boundary="auto"):
    recipe = small_recipe(model, {"boundary": boundary}, INFO, {"charges": "formal_charges"}, seed=0)
    return model_file(folder, recipe)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return labelling_model(tmp_path_factory.mktemp("model"), {**SPLIT, "polarizability": True})


@pytest.fixture(scope="module")
def structures() -> list[Atoms]:
    """Molecules and a crystal in turn, with labels under mapped and other names, and one field."""
    rng = np.random.default_rng(5)
    frames = [water(2), triclinic_salt(), water(1), water(3, seed=3)]
    for place, atoms in enumerate(frames):
        atoms.info.update(config_type="salt" if place == 1 else "water", comment="from [a] file", step=place)
        atoms.info["REF_energy"] = float(rng.normal())
        atoms.arrays["REF_forces"] = rng.normal(size=(len(atoms), 3))
        atoms.arrays["tags"] = np.arange(len(atoms))
    frames[0].info["external_field"] = np.array([0.0, 0.01, -0.02])
    frames[2].info["REF_dipole"] = np.array([0.1, 0.2, 0.3])
    return frames


@pytest.fixture
def data(tmp_path, structures):
    path = tmp_path / "frames.xyz"
    write(path, structures, format="extxyz")
    return path


def same(first, second) -> bool:
    return first == second if isinstance(first, str) else np.allclose(first, second, rtol=0, atol=1e-8)


def test_frames_keep_their_order_and_everything_they_had(model, data, tmp_path):
    evaluate_file(model, data, tmp_path / "out" / "labelled.xyz")
    before, after = read(data, ":"), read(tmp_path / "out" / "labelled.xyz", ":")
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        assert new.info["step"] == old.info["step"]
        assert (new.numbers == old.numbers).all()
        assert (new.pbc == old.pbc).all()
        # ASE writes per-atom numbers with eight decimals
        np.testing.assert_allclose(new.positions, old.positions, rtol=0, atol=1e-8)
        np.testing.assert_allclose(new.cell, old.cell, rtol=0, atol=1e-8)
        assert all(same(new.info[key], value) for key, value in old.info.items())
        assert all(same(new.arrays[key], value) for key, value in old.arrays.items())


def test_labels_are_those_of_the_ase_calculator(model, data, tmp_path):
    evaluate_file(model, data, tmp_path / "labelled.xyz", batch_size=3)
    for atoms in read(tmp_path / "labelled.xyz", ":"):
        calculator = lsf.load(model).ase_calculator(device="cpu")
        atoms.calc = calculator
        expected = {
            "energy": atoms.get_potential_energy(),
            **{
                f"energy_{part}": calculator.results[f"energy_{part}"]
                for part in ("coulomb", "field", "atomic")
            },
            "dipole": atoms.get_dipole_moment(),
            "polarizability": calculator.results["polarizability"],
        }
        per_atom = {
            "forces": atoms.get_forces(),
            "charges": atoms.get_charges(),
            "dipoles": calculator.results["partial_dipoles"],
            "atomic_multipoles": calculator.results["density_coefficients"],
            "potential": calculator.get_property("potential", atoms),
        }
        for stored, wanted in ((atoms.info, expected), (atoms.arrays, per_atom)):
            for name, value in wanted.items():
                # positions went through a file with eight decimals, curvatures are of order 10 eV/Å²
                np.testing.assert_allclose(stored[f"lsf_{name}"], value, rtol=0, atol=1e-6, err_msg=name)
        assert ("lsf_stress" in atoms.info) == bool(atoms.pbc.all())
        if atoms.pbc.all():
            stress = atoms.get_stress(voigt=False)
            np.testing.assert_allclose(atoms.info["lsf_stress"], stress, rtol=0, atol=1e-6)


def test_parts_add_up_and_the_field_counts(model, data, tmp_path):
    evaluate_file(model, data, tmp_path / "labelled.xyz", prefix="m_")
    first, *others = read(tmp_path / "labelled.xyz", ":")
    for atoms in (first, *others):
        parts = sum(atoms.info[f"m_energy_{part}"] for part in ("atomic", "short_range", "coulomb", "field"))
        # sums of four numbers of up to 2000 eV in float64
        assert atoms.info["m_energy"] == pytest.approx(parts, abs=1e-9)
        charges = sum(CHARGES[symbol] for symbol in atoms.symbols)
        assert atoms.info["m_total_charge"] == pytest.approx(charges, abs=1e-10)
    field = first.info["m_dipole"] @ first.info["external_field"]
    assert first.info["m_energy_field"] == pytest.approx(field, abs=1e-10)
    assert all(atoms.info["m_energy_field"] == 0.0 for atoms in others)


def test_errors_are_those_of_the_labels(model, data, tmp_path):
    metrics = evaluate_file(model, data, tmp_path / "labelled.xyz", batch_size=2)
    frames = read(tmp_path / "labelled.xyz", ":")
    energies = [(atoms.info["lsf_energy"] - atoms.info["REF_energy"]) / len(atoms) for atoms in frames]
    forces = np.concatenate([atoms.arrays["lsf_forces"] - atoms.arrays["REF_forces"] for atoms in frames])
    dipole = frames[2].info["lsf_dipole"] - frames[2].info["REF_dipole"]
    # the file holds eight decimals
    assert metrics.rmse()["energy_per_atom"] == pytest.approx(np.sqrt(np.mean(np.square(energies))), abs=1e-7)
    assert metrics.rmse()["forces"] == pytest.approx(np.sqrt(np.mean(forces**2)), abs=1e-7)
    assert metrics.rmse()["dipole"] == pytest.approx(np.sqrt(np.mean(dipole**2)), abs=1e-7)
    assert metrics.frames_by_type == {"water": 3, "salt": 1}
    assert metrics.errors_by_type["salt"]["energy_per_atom"].rmse == pytest.approx(abs(energies[1]), abs=1e-7)
    assert "dipole" not in metrics.errors_by_type["salt"]


def test_batch_size_does_not_matter(model, data):
    one, all_at_once = (evaluate_file(model, data, batch_size=size).rmse() for size in (1, 16))
    # sums in another order
    assert one == pytest.approx(all_at_once, rel=1e-10)


def test_table_per_config_type_is_printed(model, data):
    stream = io.StringIO()
    evaluate_file(model, data, console=Console(file=stream, width=200))
    shown = stream.getvalue()
    for text in ("Errors of small.safetensors", "frames: water", "frames: salt", "RMSE E [meV/atom]"):
        assert text in shown
    assert "labelled" not in shown


def test_other_keys_stand_in_for_those_of_the_recipe(model, tmp_path):
    atoms = water(1)
    atoms.info.update(E=-500.0, REF_energy=0.0)
    write(tmp_path / "frames.xyz", atoms, format="extxyz")
    usual = evaluate_file(model, tmp_path / "frames.xyz").rmse()["energy"]
    other = evaluate_file(model, tmp_path / "frames.xyz", info_keys={"energy": "E"}).rmse()["energy"]
    assert other == pytest.approx(abs(usual - 500.0), abs=1e-9)


def test_labels_that_ase_moves_into_a_calculator_are_found_and_kept(model, tmp_path):
    (tmp_path / "frames.xyz").write_text(
        '3\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 dipole="0.1 0.2 0.3" pbc="F F F"\n'
        "O 0 0 0 0.1 0 0\nH 0.96 0 0 0 0.2 0\nH -0.24 0.93 0 0 0 0.3\n"
    )
    metrics = evaluate_file(
        model,
        tmp_path / "frames.xyz",
        tmp_path / "labelled.xyz",
        info_keys={"energy": "energy", "dipole": "dipole"},
        arrays_keys={"forces": "forces"},
    )
    assert {"energy", "forces", "dipole"} <= metrics.rmse().keys()
    (again,) = read(tmp_path / "labelled.xyz", ":")
    assert again.calc.results["energy"] == -1.5
    np.testing.assert_allclose(again.calc.results["dipole"], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(again.calc.results["forces"], np.diag([0.1, 0.2, 0.3]))


def test_a_model_without_charges_writes_none(tmp_path, data):
    path = labelling_model(tmp_path, {"use": "MACE"})
    metrics = evaluate_file(path, data, tmp_path / "labelled.xyz")
    assert "dipole" not in metrics.rmse()
    for atoms in read(tmp_path / "labelled.xyz", ":"):
        written = {key for key in (*atoms.info, *atoms.arrays) if key.startswith("lsf_")}
        expected = {
            f"lsf_{name}"
            for name in ("energy", "energy_atomic", "energy_short_range", "energy_readout", "forces")
        }
        assert written - {"lsf_stress"} == expected


def test_formal_charges_from_the_data(tmp_path, data, structures):
    path = labelling_model(tmp_path, {**SPLIT, "formal_charges": "from_data"})
    evaluate_file(path, data, tmp_path / "labelled.xyz")
    for atoms in read(tmp_path / "labelled.xyz", ":"):
        expected = atoms.arrays["formal_charges"].sum()
        assert atoms.info["lsf_total_charge"] == pytest.approx(expected, abs=1e-10)
    bare = structures[0].copy()
    del bare.arrays["formal_charges"]
    write(tmp_path / "bare.xyz", bare, format="extxyz")
    with pytest.raises(DataError, match=r"bare\.xyz, frame 0: formal_charges: found no formal charges"):
        evaluate_file(path, tmp_path / "bare.xyz")


def test_file_without_references_says_how_to_name_them(model, tmp_path):
    write(tmp_path / "bare.xyz", Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), format="extxyz")
    stream = io.StringIO()
    metrics = evaluate_file(model, tmp_path / "bare.xyz", console=Console(file=stream, width=200))
    assert metrics.errors == {}
    assert "no references to compare with: name their keys with --info-key" in stream.getvalue()


def test_references_that_are_no_numbers_are_left_out_and_counted(model, tmp_path):
    atoms = water(1)
    atoms.info.update(REF_energy=np.nan, total_charge=0.0)
    write(tmp_path / "frames.xyz", atoms, format="extxyz")
    stream = io.StringIO()
    metrics = evaluate_file(model, tmp_path / "frames.xyz", console=Console(file=stream, width=200))
    assert set(metrics.errors) == {"total_charge"}
    assert "1 of 1 frames have references that are not finite" in stream.getvalue()


# ------------------------------------------------------------------------------ refused


def test_keys_that_are_asked_for_and_not_there_are_refused(model, data):
    with pytest.raises(DataError, match=r"\(2 problems\)") as caught:
        evaluate_file(model, data, info_keys={"energy": "REF_enrgy"}, arrays_keys={"forces": "REF_energy"})
    message = str(caught.value)
    assert "frames.xyz: --info-key energy=REF_enrgy: found the key 'REF_enrgy' in no frame" in message
    assert "did you mean 'REF_energy'?" in message
    assert "--array-key forces=REF_energy: found the key 'REF_energy' in no frame" in message
    # where one frame has it, that frame is compared
    assert "dipole" in evaluate_file(model, data, info_keys={"dipole": "REF_dipole"}).errors


def test_unknown_element_names_frame_element_and_what_the_model_knows(model, tmp_path):
    write(tmp_path / "frames.xyz", [water(1), Atoms("NaBr", [[0, 0, 0], [0, 0, 2.5]])], format="extxyz")
    with pytest.raises(
        DataError, match=r"frames\.xyz, frame 1: species: found Br; expected .*trained on: H, O, Na, Cl"
    ):
        evaluate_file(model, tmp_path / "frames.xyz", tmp_path / "labelled.xyz")
    assert not (tmp_path / "labelled.xyz").exists()


def test_inputs_that_are_no_numbers_are_refused(model, tmp_path):
    atoms = water(1)
    atoms.info["external_field"] = np.array([0.0, np.nan, 0.0])
    write(tmp_path / "frames.xyz", atoms, format="extxyz")
    with pytest.raises(DataError, match=r"frame 0: external_field: found NaN or infinity"):
        evaluate_file(model, tmp_path / "frames.xyz")


def test_periodicity_the_boundary_method_cannot_treat(tmp_path, data):
    path = labelling_model(tmp_path, boundary="realspace")
    with pytest.raises(DataError, match=r"frames\.xyz, frame 1: electrostatics\.boundary"):
        evaluate_file(path, data)


@pytest.mark.parametrize("target", ["data", "model"])
def test_inputs_are_never_overwritten(model, data, target):
    out = {"data": data, "model": model}[target]
    before = out.read_bytes()
    with pytest.raises(LsfError, match=r"would be overwritten: give another file"):
        evaluate_file(model, data, out)
    assert out.read_bytes() == before


def test_output_cannot_be_a_folder(model, data, tmp_path):
    with pytest.raises(LsfError, match=r"is a folder: give the name of a file, for example .*frames\.xyz"):
        evaluate_file(model, data, tmp_path)


def test_labels_of_an_earlier_evaluation_ask_for_another_prefix(model, data, tmp_path):
    evaluate_file(model, data, tmp_path / "once.xyz")
    with pytest.raises(LsfError, match=r"already has lsf_atomic_multipoles, .*--prefix lsf2_"):
        evaluate_file(model, tmp_path / "once.xyz", tmp_path / "twice.xyz")
    assert not (tmp_path / "twice.xyz").exists()
    evaluate_file(model, tmp_path / "once.xyz", tmp_path / "twice.xyz", prefix="lsf2_")
    for atoms in read(tmp_path / "twice.xyz", ":"):
        # the positions of the second file are those of the first to eight decimals
        assert atoms.info["lsf_energy"] == pytest.approx(atoms.info["lsf2_energy"], abs=1e-6)


@pytest.mark.parametrize("prefix", ["", "2_", "a b", "x=", 'q"'])
def test_prefixes_that_would_break_the_file(model, data, prefix):
    with pytest.raises(LsfError, match=r"--prefix .*: expected letters, digits and underscores"):
        evaluate_file(model, data, prefix=prefix)


def test_missing_files_are_named(model, data, tmp_path):
    with pytest.raises(ModelFileError, match="there is no such model file"):
        evaluate_file(tmp_path / "none.safetensors", data)
    with pytest.raises(DataError, match=r"no such file(?s:.*)did you mean 'frames\.xyz'"):
        evaluate_file(model, tmp_path / "frame.xyz")


def test_truncated_file_names_frame_and_line(model, data, tmp_path):
    text = data.read_text().splitlines(keepends=True)
    (tmp_path / "cut.xyz").write_text("".join(text[:-1]))
    with pytest.raises(
        DataError, match=r"cut\.xyz, frame 3, line \d+: found the end of the file after 8 atoms"
    ):
        evaluate_file(model, tmp_path / "cut.xyz")


def test_frames_come_from_every_reader(model, data, structures, tmp_path):
    """A trajectory, shards and a part of a file give the numbers of the extended XYZ file."""
    plain = evaluate_file(model, data, tmp_path / "plain.xyz")
    write(tmp_path / "frames.traj", structures)
    info = {"energy": "REF_energy", "external_field": "external_field"}
    head = {"default": Head(info, {"forces": "REF_forces"})}
    write_shards(read_frames(data, head), tmp_path / "shards", 2, {})
    labelled = read(tmp_path / "plain.xyz", ":")
    for name, places in (
        ("frames.traj", [0, 1, 2, 3]),
        ("shards", [0, 1, 2, 3]),
        ("frames.traj@1::2", [1, 3]),
    ):
        metrics = evaluate_file(model, tmp_path / name, tmp_path / "out.xyz")
        for atoms, place in zip(read(tmp_path / "out.xyz", ":"), places, strict=True):
            # the plain file has positions to eight decimals
            assert abs(atoms.info["lsf_energy"] - labelled[place].info["lsf_energy"]) < 1e-6
            assert atoms.info["config_type"] == ("salt" if place == 1 else "water")
        if name == "shards":
            assert metrics.errors["forces"].rmse == plain.errors["forces"].rmse
    with pytest.raises(LsfError, match="would be overwritten"):
        evaluate_file(model, f"{tmp_path / 'frames.traj'}@:1", tmp_path / "frames.traj")
    with pytest.raises(DataError, match=r"--array-key charges=q: found the key 'q' in no frame"):
        evaluate_file(model, tmp_path / "shards", arrays_keys={"charges": "q"})
