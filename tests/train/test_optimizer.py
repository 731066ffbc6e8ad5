import math

import attrs
import numpy as np
import pytest
import torch
from tiny import TinyModel
from torch import nn

from lsf.recipe.catalog import catalog
from lsf.train.averaging import ExponentialAverage, Latest, OptimizerAverage, build_average
from lsf.train.loop.epoch import epoch_batches
from lsf.train.optimizer import ScheduleFreeOptions, parameter_groups, schedule_free, set_learning_rates

NAMES = [entry.name for entry in catalog().entries("optimizers")]


def build(name, model, **options):
    entry = catalog().entry("optimizers", name)
    return entry.target()(entry.options_class()(**options), model)


def test_all_optimizers_are_there():
    assert NAMES == ["adam", "adamw", "schedulefree"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_optimizers_find_the_minimum_of_a_parabola(name, dtype):
    model = nn.ParameterDict({"x": nn.Parameter(torch.tensor([3.0, -2.0], dtype=dtype))})
    optimizer = build(name, model)
    average = build_average(model, optimizer, None)
    set_learning_rates(optimizer, 0.1, {}, float)
    for _ in range(600):
        optimizer.zero_grad()
        (model["x"] - 1.0).square().sum().backward()
        optimizer.step()
    # Adam ends within about its step length; the average forgets its start as 1/steps
    assert torch.allclose(average.weights()[0], torch.ones(2, dtype=dtype), atol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_sentence_and_weight_decay_spares_vectors(name):
    options = catalog().options_class("optimizers", name)
    assert all(field.metadata["doc"] for field in attrs.fields(options))
    model = TinyModel()
    groups = build(name, model, weight_decay=0.1).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [len(group["params"]) for group in groups] == [3, 2]


def test_frozen_parameters_are_not_trained():
    model = TinyModel()
    model.energy.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.0)) == 4


@pytest.mark.parametrize("warmup", [0, 3])
def test_schedule_free_follows_the_published_recursion(warmup):
    # arXiv:2405.15682, algorithm 1, written out for one number
    beta_1, beta_2, eps, decay = 0.9, 0.99, 1e-8, 0.1
    options = ScheduleFreeOptions(betas=(beta_1, beta_2), weight_decay=decay, warmup_steps=warmup)
    model = nn.ParameterDict({"x": nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))})
    optimizer = schedule_free(options, model)
    x = z = 2.0
    square = weight_sum = 0.0
    for step in range(1, 13):
        rate = 0.1 if step < 7 else 0.02
        set_learning_rates(optimizer, rate, {}, float)
        y = (1.0 - beta_1) * z + beta_1 * x
        assert float(model["x"].detach()) == pytest.approx(y, rel=1e-13)
        gradient = math.cos(y)
        optimizer.zero_grad()
        torch.sin(model["x"]).sum().backward()
        optimizer.step()
        rate *= min(1.0, step / max(1, warmup))
        square = beta_2 * square + (1.0 - beta_2) * gradient**2
        z -= rate * (gradient / (math.sqrt(square / (1.0 - beta_2**step)) + eps) + decay * y)
        weight_sum += rate**2
        x += rate**2 / weight_sum * (z - x)
    assert float(optimizer.averaged(list(model.parameters()))[0]) == pytest.approx(x, rel=1e-12)


def test_schedule_free_takes_no_closure():
    optimizer = schedule_free(ScheduleFreeOptions(), TinyModel())
    with pytest.raises(NotImplementedError, match="takes no closure"):
        optimizer.step(lambda: 0.0)


def test_exponential_average_starts_fast_and_ends_slow():
    parameter = torch.zeros(1, dtype=torch.float64)
    average = ExponentialAverage([parameter], 0.9)
    expected = 0.0
    for step in range(1, 200):
        parameter += 1.0
        average.update()
        decay = min(0.9, (1.0 + step) / (10.0 + step))
        expected = decay * expected + (1.0 - decay) * float(parameter)
    assert float(average.weights()[0]) == pytest.approx(expected, rel=1e-12)
    # in the long run it lags by decay / (1 - decay) steps
    assert float(parameter - average.weights()[0]) == pytest.approx(9.0, rel=1e-3)


def test_which_average_is_used():
    model = TinyModel()
    assert isinstance(build_average(model, build("adam", model), 0.99), ExponentialAverage)
    assert isinstance(build_average(model, build("adam", model), None), Latest)
    # the optimizer's own average takes the place of the exponential one
    assert isinstance(build_average(model, build("schedulefree", model), 0.99), OptimizerAverage)


def test_order_of_frames_depends_on_seed_and_epoch_alone():
    first = epoch_batches(11, 4, seed=1, epoch=3)
    assert first == epoch_batches(11, 4, seed=1, epoch=3)
    assert first != epoch_batches(11, 4, seed=1, epoch=4)
    assert first != epoch_batches(11, 4, seed=2, epoch=3)
    assert sorted(np.concatenate(first)) == list(range(11))
    assert [len(batch) for batch in first] == [4, 4, 3]
    assert [len(batch) for batch in epoch_batches(9, 4, 0, 0)] == [3, 3, 3]
