"""Reading extended XYZ: mapping, shapes, weights, and an error that names its place for whatever is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from data_files import HEAD, HEADS, WATER, frame_text, waters, write

from lsf.data.build import build_graph
from lsf.data.readers.base import limited
from lsf.data.readers.choose import read_atoms, read_file, read_frames
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import DataError, Problem
from lsf.recipe.schema import Head


def one(tmp_path, head, **text):
    """Return the only frame of a file under a key mapping."""
    (frame,) = read_frames(write(tmp_path / "one.xyz", frame_text(**text)), {"default": head})
    return frame


def test_a_frame_carries_what_the_keys_map(tmp_path):
    forces = np.arange(9.0).reshape(3, 3)
    frame = one(tmp_path, HEAD, rows=forces)
    assert frame.numbers.tolist() == [8, 1, 1]
    np.testing.assert_array_equal(frame.positions, WATER)
    assert not frame.cell.any()
    assert not frame.pbc.any()
    assert frame.values["energy"] == -14.2
    np.testing.assert_array_equal(frame.values["forces"], forces)
    np.testing.assert_array_equal(frame.values["dipole"], [0.1, 0.2, 0.3])
    assert set(frame.values) == {"energy", "forces", "dipole", "total_charge"}
    assert (frame.head, frame.config_type, frame.index) == ("default", "Default", 0)


def test_keys_that_ase_moves_into_its_calculator(tmp_path):
    head = Head(
        info_keys={"energy": "energy", "stress": "stress", "dipole": "dipole", "virials": "virial"},
        arrays_keys={"forces": "forces", "charges": "charge"},
    )
    frame = one(
        tmp_path,
        head,
        columns="forces:R:3:charge:R:1",
        rows=np.arange(12.0).reshape(3, 4),
        info='energy=-2.5 stress="1 2 3 2 5 6 3 6 9" virial="1 2 3 2 5 6 3 6 9" dipole="1 2 3" '
        'config_dipole_weight="1 1 1"',
    )
    matrix = np.array([[1.0, 2, 3], [2, 5, 6], [3, 6, 9]])
    assert frame.values["energy"] == -2.5
    np.testing.assert_array_equal(frame.values["stress"], matrix)
    np.testing.assert_array_equal(frame.values["virials"], matrix)
    np.testing.assert_array_equal(frame.values["dipole"], [1, 2, 3])
    np.testing.assert_array_equal(frame.values["forces"], np.arange(12.0).reshape(3, 4)[:, :3])
    np.testing.assert_array_equal(frame.values["charges"], [3, 7, 11])


@pytest.mark.parametrize("key", ["stress", "REF_stress", "virial"])
def test_stress_as_six_or_nine_numbers(tmp_path, key):
    name = "virials" if key == "virial" else "stress"
    head = Head(info_keys={name: key})
    six = one(tmp_path, head, columns="", info=f'{key}="1 5 9 6 3 2"')
    nine = one(tmp_path, head, columns="", info=f'{key}="1 2 3 2 5 6 3 6 9"')
    np.testing.assert_array_equal(six.values[name], nine.values[name])
    assert six.values[name].shape == (3, 3)


def test_nested_vectors_and_matrices(tmp_path):
    head = Head(info_keys={"dipole": "mu", "polarizability": "alpha"})
    frame = one(
        tmp_path,
        head,
        columns="",
        info='mu="_JSON [[1.0, 2.0, 3.0]]" alpha="_JSON [[1, 0, 0], [0, 2, 0], [0, 0, 3]]"',
    )
    np.testing.assert_array_equal(frame.values["dipole"], [1, 2, 3])
    np.testing.assert_array_equal(frame.values["polarizability"], np.diag([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("columns", [1, 4, 9])
def test_multipoles_keep_all_columns_of_the_file(tmp_path, columns):
    head = Head(arrays_keys={"atomic_multipoles": "DMA"})
    rows = np.arange(3.0 * columns).reshape(3, columns)
    frame = one(tmp_path, head, columns=f"DMA:R:{columns}", rows=rows)
    np.testing.assert_array_equal(frame.values["atomic_multipoles"], rows)


@pytest.mark.parametrize(
    ("info", "arrays", "text", "message"),
    [
        (
            {"energy": "E"},
            {},
            {"info": "E=abc"},
            r"energy \(key 'E'\): found text 'abc'; expected 1 number \(eV\)",
        ),
        ({"energy": "E"}, {}, {"info": "E"}, "found a key without a number; expected 1 number"),
        ({"energy": "E"}, {}, {"info": 'E="1 2"'}, "found 2 numbers; expected 1 number"),
        ({"dipole": "mu"}, {}, {"info": "mu=1.5"}, "found 1 number; expected 3 numbers"),
        ({"stress": "s"}, {}, {"info": 's="1 2 3 4"'}, r"found 4 numbers; expected 9 numbers \(3×3\) or 6"),
        ({"polarizability": "a"}, {}, {"info": 'a="1 2 3 4 5 6"'}, r"expected 9 numbers \(3×3\) \(e·Å²/V\)"),
        (
            {},
            {"forces": "REF_forces"},
            {"columns": "REF_forces:R:2", "rows": np.zeros((3, 2))},
            r"forces \(key 'REF_forces'\): found an array \(3, 2\); expected 3 numbers for each of 3 atoms",
        ),
        (
            {},
            {"charges": "q"},
            {"columns": "q:S:1", "rows": [["a"]] * 3},
            "charges.*found entries that are not",
        ),
        (
            {},
            {"atomic_multipoles": "m"},
            {"columns": "m:R:3", "rows": np.zeros((3, 3))},
            "expected 1, 4, 9, … numbers for each of 3 atoms",
        ),
    ],
)
def test_wrong_values_name_file_frame_key_found_and_expected(tmp_path, info, arrays, text, message):
    with pytest.raises(DataError, match=message) as error:
        one(tmp_path, Head(info_keys=info, arrays_keys=arrays), **text)
    assert "one.xyz, frame 0: " in str(error.value)


def test_all_problems_of_a_file_at_once(tmp_path):
    path = write(
        tmp_path / "bad.xyz",
        frame_text(info="REF_energy=abc"),
        *waters(1),
        frame_text(info='REF_dipole="1 2" REF_energy=1'),
    )
    with pytest.raises(DataError, match=r"2 problems") as error:
        read_frames(path, HEADS)
    assert "frame 0: energy" in str(error.value)
    assert "frame 2: dipole" in str(error.value)


# ---------------------------------------------------------------------------------------------------
# weights


def test_weights_multiply(tmp_path):
    path = write(
        tmp_path / "w.xyz",
        frame_text(
            info='REF_energy=1 REF_dipole="1 2 3" config_type=special config_weight=2 config_energy_weight=3 '
            'config_dipole_weight="0 0 1"'
        ),
    )
    (frame,) = read_frames(path, HEADS, {"special": 5.0, "other": 7.0})
    assert frame.weights["energy"] == 30.0
    assert frame.weights["forces"] == 10.0
    np.testing.assert_array_equal(frame.weights["dipole"], [0.0, 0.0, 10.0])
    assert frame.weights["total_charge"] == 0.0  # mapped, but this frame does not have it


def test_what_is_absent_or_not_mapped_weighs_nothing(tmp_path):
    frame = one(tmp_path, Head(info_keys={"energy": "REF_energy"}), columns="", info="config_forces_weight=9")
    assert not any(weight.any() for weight in frame.weights.values())
    assert frame.weights["dipole"].shape == (3,)


@pytest.mark.parametrize(
    ("pbc", "weights"),
    [("F F F", [1, 1, 1]), ("T T F", [0, 0, 1]), ("F T T", [1, 0, 0]), ("T T T", [0, 0, 0])],
)
def test_dipole_without_weight_counts_along_open_directions(tmp_path, pbc, weights):
    frame = one(
        tmp_path,
        HEAD,
        info=f'REF_energy=1 REF_dipole="1 2 3" Lattice="9 0 0 0 9 0 0 0 9" pbc="{pbc}"',
    )
    np.testing.assert_array_equal(frame.weights["dipole"], weights)
    assert not frame.has_dipole_weight


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("config_weight=-1", "config_weight: found .*-1.*; expected one number, not negative"),
        ("config_energy_weight=heavy", "config_energy_weight: found 'heavy'"),
        (
            "config_dipole_weight=1",
            "config_dipole_weight: found .*; expected 3 numbers, one for each of x, y and z",
        ),
    ],
)
def test_weights_that_are_none(tmp_path, entry, message):
    with pytest.raises(DataError, match=message):
        one(tmp_path, HEAD, info=f'REF_energy=1 REF_dipole="1 2 3" {entry}')


def test_entries_that_look_like_weights_are_reported(tmp_path):
    path = write(tmp_path / "w.xyz", frame_text(info="REF_energy=1 config_force_weight=2"))
    assert read_file(path, HEADS).unknown_weights == ("config_force_weight",)


# ---------------------------------------------------------------------------------------------------
# keys and heads


def test_a_mapped_key_that_no_frame_has_gets_the_nearest_one(tmp_path):
    head = Head(info_keys={"energy": "ref_energies"}, arrays_keys={"forces": "REF_force"})
    reading = read_file(write(tmp_path / "a.xyz", *waters(2)), {"default": head})
    text = "\n".join(map(str, reading.absent))
    assert "heads.default.info_keys.energy: found the key 'ref_energies' in no frame" in text
    assert "did you mean 'REF_energy'?" in text
    assert "keys per frame in the file: REF_dipole, REF_energy, config_dipole_weight, total_charge" in text
    assert "did you mean 'REF_forces'? keys per atom in the file: REF_forces" in text
    assert not reading.problems


def test_a_key_of_the_other_table_is_told(tmp_path):
    head = Head(info_keys={"energy": "REF_forces"})
    (problem,) = read_file(write(tmp_path / "a.xyz", *waters(1)), {"default": head}).absent
    assert "'REF_forces' is there once per atom, not per frame" in str(problem)


def test_a_key_that_some_frames_have_is_no_problem(tmp_path):
    path = write(tmp_path / "a.xyz", *waters(1), frame_text(info="REF_energy=1", columns=""))
    reading = read_file(path, HEADS)
    assert not reading.absent
    assert "forces" not in reading.frames[1].values


def test_frames_find_their_head_by_name(tmp_path):
    heads = {
        "dft": Head(info_keys={"energy": "E_dft"}),
        "cc": Head(info_keys={"energy": "E_cc"}),
    }
    both = "E_dft=1 E_cc=2"
    path = write(tmp_path / "h.xyz", frame_text(info=f"{both} head=cc"), frame_text(info=both))
    first, second = read_frames(path, heads)
    assert (first.head, float(first.values["energy"])) == ("cc", 2.0)
    assert (second.head, float(second.values["energy"])) == ("dft", 1.0)


def test_the_key_of_the_head_can_be_mapped(tmp_path):
    heads = {"a": Head(info_keys={"head": "level", "energy": "E"}), "b": Head(info_keys={"energy": "F"})}
    (frame,) = read_frames(write(tmp_path / "h.xyz", frame_text(info="E=1 F=2 level=b")), heads)
    assert (frame.head, float(frame.values["energy"])) == ("b", 2.0)


def test_an_unknown_head_is_an_error(tmp_path):
    heads = {"dft": HEAD, "ccsd": HEAD}
    with pytest.raises(
        DataError,
        match=r"head \(key 'head'\): found 'ccsdt'; expected one of .*dft, ccsd\n"
        r".*did you mean 'ccsd'\?",
    ):
        read_frames(write(tmp_path / "h.xyz", frame_text(info="REF_energy=1 head=ccsdt")), heads)


# ---------------------------------------------------------------------------------------------------
# files


def test_blank_lines_between_frames_lose_nothing(tmp_path):
    first, second = waters(2)
    assert len(read_atoms(write(tmp_path / "b.xyz", first, "\n  \n", second, "\n"))) == 2


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_a_truncated_file_names_frame_line_and_what_is_missing(tmp_path, cut):
    first, second = waters(2)
    lines = second.splitlines(keepends=True)
    path = write(tmp_path / "t.xyz", first, *lines[:-cut])
    message = (
        rf"t\.xyz, frame 1, line 6: found the end of the file after {max(0, 3 - cut)} atoms; expected 3 atoms"
    )
    with pytest.raises(DataError, match=message):
        read_atoms(path)


def test_a_line_cut_in_the_middle(tmp_path):
    path = write(tmp_path / "t.xyz", *waters(1), waters(1)[0][:-40] + "\n")
    with pytest.raises(DataError, match=r"frame 1, line 10: found \d columns; expected 7 columns"):
        read_atoms(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("O 0.0 0.0", "O 0.0 zero", r"frame 0, line 3: pos\d: found 'zero'; expected a number"),
        ("O 0.0 0.0", "Qq 0.0 0.0", r"frame 0, line 3: species: found 'Qq'; expected a chemical element"),
        ("O 0.0 0.0", "X 0.0 0.0", r"frame 0, line 3: species: found 'X'; expected a chemical element"),
        ("pbc=", 'stress="1 2" pbc=', r"frame 0, line 2: found a comment line ASE cannot read \(.*stress"),
        ("pbc=", 'mu="_JSON [[1], [2, 3]]" pbc=', r"frame 0, line 2: found a comment line ASE cannot read"),
        ("3\n", "three\n", r"frame 0, line 1: found 'three'; expected the number of atoms"),
        ("3\n", "0\n", r"frame 0, line 1: found '0'; expected the number of atoms"),
        ("3\n", "2\n", r"frame 1, line 5: found 'H .*; expected the number of atoms of the next frame"),
    ],
)
def test_malformed_frames_name_the_line(tmp_path, old, new, message):
    text = frame_text().replace(old, new, 1)
    with pytest.raises(DataError, match=message):
        read_atoms(write(tmp_path / "m.xyz", text))


def test_later_frames_are_still_read_after_a_malformed_one(tmp_path):
    broken = frame_text().replace("O 0.0", "O zero")
    with pytest.raises(DataError, match="2 problems") as error:
        read_atoms(write(tmp_path / "m.xyz", broken, frame_text(), broken))
    assert "frame 2, line 13" in str(error.value)


def test_files_that_are_none(tmp_path):
    write(tmp_path / "water.xyz", *waters(1))
    with pytest.raises(DataError, match=r"found no such file; expected .*\n.*did you mean 'water.xyz'\?"):
        read_frames(tmp_path / "watr.xyz", HEADS)
    with pytest.raises(DataError, match=r"the folder .*nowhere does not exist either"):
        read_frames(tmp_path / "nowhere" / "a.xyz", HEADS)
    with pytest.raises(DataError, match="found a folder that no reader recognises"):
        read_frames(tmp_path, HEADS)
    with pytest.raises(DataError, match=r"found an empty file; expected .* at least one frame"):
        read_frames(write(tmp_path / "empty.xyz", "\n"), HEADS)
    (tmp_path / "packed.xyz").write_bytes(b"\x1f\x8b\x08\xff\xfe")
    with pytest.raises(DataError, match="bytes that are no text"):
        read_frames(tmp_path / "packed.xyz", HEADS)


def test_repeated_problems_are_counted():
    problems = [Problem(f"a.xyz, frame {i}", "energy", f"{i}", "less than 5.0", "try") for i in range(42)]
    shown = limited([*problems, Problem("a.xyz, frame 1", "forces", "x", "y")])
    assert len(shown) == 6
    assert "… and 37 more like this\n    try" in str(shown[4])
    assert str(shown[3]) == "a.xyz, frame 3: energy: found 3; expected less than 5.0"


def test_molecules_are_whole_numbers_and_atoms_without_one_are_below_zero(tmp_path):
    heads = {"default": Head({}, {"molecule_ids": "molID"})}
    path = write(tmp_path / "m.xyz", frame_text(info="", columns="molID:I:1", rows=[[0], [0], [-1]]))
    (frame,) = read_frames(path, heads)
    graph = build_graph(frame, 3.0, Electrostatics(boundary="realspace"), np.zeros(3))
    assert graph.molecule_ids.tolist() == [0, 0, -1]
    (frame,) = read_frames(write(tmp_path / "n.xyz", frame_text()), heads)
    graph = build_graph(frame, 3.0, Electrostatics(boundary="realspace"), np.zeros(3))
    assert graph.molecule_ids.tolist() == [-1, -1, -1]
    path = write(tmp_path / "f.xyz", frame_text(info="", columns="molID:R:1", rows=[[0], [0.5], [1]]))
    with pytest.raises(DataError, match=r"molecule_ids \(key 'molID'\): found numbers with a fraction"):
        read_frames(path, heads)
