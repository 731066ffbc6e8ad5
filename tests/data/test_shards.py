"""Shards: what they hold is what the files hold; damaged ones are refused."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from data_files import HEAD, HEADS, WATER, frame_text, waters, write
from test_loader import load

from lsf.data.graph import AtomGraph
from lsf.data.readers.base import changed_frames, chosen_frames
from lsf.data.readers.choose import read_file, read_frames, reader_of
from lsf.data.readers.shard_frames import Shards
from lsf.data.readers.shards import INDEX, read_index, write_shards
from lsf.errors import DataError, LsfError
from lsf.recipe.catalog import own_folder
from lsf.recipe.schema import Checks, Head
from lsf.train.loop.batching import batch_source

RICH = Head(
    {**HEAD.info_keys, "stress": "REF_stress", "external_field": "field"},
    {**HEAD.arrays_keys, "atomic_multipoles": "dma", "molecule_ids": "molID"},
)


def rich_file(tmp_path):
    """Return a file of frames that differ in size, labels, columns and periodicity."""
    rng = np.random.default_rng(0)
    slab = frame_text(
        symbols="O H H O",
        positions=np.vstack((WATER, [3.0, 0.0, 0.0])),
        info='REF_energy=-20 REF_stress="1 2 3 4 5 6" config_weight=2 config_type=slab '
        'Lattice="6 0 0 0 6 0 0 0 20" '
        'pbc="T T F" field="0.1 0 0"',
        columns="REF_forces:R:3:dma:R:4:molID:R:1",
        rows=np.hstack((rng.normal(size=(4, 7)), [[0], [0], [0], [-1]])),
    )
    charges = frame_text(columns="dma:R:1", rows=rng.normal(size=(3, 1)))
    return write(tmp_path / "rich.xyz", *waters(3), slab, charges)


def assert_same(one, other):
    for field in attrs.fields(type(one)):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if isinstance(first, dict):
            assert first.keys() == second.keys(), field.name
            for key in first:
                assert first[key].dtype == second[key].dtype
                np.testing.assert_array_equal(first[key], second[key], err_msg=key)
        elif isinstance(first, np.ndarray):
            assert first.dtype == second.dtype
            np.testing.assert_array_equal(first, second)
        else:
            assert first == second, field.name


@pytest.mark.parametrize("per_shard", [1, 2, 100])
def test_frames_come_back_as_they_were(tmp_path, per_shard):
    path = rich_file(tmp_path)
    heads = {"default": RICH}
    write_shards(read_frames(path, heads), tmp_path / "shards", per_shard, {"note": "é"})
    assert isinstance(reader_of(tmp_path / "shards"), Shards)
    assert read_index(tmp_path / "shards")["statistics"] == {"note": "é"}
    for weights in (None, {"slab": 3.0}):
        straight = read_file(path, heads, weights)
        sharded = read_file(tmp_path / "shards", heads, weights)
        assert not sharded.problems
        assert not sharded.absent
        for one, other in zip(straight.frames, sharded.frames, strict=True):
            assert_same(one, other)


def test_heads_choose_among_the_properties(tmp_path):
    path = rich_file(tmp_path)
    write_shards(read_frames(path, {"default": RICH}), tmp_path / "shards", 2, {})
    fewer = {"default": Head({"energy": "whatever"}, {})}
    reading = read_file(tmp_path / "shards", fewer)
    assert all(set(frame.values) <= {"energy"} for frame in reading.frames)
    assert all(float(frame.weights["forces"]) == 0.0 for frame in reading.frames)
    more = {"default": Head({"polarizability": "a"}, {})}
    (problem,) = read_file(tmp_path / "shards", more).absent
    assert "heads.default.info_keys.polarizability: found no polarizability in any frame" in str(problem)
    (problem, *_) = read_file(tmp_path / "shards", {"other": RICH}).problems
    assert "head: found 'default'; expected one of the recipe's heads: other" in str(problem)


def test_training_data_may_be_a_folder_of_shards(tmp_path):
    path = write(tmp_path / "train.xyz", *waters(8))
    write_shards(read_frames(path, HEADS), tmp_path / "shards", 3, {})
    straight, sharded = load(path), load(tmp_path / "shards")
    for one, other in zip(straight.train, sharded.train, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one.keys() if torch.is_tensor(one[key]))  # noqa: SIM118
    assert attrs.evolve(straight.facts, provenance={}) == attrs.evolve(sharded.facts, provenance={})
    assert sharded.facts.provenance["train"]["file"] == "shards"


def test_damaged_shards_are_refused(tmp_path):
    path = write(tmp_path / "train.xyz", *waters(4))
    folder = tmp_path / "shards"
    write_shards(read_frames(path, HEADS), folder, 2, {})
    second = folder / "shard-00001.safetensors"
    content = second.read_bytes()
    second.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"shard-00001\.safetensors: found a file with another checksum"):
        read_frames(folder, HEADS)
    second.unlink()
    with pytest.raises(DataError, match=r"shard-00001\.safetensors: found no readable file \(No such file"):
        read_frames(folder, HEADS)
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index | {"format_version": 9}))
    with pytest.raises(LsfError, match="written in format 9; this lsf reads formats up to 1: update lsf"):
        read_frames(folder, HEADS)
    (folder / INDEX).write_text("{")
    with pytest.raises(LsfError, match=r"index\.json: not an index of shards .* write the shards anew"):
        read_frames(folder, HEADS)


def test_the_tool_writes_every_split_of_a_recipe(tmp_path):
    tool = Path(__file__).resolve().parents[2] / "tools" / "preprocess_data.py"
    source = own_folder("recipes") / "nacl_fixed.toml"
    command = [sys.executable, str(tool), str(source), "--out", str(tmp_path), "--frames-per-shard", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f'train = "{tmp_path / "train"}"' in done.stdout
    statistics = read_index(tmp_path / "train")["statistics"]
    assert statistics["species"] == [11, 17]
    assert statistics["avg_num_neighbors"] > 1.0
    assert set(statistics["average_atomic_energies"]) == {"11", "17"}


def sharded(tmp_path, count=10, per_shard=3):
    path = write(tmp_path / "train.xyz", *waters(count))
    write_shards(read_frames(path, HEADS), tmp_path / "shards", per_shard, {})
    return path, tmp_path / "shards"


def test_frames_may_be_asked_for_in_any_order(tmp_path, monkeypatch):
    path, folder = sharded(tmp_path)
    monkeypatch.setattr("lsf.data.readers.shard_frames.OPEN_SHARDS", 2)
    straight, frames = read_frames(path, HEADS), read_file(folder, HEADS).frames
    assert len(frames) == 10
    for place in (9, 0, 5, 0, 3, -1):
        assert_same(frames[place], straight[place])
    chosen = [7, 1, 8]
    for one, other in zip(chosen_frames(frames, chosen), chosen_frames(straight, chosen), strict=True):
        assert_same(one, other)
    assert [frame.index for frame in frames[2:8:3]] == [2, 5]
    moved = changed_frames(frames, lambda frame: attrs.evolve(frame, positions=frame.positions + 1.0))
    assert (moved[4].positions == straight[4].positions + 1.0).all()
    with pytest.raises(IndexError):
        frames[10]
    assert frames.select([1, 2]).fingerprint() != frames.select([2, 1]).fingerprint()


def test_graphs_of_shards_are_not_kept(tmp_path):
    path, folder = sharded(tmp_path)
    splits = load(folder, seed=5)
    gc.collect()
    assert not [item for item in gc.get_objects() if type(item) is AtomGraph]
    straight = load(path, seed=5)
    assert splits.counts == straight.counts
    cpu = torch.device("cpu")
    for indices in ([4, 0, 2], [1]):
        one = batch_source(splits.train, cpu).batch(indices).to_dict()
        other = batch_source(straight.train, cpu).batch(indices).to_dict()
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one if torch.is_tensor(one[key]))
    assert [int(graph.frame_index) for graph in splits.valid[:2]] == [
        int(graph.frame_index) for graph in straight.valid[:2]
    ]


def test_shards_with_isolated_atoms_duplicates_and_frames_to_drop(tmp_path):
    free = [
        frame_text(f"{symbol}", [[0.0, 0.0, 0.0]], f"config_type=IsolatedAtom REF_energy={energy}", "")
        for symbol, energy in (("H", -1.0), ("O", -12.0))
    ]
    slab = frame_text(info='REF_energy=-14 Lattice="6 0 0 0 6 0 0 0 20" pbc="T F F"')
    path = write(tmp_path / "train.xyz", *free, *waters(6), slab)
    write_shards(read_frames(path, HEADS), tmp_path / "shards", 4, {})
    checks = Checks(drop_unsupported_frames=True)
    for source in (path, tmp_path / "shards"):
        splits = load(source, atomic_energies="isolated", checks=checks, seed=1)
        assert splits.facts.atomic_energies == {1: -1.0, 8: -12.0}
        frames = sorted(int(graph.frame_index) for graph in (*splits.train, *splits.valid))
        assert frames == [2, 3, 4, 5, 6, 7]
    with pytest.raises(DataError, match=r"electrostatics\.boundary: found pbc = T F F"):
        load(tmp_path / "shards", atomic_energies="isolated", seed=1)
    write_shards(read_frames(write(path, *free, *waters(6)), HEADS), tmp_path / "free", 4, {})
    first, again = (load(tmp_path / "free", atomic_energies="isolated", seed=1) for _ in range(2))
    assert len(list((tmp_path / "free").glob("checked-*.json"))) == 1
    assert first.facts == again.facts
    assert [int(graph.frame_index) for graph in again.train] == [int(g.frame_index) for g in first.train]
    kept = load(tmp_path / "free", atomic_energies="isolated", seed=1, keep_isolated_atoms=True)
    assert len(kept.train) + len(kept.valid) == 8
    twice = [*waters(2), *waters(2)]
    write_shards(read_frames(write(path, *twice), HEADS), tmp_path / "twice", 2, {})
    with pytest.raises(DataError, match="found the same structure as") as caught:
        load(tmp_path / "twice")
    assert len(caught.value.problems) == 2


def test_one_head_too_many_is_noticed_in_shards(tmp_path):
    _, folder = sharded(tmp_path)
    with pytest.raises(DataError, match=r"heads\.other: found no frame of this head"):
        load(folder, heads={**HEADS, "other": HEAD})


def test_shards_are_gone_through_once(tmp_path, monkeypatch, caplog):
    _, folder = sharded(tmp_path)
    caplog.set_level("INFO")
    first = load(folder, seed=5)
    (known,) = folder.glob("checked-*.json")
    monkeypatch.setattr("lsf.data.loader.build_splits", None)
    monkeypatch.setattr("lsf.data.loader._check", None)
    again = load(folder, seed=5)
    assert (again.facts, again.counts) == (first.facts, first.counts)
    assert [int(graph.frame_index) for graph in again.train] == [int(g.frame_index) for g in first.train]
    assert again.train.config_types == first.train.config_types
    assert again.train.labelled == first.train.labelled
    assert f"checks and statistics of the frames are those of {known}" in caplog.text
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 2
    assert told[0] == told[1], "warnings are told every time"


@pytest.mark.parametrize("change", ["seed", "checks", "heads", "shards", "damage"])
def test_shards_are_gone_through_again_for_other_settings(tmp_path, change):
    path, folder = sharded(tmp_path)
    load(folder, seed=5)
    (known,) = folder.glob("checked-*.json")
    if change == "damage":
        known.write_text("{")
    if change == "shards":
        write_shards(read_frames(path, HEADS)[:-1], folder, 3, {})
    arguments = {
        "seed": {"seed": 6},
        "checks": {"checks": Checks(max_force=250.0)},
        "heads": {"heads": {"default": Head({"energy": "E"}, {})}},
    }
    splits = load(folder, **{"seed": 5, **arguments.get(change, {})})
    found = set(folder.glob("checked-*.json"))
    assert len(found) == (1 if change == "damage" else 2)
    assert len(splits.train) + len(splits.valid) == (9 if change == "shards" else 10)
    with pytest.raises(DataError, match=r"components up to 0\.001"):
        load(folder, seed=5, checks=Checks(max_force=0.001))
    assert set(folder.glob("checked-*.json")) == found, "what is refused is not kept"


def test_nothing_is_kept_of_files_and_where_nothing_can_be_written(tmp_path, monkeypatch):
    path, folder = sharded(tmp_path)
    load(path)
    load(folder, test=path, checks=Checks(allow_duplicates=True))

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    load(folder)
    assert not list(tmp_path.rglob("checked-*.json"))
