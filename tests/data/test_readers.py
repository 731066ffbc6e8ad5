"""Readers: which one is chosen, what ASE's files hold, parts of files, errors that name file and frame."""

from __future__ import annotations

import gzip
import logging
import shutil
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read as ase_read
from ase.io import write as ase_write
from data_files import HEADS, recipe, waters, write

from lsf.data.loader import load_data
from lsf.data.readers.base import Reader, StructureReader, Structures, shown_path
from lsf.data.readers.choose import checksum_of, read_file, read_frames, read_structures, reader_of
from lsf.data.readers.shards import write_shards
from lsf.errors import CatalogError, DataError, RecipeError
from lsf.recipe.catalog import Catalog, catalog, own_folder
from lsf.recipe.data_files import DataFile, reader_for
from lsf.recipe.read import read_recipe_text
from lsf.recipe.schema import Head

ASE_HEADS = {
    "default": Head(
        info_keys={"energy": "energy", "stress": "stress", "dipole": "dipole"},
        arrays_keys={"forces": "forces", "charges": "charges"},
    )
}
STRESS = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])

VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <kpoints><varray name="kpointlist"><v>0 0 0</v></varray><varray name="weights"><v>1</v></varray></kpoints>
 <atominfo>
  <array name="atoms"><set><rc><c>Na</c><c>1</c></rc><rc><c>Cl</c><c>2</c></rc></set></array>
 </atominfo>
 <structure name="initialpos">{structure}</structure>
{steps}</modeling>
"""
STRUCTURE = (
    '<crystal><varray name="basis"><v>6 0 0</v><v>0 6 0</v><v>0 0 6</v></varray></crystal>'
    '<varray name="positions"><v>0 0 0</v><v>0.5 0 0</v></varray>'
)
STEP = (
    '<calculation><scstep><energy><i name="e_fr_energy">-7.5</i>'
    '<i name="e_0_energy">-7.25</i></energy></scstep>'
    "<structure>{structure}</structure>"
    '<varray name="forces"><v>0 0 {force}</v><v>0 0 -0.5</v></varray>'
    '<varray name="stress"><v>1 0 0</v><v>0 2 0</v><v>0 0 3</v></varray>'
    '<energy><i name="e_fr_energy">-7.5</i><i name="e_0_energy">-9</i></energy></calculation>\n'
)


def vasprun(path: Path, steps: int = 3) -> Path:
    """Write the output of a calculation with some steps."""
    text = "".join(STEP.format(structure=STRUCTURE, force=place) for place in range(steps))
    path.write_text(VASPRUN.format(structure=STRUCTURE, steps=text))
    return path


@pytest.fixture
def structures() -> list[Atoms]:
    """Return salts with the results of a calculation, one atom held fixed."""
    rng = np.random.default_rng(2)
    frames = []
    for place in range(5):
        atoms = Atoms("NaCl", [[0, 0, 0], [2.6, 0, 0.1 * place]], cell=[6, 6, 7], pbc=True)
        atoms.set_constraint(FixAtoms([0]))
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=-7.0 - place,
            free_energy=-7.5 - place,
            forces=rng.normal(size=(2, 3)),
            stress=STRESS + place,
            dipole=np.array([0.1, 0.2, 0.3 + place]),
            charges=np.array([0.9, -0.9]),
            magmoms=np.array([0.5, 0.25]),
        )
        frames.append(atoms)
    return frames


# ---------------------------------------------------------------------------------------------------
# choice


def test_readers_are_asked_in_their_order(tmp_path, structures):
    path = write(tmp_path / "train.xyz", *waters(2))
    write_shards(read_frames(path, HEADS), tmp_path / "shards", 2, {})
    shutil.copy(path, tmp_path / "frames.dat")
    ase_write(tmp_path / "run.traj", structures)
    for name, kind in (
        ("shards", "shards"),
        ("train.xyz", "extxyz"),
        ("frames.dat", "extxyz"),
        ("run.traj", "ase"),
        ("run.traj@::2", "ase"),
    ):
        assert type(reader_of(tmp_path / name)) is catalog().entry("readers", kind).target(), name
    orders = {entry.name: entry.target().order for entry in catalog().entries("readers")}
    assert orders == {"shards": 10, "extxyz": 20, "ase": 90}
    assert all(issubclass(entry.target(), Reader) for entry in catalog().entries("readers"))


def test_a_reader_may_be_named(tmp_path, structures):
    ase_write(tmp_path / "odd", structures, format="traj")
    assert len(read_frames(tmp_path / "odd", ASE_HEADS, reader="ase")) == 5
    with pytest.raises(DataError, match="odd: found bytes that are no text; expected an extended XYZ file"):
        read_frames(tmp_path / "odd", ASE_HEADS, reader="extxyz")
    with pytest.raises(DataError, match=r"odd: found a file; expected a folder of shards with index\.json"):
        read_frames(tmp_path / "odd", ASE_HEADS, reader="shards")
    with pytest.raises(CatalogError, match="no 'extxy' among its readers; did you mean 'extxyz'"):
        read_frames(tmp_path / "odd", ASE_HEADS, reader="extxy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: found a file of none of them; expected a file of a format"):
        read_frames(tmp_path / "empty", ASE_HEADS, reader="ase")


def test_the_recipe_names_it_and_a_wrong_name_gets_the_nearest(tmp_path):
    path = write(tmp_path / "frames.json", *waters(4))
    splits = load_data(recipe(path, reader="extxyz"), logging.getLogger("tests.data"))
    assert [count.frames for count in splits.counts] == [3, 1]
    text = 'schema = 1\nname = "a"\n[data]\ntrain = "a.xyz"\nreader = "exxyz"\n'
    with pytest.raises(RecipeError, match=r'data\.reader: found "exxyz"; (?s:.*)did you mean \'extxyz\''):
        read_recipe_text(text, "recipe.toml")


@pytest.mark.parametrize("name", ["notes.txt", "model.unknown", "frames"])
def test_a_file_that_no_reader_recognises_names_the_readers(tmp_path, name):
    (tmp_path / name).write_text("Dear diary,\nnothing = here\n")
    message = rf"{name}: found a file that no reader recognises; (?s:.*)extxyz: Extended XYZ"
    with pytest.raises(DataError, match=message):
        read_frames(tmp_path / name, HEADS)


class EnergyList(StructureReader):
    """Reads one line per frame: a chemical symbol and an energy."""

    expected = "a list of energies"

    def recognises(self, file: DataFile) -> bool:
        return file.path.suffix == ".list"

    def structures(self, file: DataFile) -> Structures:
        lines = (line.split() for line in file.path.read_text().splitlines())
        atoms = [
            (place, Atoms(words[0], info={"E": float(words[1])})) for place, words in file.selected(lines)
        ]
        return Structures(shown_path(file.path), atoms, [])


def test_a_reader_of_another_package(tmp_path):
    (tmp_path / "readers").mkdir()
    entry = f'kind = "readers"\nsummary = "energies"\ntarget = "{__name__}:EnergyList"\n'
    (tmp_path / "readers" / "energies.toml").write_text(entry)
    components = Catalog([own_folder("registry"), tmp_path])
    (tmp_path / "a.list").write_text("H -13.6\nO -430\nH -13.5\n")
    file = DataFile.of(tmp_path / "a.list@1:")
    reader = reader_for(file, components=components)
    frames = reader.read(file, {"default": Head({"energy": "E"})}, {}).frames
    assert [(frame.index, float(frame.values["energy"])) for frame in frames] == [(1, -430.0), (2, -13.5)]
    assert reader.statistics(file) is None


# ---------------------------------------------------------------------------------------------------
# what ASE's files hold


@pytest.mark.parametrize("name", ["run.traj", "run.db", "run.json"])
def test_results_of_calculations_are_keys(tmp_path, structures, name):
    ase_write(tmp_path / name, structures)
    frames = read_frames(tmp_path / name, ASE_HEADS)
    for place, (frame, atoms) in enumerate(zip(frames, structures, strict=True)):
        assert (frame.index, float(frame.values["energy"])) == (place, -7.0 - place)
        # forces as they were calculated: a fixed atom has them too
        np.testing.assert_array_equal(frame.values["forces"], atoms.calc.results["forces"])
        xx, yy, zz, yz, xz, xy = STRESS + place
        np.testing.assert_array_equal(frame.values["stress"], [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        np.testing.assert_array_equal(frame.values["dipole"], [0.1, 0.2, 0.3 + place])
        np.testing.assert_array_equal(frame.values["charges"], [0.9, -0.9])
        np.testing.assert_array_equal(frame.positions, atoms.positions)
        np.testing.assert_array_equal(frame.cell, atoms.cell)
        assert frame.pbc.all()
    free = Head(info_keys={"energy": "free_energy"}, arrays_keys={"charges": "magmoms"})
    frame = read_frames(tmp_path / name, {"default": free})[1]
    assert float(frame.values["energy"]) == -8.5
    np.testing.assert_array_equal(frame.values["charges"], [0.5, 0.25])


def test_entries_of_trajectories_keep_their_names(tmp_path, structures):
    """ASE renames a column "charge" of a text file; elsewhere this is another key than "charges"."""
    for atoms in structures:
        atoms.info.update(REF_energy=1.5, config_type="salt", config_energy_weight=2.0)
    ase_write(tmp_path / "run.traj", structures)
    head = Head(info_keys={"energy": "REF_energy"}, arrays_keys={"charges": "charge"})
    reading = read_file(tmp_path / "run.traj", {"default": head}, {"salt": 3.0})
    frame = reading.frames[0]
    assert (float(frame.values["energy"]), float(frame.weights["energy"])) == (1.5, 6.0)
    assert "charges" not in frame.values
    assert "found the key 'charge' in no frame" in str(reading.absent[0])


@pytest.mark.parametrize("name", ["rows.db", "rows.json"])
def test_pairs_and_data_of_a_row_are_keys(tmp_path, structures, name):
    reference = np.arange(6.0).reshape(2, 3)
    with ase.db.connect(tmp_path / name) as database:
        for atoms in structures:
            data = {"REF_forces": reference, "mu": np.array([1.0, 2.0, 3.0])}
            database.write(atoms, REF_energy=-3.25, config_type="salt", data=data)
    head = Head({"energy": "REF_energy", "dipole": "mu"}, {"forces": "REF_forces"})
    frames = read_frames(tmp_path / name, {"default": head})
    assert {(float(frame.values["energy"]), frame.config_type) for frame in frames} == {(-3.25, "salt")}
    np.testing.assert_array_equal(frames[0].values["forces"], reference)
    np.testing.assert_array_equal(frames[0].values["dipole"], [1.0, 2.0, 3.0])


def test_a_row_that_says_a_thing_twice_is_refused(tmp_path, structures):
    with ase.db.connect(tmp_path / "rows.db") as database:
        database.write(structures[0])
        database.write(structures[1], data={"energy": -3.0})
    with pytest.raises(DataError, match=r"rows\.db, frame 1: (?s:.*)a second 'energy' among"):
        read_frames(tmp_path / "rows.db", ASE_HEADS)


def test_energies_of_vasp_are_told_apart(tmp_path):
    path = vasprun(tmp_path / "vasprun.xml")
    assert [float(frame.values["energy"]) for frame in read_frames(path, ASE_HEADS)] == [-7.25] * 3
    free = {"default": Head({"energy": "free_energy"}, {"forces": "forces"})}
    frames = read_frames(path, free)
    assert [float(frame.values["energy"]) for frame in frames] == [-7.5] * 3
    assert [frame.values["forces"][0, 2] for frame in frames] == [0.0, 1.0, 2.0]
    (tmp_path / "vasprun.xml.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert len(read_frames(tmp_path / "vasprun.xml.gz", free)) == 3


def test_the_output_of_a_stopped_calculation_is_refused(tmp_path):
    path = vasprun(tmp_path / "vasprun.xml")
    path.write_text(path.read_text().replace("</modeling>\n", "")[:-40])
    with pytest.raises(DataError, match=r"vasprun\.xml: found the end of the file before </modeling>"):
        read_frames(path, ASE_HEADS)
    assert [frame.index for frame in read_frames(f"{path}@:2", ASE_HEADS)] == [0, 1]


def test_a_mapped_key_that_is_missing_gets_the_nearest_one(tmp_path, structures):
    for atoms in structures:
        atoms.calc.results = {"energy": 1.0, "forces": np.zeros((2, 3))}
    ase_write(tmp_path / "run.traj", structures)
    heads = {"default": Head({"energy": "energi"}, {"forces": "force"})}
    energy, forces = read_file(tmp_path / "run.traj", heads).absent
    assert "heads.default.info_keys.energy: found the key 'energi' in no frame" in str(energy)
    assert "did you mean 'energy'? keys per frame in the file: energy" in str(energy)
    assert "did you mean 'forces'?" in str(forces)


def test_frames_are_checked_like_those_of_extended_xyz(tmp_path, structures):
    structures[1].info["REF_energy"] = "high"
    structures[3].info["config_weight"] = -1.0
    ase_write(tmp_path / "run.traj", [*structures, Atoms("X"), Atoms()])
    with pytest.raises(DataError, match="4 problems") as error:
        read_frames(tmp_path / "run.traj", {"default": Head({"energy": "REF_energy"})})
    for text in (
        r"run.traj, frame 1: energy (key 'REF_energy'): found text 'high'; expected 1 number (eV)",
        r"run.traj, frame 3: config_weight: found -1.0",
        r"run.traj, frame 5: species: found atomic number 0 of atom 0; expected a chemical element",
        r"run.traj, frame 6: found no atoms; expected at least one atom",
    ):
        assert text in str(error.value)


# ---------------------------------------------------------------------------------------------------
# parts of files


@pytest.mark.parametrize("name", ["run.traj", "run.db", "run.json", "run.xyz", "run.xyz.gz", "shards"])
@pytest.mark.parametrize(
    ("selection", "places"),
    [("::2", [0, 2, 4]), ("1:3", [1, 2]), ("-2:", [3, 4]), ("3", [3]), ("-1", [4]), ("::-2", [4, 2, 0])],
)
def test_a_part_of_a_file(tmp_path, structures, name, selection, places):
    heads = {"default": Head({"energy": "energy"})}
    if name == "shards":
        ase_write(tmp_path / "run.xyz", structures)
        write_shards(read_frames(tmp_path / "run.xyz", heads), tmp_path / name, 2, {})
    else:
        ase_write(tmp_path / name, structures)
    frames = read_frames(f"{tmp_path / name}@{selection}", heads)
    assert [frame.index for frame in frames] == places
    assert [float(frame.values["energy"]) for frame in frames] == [-7.0 - place for place in places]
    found = read_structures(f"{tmp_path / name}@{selection}").numbered
    assert [place for place, _ in found] == places


def test_a_part_without_frames(tmp_path, structures):
    for name in ("run.traj", "run.xyz"):
        ase_write(tmp_path / name, structures)
        with pytest.raises(
            DataError, match=rf"{name}: found no frame at @7:8; expected a selection of frames"
        ):
            read_frames(f"{tmp_path / name}@7", ASE_HEADS)


def test_an_at_sign_may_be_part_of_a_name(tmp_path):
    path = write(tmp_path / "water@300", *waters(2))
    assert len(read_frames(path, HEADS)) == 2
    with pytest.raises(DataError, match=r"water@hot\.xyz: found no such file"):
        read_frames(tmp_path / "water@hot.xyz", HEADS)


def test_a_broken_frame_after_those_that_are_meant_is_not_looked_at(tmp_path):
    path = write(tmp_path / "a.xyz", *waters(2), "3\nbroken\n")
    assert len(read_frames(f"{path}@:2", HEADS)) == 2
    with pytest.raises(DataError, match=r"a\.xyz, frame 2, line 11: found the end of the file"):
        read_frames(f"{path}@::2", HEADS)


# ---------------------------------------------------------------------------------------------------
# broken files


def test_a_broken_trajectory_names_file_and_frame(tmp_path, structures):
    path = tmp_path / "run.traj"
    ase_write(path, structures)
    content = bytearray(path.read_bytes())
    # the header of a frame stands behind its numbers: break that of the last one
    place = content.rindex(b'"calculator.')
    content[place : place + 1] = b"!"
    path.write_bytes(bytes(content))
    with pytest.raises(
        DataError, match=r"run\.traj, frame 4: found a frame ASE cannot read \(.*the format 'traj'"
    ):
        read_frames(path, ASE_HEADS)


@pytest.mark.parametrize("name", ["run.traj", "run.db", "run.json"])
def test_a_truncated_file_is_refused(tmp_path, structures, name):
    path = tmp_path / name
    ase_write(path, structures)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(DataError, match=rf"{name}, frame \d: found a frame ASE cannot read \(\w+: "):
        read_frames(path, ASE_HEADS)


def test_another_format_under_a_wrong_suffix(tmp_path, structures):
    ase_write(tmp_path / "run.traj", structures)
    (tmp_path / "run.traj").rename(tmp_path / "run.xyz")
    with pytest.raises(DataError, match=r"run\.xyz: found bytes that are no text; expected an extended XYZ"):
        read_frames(tmp_path / "run.xyz", ASE_HEADS)
    assert len(read_frames(tmp_path / "run.xyz", ASE_HEADS, reader="ase")) == 5
    (tmp_path / "broken.xyz.gz").write_bytes(gzip.compress(waters(1)[0].encode())[:-9])
    with pytest.raises(
        DataError, match=r"broken\.xyz\.gz: found a file that cannot be read \(Compressed file"
    ):
        read_frames(tmp_path / "broken.xyz.gz", HEADS)


# ---------------------------------------------------------------------------------------------------
# on the way to a model


def test_training_data_may_be_a_trajectory(tmp_path):
    path = write(tmp_path / "train.xyz", *waters(8))
    images = ase_read(path, ":")
    for atoms in images:
        atoms.calc = SinglePointCalculator(
            atoms, energy=atoms.info["REF_energy"], forces=atoms.arrays["REF_forces"]
        )
    ase_write(tmp_path / "train.traj", images)
    log = logging.getLogger("tests.data")
    keys = {"energy": "REF_energy"}, {"forces": "REF_forces"}
    one = load_data(recipe(path, heads={"default": Head(*keys)}), log)
    keys = {"energy": "energy"}, {"forces": "forces"}
    other = load_data(recipe(tmp_path / "train.traj", heads={"default": Head(*keys)}), log)
    assert one.facts.atomic_energies == other.facts.atomic_energies
    assert one.counts == other.counts
    assert other.facts.provenance["train"]["file"] == "train.traj"
    assert checksum_of(tmp_path / "train.traj") != checksum_of(path)
