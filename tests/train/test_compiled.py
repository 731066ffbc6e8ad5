"""Compiled training steps: the losses and weights of others, and clear when they say no."""

import pytest
import torch
from tiny import LOG

import lsf
from lsf import compilers
from lsf.errors import LsfError
from lsf.models.derivatives import evaluate
from lsf.train.compiled import CompiledSteps
from tests.export.test_torchscript import batch, model_file
from tests.models.helpers import salt_slab, triclinic_salt, water

SMALL = "num_interactions = 1\ncorrelation = 1"
COMPUTED = ("forces", "stress", "potential")


def small_model(folder, **settings):
    loaded = lsf.load(model_file(folder, boundary="auto", more=SMALL, **settings))
    loaded.model.requires_grad_(True)
    return loaded


def test_without_a_compiler_nothing_is_done(monkeypatch):
    monkeypatch.setattr(compilers.shutil, "which", lambda _: None)
    with pytest.raises(LsfError, match=r"compile = true needs a C\+\+ compiler and found none"):
        CompiledSteps(LOG)


def test_outputs_of_higher_derivatives_are_refused(tmp_path):
    loaded = small_model(tmp_path)
    graphs = batch(loaded, [triclinic_salt(4)])
    with pytest.raises(LsfError, match=r"a loss needs born_charges, which compiled steps do not give"):
        CompiledSteps(LOG)(loaded.model, graphs, ("born_charges",), create_graph=True)


def test_evaluations_without_gradients_are_not_compiled(tmp_path):
    loaded = small_model(tmp_path)
    graphs = batch(loaded, [triclinic_salt(4)])
    found = CompiledSteps(LOG)(loaded.model, graphs, COMPUTED)
    torch.testing.assert_close(found["forces"], evaluate(loaded.model, graphs, COMPUTED)["forces"])


@pytest.mark.slow
def test_losses_and_gradients_for_batches_of_any_size(tmp_path):
    loaded = small_model(tmp_path)
    compiled = CompiledSteps(LOG)
    weights = [weight for weight in loaded.model.parameters() if weight.requires_grad]
    batches = (
        [triclinic_salt(4), water(3), salt_slab(2)],
        [triclinic_salt(5) * (2, 1, 1)],
        [water(1), water(2)],
    )
    for structures in batches:
        found = []
        for evaluated in (evaluate, compiled):
            outputs = evaluated(loaded.model, batch(loaded, structures), COMPUTED, create_graph=True)
            kept = [outputs[name] for name in ("energy", "dipole", *COMPUTED)]
            loss = sum(value.square().sum() for value in kept)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            found.append((*kept, *gradients))
        largest = max(float(value.abs().max()) for value in found[0][5:])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-11 * max(1.0, largest))
