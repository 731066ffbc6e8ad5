"""Learning rates that change: schedules, groups of weights, stages that end early; all in exact resume."""

import json

import attrs
import pytest
import torch
from test_stages import CALLS_PER_EPOCH, StopAfter, assert_same_run, position_in, run
from tiny import TinyModel, make_recipe

from lsf.options import Component
from lsf.recipe.catalog import catalog
from lsf.recipe.schema import PARAMETER_GROUPS
from lsf.train.optimizer import AdamOptions, adam, parameter_groups, set_learning_rates


def scheduler(name, **options):
    entry = catalog().entry("schedulers", name)
    return entry.target()(entry.options_class()(**options))


def chosen(name, **options):
    return Component(name, catalog().options_class("schedulers", name)(**options))


def rates(name, losses, **options):
    """Return the learning rate of every epoch, each followed by an evaluation with the next loss."""
    found, schedule = [], scheduler(name, **options)
    for loss in losses:
        found.append(schedule.rate(0.1))
        schedule.epoch_ended()
        schedule.evaluated(loss)
    return found


def test_every_entry_of_the_registry_is_documented():
    assert catalog().names("schedulers") == ("constant", "exponential", "plateau")
    for name in ("exponential", "plateau"):
        fields = attrs.fields(catalog().options_class("schedulers", name))
        assert all(field.metadata["doc"] for field in fields)


def test_constant_and_exponential_rates():
    assert rates("constant", [1.0] * 3) == [0.1] * 3
    assert rates("exponential", [1.0] * 4, gamma=0.5) == [0.1, 0.05, 0.025, 0.0125]


LOSSES = [1.0, 0.9, 0.95, 0.91, 0.89995, 0.92, 0.93, 0.94, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]


@pytest.mark.parametrize("patience", [0, 1, 2, 3])
def test_plateau_is_that_of_torch(patience):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, min_lr=0.004
    )
    expected = []
    for loss in LOSSES:
        expected.append(optimizer.param_groups[0]["lr"])
        reference.step(loss)
    # powers of one half are exact, and the bound is the same number
    assert rates("plateau", LOSSES, factor=0.5, patience=patience, min_lr=0.004) == expected


def test_a_loss_at_the_threshold_is_no_better_one():
    # halves are exact: the second loss is the threshold itself, the third is below it
    assert rates("plateau", [1.0, 0.5, 0.49, 0.4], factor=0.5, patience=0, threshold=0.5) == [
        0.1,
        0.1,
        0.05,
        0.05,
    ]


def test_min_lr_does_not_raise_a_smaller_rate():
    schedule = scheduler("plateau", min_lr=0.01)
    assert schedule.rate(0.001) == 0.001


def test_schedules_begin_anew_with_every_stage_and_are_written_down(tmp_path):
    result = run(tmp_path, make_recipe((3, 2), scheduler=chosen("exponential", gamma=0.5)))
    assert [record["lr"] for record in result.history] == [0.01, 0.005, 0.0025, 0.002, 0.001]
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert checkpoint["optimizer"]["param_groups"][0]["lr"] == 0.001


@pytest.mark.parametrize("calls", [9, 21, 26])
@pytest.mark.parametrize(
    "schedule", [chosen("exponential", gamma=0.7), chosen("plateau", factor=0.5, patience=0, threshold=0.5)]
)
def test_resume_with_a_schedule_is_exact(tmp_path, schedule, calls):
    recipe = make_recipe((4, 3), scheduler=schedule)
    straight = run(tmp_path / "straight", recipe)
    assert len({record["lr"] for record in straight.history}) > 3
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", recipe, evaluate=StopAfter(calls, RuntimeError("power cut")))
    run(tmp_path / "cut", recipe, model=TinyModel(seed=99))
    assert_same_run(tmp_path / "straight", tmp_path / "cut")


def impatient(**training):
    """Return a recipe whose first stage diverges slowly, so that it ends early."""
    recipe = make_recipe((40, 3), ema_decay=None, patience=3, **training)
    first = attrs.evolve(recipe.stages[0], lr=0.3)
    return attrs.evolve(recipe, stages=(first, recipe.stages[1]))


def test_a_stage_ends_when_the_loss_no_longer_falls(tmp_path, caplog):
    caplog.set_level("INFO")
    result = run(tmp_path, impatient())
    first = [record for record in result.history if record["stage"] == "stage1"]
    losses = [record["valid_loss"] for record in first]
    assert len(first) < 40
    assert losses.index(min(losses)) == len(losses) - 4
    # no three evaluations in a row without a better one before
    best = float("inf")
    waited = 0
    for loss in losses[:-1]:
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        assert waited < 3
    assert f"stage stage1 ends after {len(first)} of 40 epochs: no better validation loss in 3" in caplog.text
    # the epochs left out are counted, so that the second stage has the same numbers and batches in any case
    assert [record["epoch"] for record in result.history if record["stage"] == "stage2"] == [41, 42, 43]


def test_resume_with_patience_is_exact(tmp_path):
    recipe = impatient()
    straight = run(tmp_path / "straight", recipe)
    epochs = sum(record["stage"] == "stage1" for record in straight.history)
    # in the last epoch but one of the first stage, which has waited for one evaluation of three, and after it
    for calls, waited in ((CALLS_PER_EPOCH * epochs - 7, 1), (CALLS_PER_EPOCH * epochs + 1, 0)):
        folder = tmp_path / str(calls)
        with pytest.raises(RuntimeError, match="power cut"):
            run(folder, recipe, evaluate=StopAfter(calls, RuntimeError("power cut")))
        assert position_in(folder)["waited"] == waited
        run(folder, recipe, model=TinyModel(seed=99))
        assert_same_run(tmp_path / "straight", folder)


class Grouped(TinyModel):
    """The tiny model with its weights sorted."""

    def parameter_groups(self):
        return {
            "embedding": [self.hidden],
            "interactions_decay": [self.offset],
            "products": [self.unused],
            "readouts": [self.energy],
            "source_maps": [self.sources],
            "polarizability_readouts": [],
        }


def test_groups_are_merged_where_nothing_tells_them_apart():
    model = Grouped()
    assert [len(group["params"]) for group in parameter_groups(model, 0.0)] == [5]
    groups = parameter_groups(model, 0.1, {"readouts"})
    assert [(group["name"], group["weight_decay"], len(group["params"])) for group in groups] == [
        ("", 0.0, 2),
        ("", 0.1, 2),
        ("readouts", 0.0, 1),
    ]


def test_a_group_has_its_own_learning_rate():
    model = Grouped()
    optimizer = adam(AdamOptions(), model, {"readouts", "source_maps"})
    set_learning_rates(optimizer, 0.1, {"readouts": 0.02}, lambda lr: lr / 2.0)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {
        "": 0.05,
        "readouts": 0.01,
        "source_maps": 0.05,
    }


def with_groups(recipe, *lr_groups):
    stages = [attrs.evolve(s, lr_groups=rates) for s, rates in zip(recipe.stages, lr_groups, strict=True)]
    return attrs.evolve(recipe, stages=tuple(stages))


def test_stages_set_the_rates_of_groups(tmp_path, caplog):
    # Adam's first step is the learning rate, whatever the gradient
    recipe = make_recipe((1,), ema_decay=None)
    recipe = attrs.evolve(recipe, training=attrs.evolve(recipe.training, batch_size=11))
    recipe = with_groups(recipe, {"readouts": 1e-3, "products": 1.0})
    model, start = Grouped(), Grouped()
    run(tmp_path, recipe, model=model)
    for name, size in (("hidden", 0.01), ("energy", 1e-3)):
        moved = (getattr(model, name) - getattr(start, name)).abs()
        # eps = 1e-8 in Adam's denominator, gradients above 1e-3 or so
        assert torch.allclose(moved, torch.full_like(moved, size), rtol=1e-4, atol=0)
    assert "no effect" not in caplog.text
    run(
        tmp_path / "other", with_groups(make_recipe((1,)), {"polarizability_readouts": 1e-3}), model=Grouped()
    )
    assert (
        "lr_groups.polarizability_readouts of stage stage1 has no effect: this model has no such"
        in caplog.text
    )


def test_resume_with_groups_is_exact(tmp_path):
    recipe = with_groups(make_recipe((3, 3)), {"readouts": 1e-3}, {"source_maps": 0.05})
    run(tmp_path / "straight", recipe, model=Grouped())
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", recipe, model=Grouped(), evaluate=StopAfter(21, RuntimeError("power cut")))
    run(tmp_path / "cut", recipe, model=Grouped(seed=99))
    assert_same_run(tmp_path / "straight", tmp_path / "cut")
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert {line["lr"] for line in lines if line["kind"] == "train"} == {0.01, 0.002}


def test_names_of_groups_are_those_of_the_recipe():
    assert set(Grouped().parameter_groups()) < set(PARAMETER_GROUPS)
