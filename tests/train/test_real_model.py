"""The training loop with a real model and real frames: what the small stand-in cannot show."""

import itertools
import json
from pathlib import Path

import attrs
import pytest
import torch
from tiny import LOG, FixedClock

from lsf.data.loader import load_data
from lsf.models.build import build_model
from lsf.recipe.catalog import own_folder
from lsf.recipe.read import resolved_toml
from lsf.recipe.rules import resolve
from lsf.train.loop.stages import train
from lsf.train.objective.evaluation import model_evaluate

SMALL = (
    'model.hidden_irreps="4x0e + 4x1o"',
    "model.correlation=2",
    "model.max_ell=2",
    "model.r_max=3.0",
    "stages.0.epochs=2",
    "stages.1.epochs=2",
)


def first_frames(source: Path, count: int) -> str:
    """Return the text of the first frames of an extended XYZ file."""
    lines = iter(source.read_text().splitlines())
    frames = []
    for _ in range(count):
        head = next(lines)
        frames += [head, *itertools.islice(lines, int(head) + 1)]
    return "\n".join(frames) + "\n"


@pytest.fixture
def small_recipe(tmp_path):
    recipes = own_folder("recipes")
    (tmp_path / "data").mkdir()
    for split, count in (("train", 10), ("valid", 4), ("test", 3)):
        name = f"water_clusters_{split}.xyz"
        (tmp_path / "data" / name).write_text(first_frames(recipes / "data" / name, count))
    path = tmp_path / "recipe.toml"
    path.write_text((recipes / "water_split.toml").read_text())
    return resolve(path, SMALL)


def run(recipe, folder, evaluate=model_evaluate):
    splits = load_data(recipe, LOG)
    model = build_model(recipe, splits.facts)

    def save(trained, path, extra_metadata):
        torch.save([weight.detach().clone() for weight in trained.parameters()], path.with_suffix(".pt"))
        assert extra_metadata["stage"]

    before = torch.get_rng_state()
    result = train(
        recipe,
        model,
        splits,
        folder,
        LOG,
        save=save,
        identity=resolved_toml(recipe),
        evaluate=evaluate,
        clock=FixedClock(),
    )
    # checkpoints hold no state of a generator, so nothing may draw from one
    assert torch.equal(torch.get_rng_state(), before)
    return result


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_interrupted_training_of_a_real_model_is_exact(tmp_path, small_recipe, dtype):
    recipe = attrs.evolve(small_recipe, dtype=dtype)
    straight = run(recipe, tmp_path / "straight")
    calls = itertools.count()

    def failing(*args, **kwargs):
        # two steps and one evaluation per epoch: in the third epoch, the first of the second stage
        if next(calls) == 8:
            raise RuntimeError("power cut")
        return model_evaluate(*args, **kwargs)

    with pytest.raises(RuntimeError, match="power cut"):
        run(recipe, tmp_path / "cut", failing)
    resumed = run(recipe, tmp_path / "cut")
    assert resumed.best_loss == straight.best_loss
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    losses = [
        [
            line["loss"]
            for line in map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        ]
        for name in ("straight", "cut")
    ]
    assert losses[0] == losses[1]


def test_errors_of_a_real_model(tmp_path, small_recipe):
    result = run(small_recipe, tmp_path / "run")
    errors = result.metrics["test"].errors
    assert {"energy_per_atom", "forces", "dipole", "atomic_multipoles", "total_charge"} <= set(errors)
    # charges move along edges, so the total charge is that of the formal charges up to rounding
    assert errors["total_charge"].max_abs < 1e-10
    assert [row[0] for row in result.table.rows if ":" not in row[0]] == ["train", "valid", "test"]
