"""From a recipe to splits: everything checked at once, deterministic."""

from __future__ import annotations

import json
import logging

import attrs
import numpy as np
import pytest
from data_files import HEAD, HEADS, WATER, Charged, frame_text, recipe, waters, write

from lsf.data.loader import load_data
from lsf.data.statistics import count_table
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import DataError
from lsf.recipe.schema import Checks, Head, LossTerm, Stage

LOG = logging.getLogger("tests.data")


def load(*args, **kwargs):
    return load_data(recipe(*args, **kwargs), LOG)


def test_splits_facts_and_counts(tmp_path):
    train = write(tmp_path / "train.xyz", *waters(8))
    test = write(tmp_path / "test.xyz", *waters(3, seed=9))
    splits = load(train, test=test, options=Charged(formal_charges={"H": 1.0, "O": -2.0}))
    assert [len(splits.train), len(splits.valid), len(splits.tests["test"])] == [6, 2, 3]
    facts = splits.facts
    assert facts.species == (1, 8)
    assert set(facts.atomic_energies) == {1, 8}
    assert facts.avg_num_neighbors == 2.0  # each of three atoms sees the other two
    assert facts.n_frames == {"train": 6, "valid": 2, "test": 3}
    assert facts.provenance["train"]["file"] == facts.provenance["valid"]["file"] == "train.xyz"
    assert facts.provenance["test"]["labels"]["forces"] == 27
    assert len(facts.provenance["test"]["sha256"]) == 64
    json.dumps(facts.provenance)
    assert splits.train[0].formal_charges.tolist() == [-2.0, 1.0, 1.0]
    table = count_table(splits.counts)
    assert table.columns == ("split", "frames", "atoms", "energy", "forces", "dipole", "total_charge")
    assert table.rows[0] == ("train", 6, 18, 6, 54, 18, 6)


def test_dipole_components_and_absent_labels_are_not_counted(tmp_path):
    slab = frame_text(
        info='REF_energy=-14 REF_dipole="1 2 3" config_dipole_weight="0 0 1" Lattice="6 0 0 0 6 0 0 0 20" '
        'pbc="T T F"'
    )
    splits = load(write(tmp_path / "a.xyz", *waters(3), slab), valid_fraction=0.1, seed=1)
    counts = {count.split: count for count in splits.counts}
    total = {name: sum(count.labels[name] for count in counts.values()) for name in counts["train"].labels}
    assert total["dipole"] == 3 * 3 + 1
    assert total["total_charge"] == 3
    assert total["stress"] == 0


def test_the_split_depends_on_the_seed_only(tmp_path):
    path = write(tmp_path / "train.xyz", *waters(20))

    def drawn(seed):
        splits = load(path, seed=seed)
        return [int(graph.frame_index) for graph in splits.train], [int(g.frame_index) for g in splits.valid]

    train, valid = drawn(3)
    assert (train, valid) == drawn(3)
    assert drawn(4)[1] != valid
    assert sorted(train + valid) == list(range(20))
    assert train == sorted(train)
    assert len(valid) == 5


def test_named_tests_and_a_validation_file(tmp_path):
    train, valid, near, far = (
        write(tmp_path / f"{name}.xyz", *waters(3, seed=seed))
        for seed, name in enumerate(("train", "valid", "near", "far"))
    )
    splits = load(train, valid=valid, valid_fraction=None, test={"near": str(near), "far": str(far)})
    assert list(splits.tests) == ["near", "far"]
    assert len(splits.train) == len(splits.valid) == 3


def test_a_test_set_cannot_be_called_train(tmp_path):
    path = write(tmp_path / "train.xyz", *waters(3))
    with pytest.raises(DataError, match=r"data\.test\.train: found 'train'; expected another name"):
        load(path, test={"train": str(path)})


def test_isolated_atoms_give_energies_and_are_not_trained_on(tmp_path):
    atoms = [
        frame_text(symbol, [[0, 0, 0]], f"REF_energy={energy} config_type=IsolatedAtom", "")
        for symbol, energy in (("H", -13.6), ("O", 12.9))
    ]
    path = write(tmp_path / "train.xyz", *atoms, *waters(4))
    splits = load(path, atomic_energies="isolated")
    assert splits.facts.atomic_energies == {1: -13.6, 8: 12.9}
    assert len(splits.train) + len(splits.valid) == 4
    with pytest.raises(DataError, match="no energy for O; expected one for every element"):
        load(write(tmp_path / "b.xyz", atoms[0], *waters(4)), atomic_energies="isolated")
    with pytest.raises(DataError, match="found none after isolated atoms and validation frames"):
        load(write(tmp_path / "c.xyz", *atoms), atomic_energies="isolated")


def test_given_energies_and_energies_of_another_method(tmp_path):
    path = write(tmp_path / "train.xyz", *waters(4))
    assert load(path, atomic_energies={"H": -1.0, "O": -12.0}).facts.atomic_energies == {1: -1.0, 8: -12.0}
    with pytest.raises(
        DataError, match=r"energy: found an energy \+684\.\d eV per atom .*; expected within 20 eV"
    ):
        load(path, atomic_energies={"H": -13.6, "O": -2040.0})
    with pytest.raises(DataError, match=r"recipe small: data.atomic_energies: found no energy for O"):
        load(path, atomic_energies={"H": -13.6})
    (tmp_path / "e0.toml").write_text("H = -1.0\nO = -12.0\n")
    assert load(path, atomic_energies=str(tmp_path / "e0.toml")).facts.atomic_energies[8] == -12.0


def test_one_energy_in_other_units_is_found_though_the_average_follows_it(tmp_path):
    hartree = frame_text(info=f"REF_energy={-14.2 * 27.2} total_charge=0")
    path = write(tmp_path / "train.xyz", *waters(3), hartree, *waters(3, seed=5))
    with pytest.raises(DataError, match=r"\(1 problem\)\n.*frame 3: energy: found an energy -124"):
        load(path, valid=write(tmp_path / "valid.xyz", *waters(1, seed=8)), valid_fraction=None)


def test_everything_wrong_is_reported_at_once(tmp_path):
    same = waters(1)[0]
    frames = [
        same,
        same,
        frame_text(positions=WATER * 0.1),
        frame_text(info='REF_energy=nan total_charge=1 Lattice="9 0 0 0 9 0 0 0 9" pbc="T F F"'),
        frame_text(info='REF_dipole="1 2" total_charge=0'),
    ]
    path = write(tmp_path / "train.xyz", *frames)
    with pytest.raises(
        DataError, match=r"the data cannot be used; frames are counted from 0 \(7 problems\)"
    ) as error:
        load(path, options=Charged(formal_charges={"H": 1.0, "O": -2.0}), test=str(tmp_path / "none.xyz"))
    text = str(error.value)
    for part in (
        "the same structure as",
        "0.096 Å apart",
        "energy: found NaN",
        "formal charges that add up to 0 e; expected 1 e",
        "boundary 'auto' cannot treat pbc = T F F",
        "dipole (key 'REF_dipole'): found 2 numbers",
        "none.xyz: found no such file",
    ):
        assert part in text


def test_mapped_keys_must_be_in_the_training_file_only(tmp_path, caplog):
    bare = write(
        tmp_path / "bare.xyz", *(frame_text("O H H", WATER + 0.01 * i, "pbc=F", "") for i in range(2))
    )
    with pytest.raises(
        DataError, match=r"heads.default.info_keys.energy: found the key 'REF_energy' in no frame"
    ):
        load(bare)
    train = write(tmp_path / "train.xyz", *waters(4))
    with caplog.at_level(logging.WARNING, logger="tests.data"):
        load(train, test=bare)
    assert "heads.default.arrays_keys.forces: the key 'REF_forces' in no frame" in caplog.text


def test_a_head_without_training_frames_is_an_error(tmp_path):
    path = write(tmp_path / "train.xyz", *waters(4))
    with pytest.raises(DataError, match=r"heads.other: found no frame of this head; expected at least one"):
        load(path, heads={**HEADS, "other": Head(info_keys={"energy": "E2"})})


def test_elements_outside_the_training_set(tmp_path):
    path = write(tmp_path / "train.xyz", *waters(4))
    other = write(tmp_path / "test.xyz", frame_text("S H H"))
    with pytest.raises(DataError, match="species: found S; expected elements the model was trained on: H, O"):
        load(path, test=other)


def test_duplicates_between_files(tmp_path):
    path = write(tmp_path / "train.xyz", *waters(4))
    with pytest.raises(
        DataError, match=r"test\.xyz, frame 1 \(test\): duplicate: .*train\.xyz, frame 2 \((train|valid)\)"
    ):
        load(path, test=write(tmp_path / "test.xyz", *waters(1, seed=5), waters(4)[2]))
    load(path, test=path, checks=Checks(allow_duplicates=True))


def test_unsupported_frames_can_be_left_out(tmp_path, caplog):
    chain = frame_text(positions=WATER + 1, info='REF_energy=-14 Lattice="9 0 0 0 9 0 0 0 9" pbc="T F F"')
    path = write(tmp_path / "train.xyz", *waters(4), chain)
    test = write(tmp_path / "test.xyz", *waters(1, seed=5))
    with caplog.at_level(logging.WARNING, logger="tests.data"):
        splits = load(path, valid=test, valid_fraction=None, checks=Checks(drop_unsupported_frames=True))
    assert len(splits.train) == 4
    assert "train: 1 of 5 frames left out, which boundary 'auto' cannot treat" in caplog.text
    with pytest.raises(DataError, match="expected at least one frame the boundary method can treat"):
        load(
            write(tmp_path / "only.xyz", chain),
            valid=test,
            valid_fraction=None,
            checks=Checks(drop_unsupported_frames=True),
        )


def test_boxes_of_molecules_are_said_once(tmp_path, caplog):
    path = write(tmp_path / "train.xyz", *waters(4))
    with caplog.at_level(logging.INFO, logger="tests.data"):
        load(path, electrostatics=Electrostatics(boundary="mixed_periodic", kspace_cutoff_factor=0.5))
    assert caplog.text.count("4 non-periodic frames without a cell are summed in open space") == 1
    assert "atomic energies [eV]: H" in caplog.text


def test_formal_charges_from_the_data(tmp_path):
    heads = {"default": attrs.evolve(HEAD, arrays_keys={"charges": "q"})}
    rng = np.random.default_rng(2)
    frames = [
        frame_text(positions=WATER + rng.normal(0, 0.1, (3, 3)), columns="q:R:1", rows=[[-2.0], [1], [1]])
        for _ in range(3)
    ]
    splits = load(
        write(tmp_path / "a.xyz", *frames), heads=heads, options=Charged(formal_charges="from_data")
    )
    assert splits.train[0].formal_charges.tolist() == [-2.0, 1.0, 1.0]


def test_potentials_follow_from_multipoles_where_a_loss_wants_them(tmp_path):
    rng = np.random.default_rng(0)
    texts = [
        frame_text(
            positions=WATER + rng.normal(0.0, 0.05, (3, 3)),
            columns="REF_forces:R:3:dma:R:4",
            rows=rng.normal(0.0, 0.3, (3, 7)),
        )
        for _ in range(4)
    ]
    path = write(tmp_path / "train.xyz", *texts)
    head = attrs.evolve(HEAD, arrays_keys={**HEAD.arrays_keys, "atomic_multipoles": "dma"})
    for losses, count in (({"forces": 1.0}, 0), ({"esps": 1.0}, 9)):
        stage = Stage("only", 1, 0.01, {name: LossTerm(weight) for name, weight in losses.items()})
        splits = load_data(attrs.evolve(recipe(path, heads={"default": head}), stages=(stage,)), LOG)
        assert splits.counts[0].labels["electrostatic_potentials"] == count


def test_isolated_atoms_may_be_kept(tmp_path):
    atoms = [
        frame_text(symbol, [[0, 0, 0]], f"REF_energy={energy} config_type=IsolatedAtom", "")
        for symbol, energy in (("H", -13.6), ("O", 12.9))
    ]
    path = write(tmp_path / "train.xyz", *atoms, *waters(4))
    for energies in ("isolated", {"H": -13.6, "O": 12.9}):
        for keep, count in ((False, 4), (True, 6)):
            splits = load(path, atomic_energies=energies, keep_isolated_atoms=keep)
            assert len(splits.train) + len(splits.valid) == count
            assert splits.facts.atomic_energies == {1: -13.6, 8: 12.9}


def test_the_draw_of_validation_frames_may_have_its_own_seed(tmp_path):
    path = write(tmp_path / "train.xyz", *waters(20))

    def drawn(**changes):
        return [int(graph.frame_index) for graph in load(path, **changes).valid]

    assert drawn(seed=3, valid_seed=4) == drawn(seed=5, valid_seed=4) == drawn(seed=4)
    assert drawn(seed=3, valid_seed=4) != drawn(seed=3)


def test_a_truncated_file_is_the_only_problem(tmp_path):
    # the one readable frame says nothing of the energies and elements of the others
    whole = "".join([*waters(1), frame_text("S O H", info="REF_energy=-900 total_charge=0")])
    path = tmp_path / "train.xyz"
    path.write_text(whole[: whole.rindex("H ")])
    other = write(tmp_path / "test.xyz", frame_text("S H H"), *waters(1, seed=4, info="x=1"))
    with pytest.raises(DataError, match="the file is truncated") as caught:
        load(path, valid=other, atomic_energies={"H": -13.6})
    assert len(caught.value.problems) == 1
