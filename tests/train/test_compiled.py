"""Compiled training steps: the losses and weights of others, and clear when they say no."""

import logging

import pytest
import torch
from tiny import LOG
from torch._inductor import compile_fx

import lsf
from lsf.errors import LsfError
from lsf.machine import compilers
from lsf.models.derivatives import evaluate
from lsf.train.loop import compiled
from lsf.train.loop.compiled import CompiledSteps
from tests.formats.test_torchscript import batch, model_file
from tests.models.helpers import salt_slab, triclinic_salt, water

SMALL = "num_interactions = 2\ncorrelation = 1"
COMPUTED = ("forces", "stress", "potential")


def small_model(folder, **settings):
    loaded = lsf.load(model_file(folder, boundary="auto", more=SMALL, **settings))
    loaded.model.requires_grad_(True)
    return loaded


def test_without_a_compiler_nothing_is_done(monkeypatch):
    monkeypatch.setattr(compilers.shutil, "which", lambda _: None)
    with pytest.raises(LsfError, match=r"compile = true needs a C\+\+ compiler and found none"):
        CompiledSteps(LOG)


def test_other_kernels_are_refused(tmp_path):
    loaded = lsf.load(model_file(tmp_path, boundary="auto", more=SMALL), kernels="e3nn")
    graphs = batch(loaded, [triclinic_salt(4)])
    with pytest.raises(LsfError, match=r'model.kernels is "e3nn"; expected "auto" or "native"'):
        CompiledSteps(LOG)(loaded.model, graphs, COMPUTED, create_graph=True)


def test_a_model_without_messages_is_said_to_have_nothing_to_compile(tmp_path, caplog):
    loaded = lsf.load(model_file(tmp_path, boundary="auto", more="num_interactions = 1\ncorrelation = 1"))
    loaded.model.requires_grad_(True)
    graphs = batch(loaded, [triclinic_salt(4)])
    with caplog.at_level("INFO"):
        found = CompiledSteps(logging.getLogger("compiled"))(
            loaded.model, graphs, COMPUTED, create_graph=True
        )
    assert "there is nothing to compile" in caplog.text
    torch.testing.assert_close(found["forces"], evaluate(loaded.model, graphs, COMPUTED)["forces"])


def test_what_cannot_be_compiled_is_said(tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(compile_fx, "compile_fx", refuse)
    loaded = small_model(tmp_path)
    graphs = batch(loaded, [triclinic_salt(4)])
    with pytest.raises(LsfError, match=r"forward of a block cannot be compiled \(RuntimeError: no such"):
        CompiledSteps(LOG)(loaded.model, graphs, COMPUTED, create_graph=True)


def test_other_numbers_than_the_native_kernels_are_refused(tmp_path, monkeypatch):
    def wrong(functions, name, _):
        return lambda *tensors: tuple(1.001 * value for value in getattr(functions, name)(*tensors))

    monkeypatch.setattr(compiled, "_compiled", wrong)
    loaded = small_model(tmp_path)
    graphs = batch(loaded, [triclinic_salt(4)])
    with pytest.raises(LsfError, match="of the compiled network differs from the native kernels by"):
        CompiledSteps(LOG)(loaded.model, graphs, COMPUTED, create_graph=True)


@pytest.mark.slow
def test_losses_and_gradients_for_batches_of_any_size(tmp_path):
    loaded = small_model(tmp_path)
    steps = CompiledSteps(LOG)
    weights = [weight for weight in loaded.model.parameters() if weight.requires_grad]
    batches = (
        [triclinic_salt(4), water(3), salt_slab(2)],
        [triclinic_salt(5) * (2, 1, 1)],
        [water(1), water(2)],
    )
    for structures in batches:
        found = []
        for evaluated in (evaluate, steps):
            outputs = evaluated(loaded.model, batch(loaded, structures), COMPUTED, create_graph=True)
            kept = [outputs[name] for name in ("energy", "dipole", *COMPUTED)]
            loss = sum(value.square().sum() for value in kept)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            found.append((*kept, *gradients))
        largest = max(float(value.abs().max()) for value in found[0][5:])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-11 * max(1.0, largest))
