"""Training on frames in shards: the same losses to the last bit, whatever is in memory."""

from __future__ import annotations

import logging

import attrs
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write
from test_stages import run
from tiny import Splits, TinyModel, loss_terms, make_recipe, tiny_evaluate

from lsf.data.lazy import LazyGraphs
from lsf.data.loader import load_data
from lsf.data.readers.choose import read_frames
from lsf.data.readers.shards import write_shards
from lsf.electrostatics.settings import Electrostatics
from lsf.options import Component
from lsf.recipe.schema import DataOptions, Head
from lsf.train.loop.checkpoint import CheckpointError, fingerprint_of
from lsf.train.objective.evaluation import labelled_pairs

HEADS = {"default": Head({"energy": "E", "dipole": "mu"}, {"forces": "F"})}


@attrs.frozen
class Options:
    r_max: float = 3.0


def load(train, **data):
    recipe = attrs.evolve(
        make_recipe(),
        data=DataOptions(train=str(train), valid_fraction=0.3, **data),
        heads=HEADS,
        model=Component("any", Options()),
        electrostatics=Electrostatics(boundary="auto"),
    )
    return load_data(recipe, logging.getLogger("tests.lazy"))


@pytest.fixture
def sets(tmp_path):
    """The same frames from a file and from shards of three."""
    rng = np.random.default_rng(3)
    frames = []
    for place in range(14):
        atoms = Atoms("OH2"[: 3 if place % 2 else 2], rng.normal(size=(3 if place % 2 else 2, 3)) * 1.5)
        if len(atoms) == 2:
            atoms.symbols[:] = ["O", "H"]
        atoms.info.update(E=-10.0 + rng.normal(), config_type="a" if place % 3 else "b")
        atoms.info["mu"], atoms.info["config_dipole_weight"] = rng.normal(size=3), np.ones(3)
        atoms.arrays["F"] = rng.normal(size=(len(atoms), 3))
        frames.append(atoms)
    write(tmp_path / "all.xyz", frames, format="extxyz")
    write_shards(read_frames(tmp_path / "all.xyz", HEADS), tmp_path / "shards", 3, {})
    return load(tmp_path / "all.xyz"), load(tmp_path / "shards")


def recipe():
    stages = make_recipe((3,)).stages
    terms = loss_terms(energy_per_atom=1.0, forces=10.0, dipole=1.0)
    return attrs.evolve(make_recipe((3,)), stages=(attrs.evolve(stages[0], loss=terms),))


def test_training_on_shards_gives_the_losses_of_the_file(tmp_path, sets):
    histories, metrics = [], []
    for place, splits in enumerate(sets):
        three = Splits(splits.train, splits.valid, {"again": splits.train})
        result = run(tmp_path / str(place), recipe(), splits=three)
        histories.append([(line["train_loss"], line["valid_loss"]) for line in result.history])
        metrics.append(result.metrics["again"])
    assert histories[0] == histories[1]
    assert metrics[0].errors_by_type == metrics[1].errors_by_type
    assert isinstance(sets[1].train, LazyGraphs)


def test_a_run_on_shards_is_taken_up_with_the_same_shards_only(tmp_path, sets):
    lazy = Splits(sets[1].train, sets[1].valid)
    run(tmp_path, recipe(), splits=lazy)
    assert run(tmp_path, recipe(), splits=lazy).best_epoch == 3
    fewer = Splits(sets[1].train[:-1], sets[1].valid)
    assert fingerprint_of("a", fewer.train) != fingerprint_of("a", lazy.train)
    with pytest.raises(CheckpointError, match="another recipe or other data"):
        run(tmp_path, recipe(), splits=fewer)


def test_pairs_for_plots_come_from_slices(sets):
    model = TinyModel()
    straight, lazy = (
        labelled_pairs(model, splits.train[::2], 2, ["energy_per_atom", "forces"], tiny_evaluate)
        for splits in sets
    )
    assert straight.keys() == lazy.keys() == {"energy_per_atom", "forces"}
    for name, pair in straight.items():
        assert torch.equal(pair.predicted, lazy[name].predicted)
