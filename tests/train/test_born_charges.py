"""Training on Born effective charges: index order of files, and gradients with respect to the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import read, write
from tiny import loss_terms

from lsf.data.build import build_graph
from lsf.data.charges import charges_of
from lsf.data.frames import frame_from_atoms
from lsf.data.graph import collate
from lsf.electrostatics.settings import Electrostatics
from lsf.models.derivatives import evaluate
from lsf.recipe.schema import Head
from lsf.train.objective.losses import build_stage_loss
from tests.models.helpers import STRUCTURES, batch_of, make_model

LABELS = Head({}, {"born_charges": "REF_born", "charges": "formal_charges"})


def dipole(model, atoms, settings) -> np.ndarray:
    return evaluate(model, batch_of([atoms], model, settings), ())["dipole"][0].detach().numpy()


def differences(model, atoms, settings, step: float = 1e-4) -> np.ndarray:
    """Return ∂P_α/∂r_{i,β} by central differences, (n_atoms, 3, 3) e, indices [atom, P, motion]."""
    born = np.zeros((len(atoms), 3, 3))
    for atom, axis in np.ndindex(len(atoms), 3):
        moved = [atoms.copy(), atoms.copy()]
        for sign, one in zip((1, -1), moved, strict=True):
            one.positions[atom, axis] += sign * step
        after, before = (dipole(model, one, settings) for one in moved)
        born[atom, :, axis] = (after - before) / (2 * step)
    return born


def labelled_batch(atoms, model, settings):
    """Return the batch of a structure with the labels of its columns."""
    frame, problems = frame_from_atoms(atoms, {"default": LABELS}, source="test", index=0)
    assert not problems
    charges, missing = charges_of(frame.numbers, frame.values, "from_data")
    assert missing is None
    return collate([build_graph(frame, model.r_max, settings, charges)])


def test_nine_columns_of_a_file_are_the_polarization_by_the_motion(tmp_path: Path) -> None:
    settings = Electrostatics(boundary="realspace")
    model = make_model("LocalSplitCharges", settings)
    atoms = STRUCTURES["realspace"]()
    labels = differences(model, atoms, settings)
    # the order can be told from its transpose
    assert np.abs(labels - labels.transpose(0, 2, 1)).max() > 1e-3
    atoms.arrays["REF_born"] = labels.reshape(len(atoms), 9)
    write(tmp_path / "born.xyz", atoms, format="extxyz")
    stored = read(tmp_path / "born.xyz")
    stored.positions[:] = atoms.positions  # files hold eight decimals
    batch = labelled_batch(stored, model, settings)
    loss = build_stage_loss(loss_terms(born_charges=1.0))
    assert loss.compute == {"born_charges"}
    value = loss.combine(loss.terms(evaluate(model, batch, loss.compute), batch))
    # differences are good to step², and eight decimals
    assert float(value) ** 0.5 < 1e-6


@pytest.mark.parametrize(
    ("name", "boundary"),
    [("LocalCharges", "realspace"), ("LocalSplitCharges", "pbc"), ("LocalSplitCharges", "slab")],
)
def test_gradients_by_the_weights_are_those_of_finite_differences(name: str, boundary: str) -> None:
    settings = Electrostatics(boundary=boundary)
    model = make_model(name, settings)
    atoms = STRUCTURES[boundary]()
    atoms.arrays["REF_born"] = np.random.default_rng(3).normal(size=(len(atoms), 9))
    batch = labelled_batch(atoms, model, settings)
    batch.weight_forces = torch.ones(1, dtype=torch.float64)
    # with forces: both are derivatives of one evaluation
    loss = build_stage_loss(loss_terms(born_charges=1.0, forces=0.1))

    def value(create_graph: bool = False) -> torch.Tensor:
        return loss.combine(loss.terms(evaluate(model, batch, loss.compute, create_graph), batch))

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(value(create_graph=True), weights, allow_unused=True)
    generator = torch.Generator().manual_seed(4)
    direction = [torch.randn(weight.shape, generator=generator, dtype=weight.dtype) for weight in weights]
    expected = sum(
        float((gradient * way).sum())
        for gradient, way in zip(gradients, direction, strict=True)
        if gradient is not None
    )
    step, values = 1e-5, []
    for sign in (1.0, -2.0):
        with torch.no_grad():
            for weight, way in zip(weights, direction, strict=True):
                weight += sign * step * way
        values.append(float(value()))
    # central differences: the error is of order step² times the third derivative along the direction
    assert expected == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)
