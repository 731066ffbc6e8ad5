"""The Coulomb energy as one operation: the numbers and first derivatives of the energy itself."""

import json

import attrs
import pytest
import torch

from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.exported.operator import _energy, opaque_coulomb_energy
from lsf.electrostatics.settings import Electrostatics
from tests.electrostatics.structures import KINDS, kind_structure


def inputs(method, backend):
    settings = Electrostatics(boundary=method, multipoles_max_l=1, smearing_width=1.2, backend=backend)
    one = kind_structure(method)
    batch = torch.zeros(len(one.positions), dtype=torch.int64)
    tensors = [one.coefficients, one.positions, one.cell[None]]
    return [value.clone().requires_grad_() for value in tensors], batch, one.plan(settings), settings


@pytest.mark.parametrize("backend", ["direct", "mesh"])
@pytest.mark.parametrize("method", KINDS)
def test_energy_and_first_derivatives(method, backend):
    tensors, batch, plan, settings = inputs(method, backend)
    found = []
    for function in (coulomb_energy, opaque_coulomb_energy):
        energies = function(*tensors, batch, plan, settings)
        found.append((energies, *torch.autograd.grad((energies * 3.0).sum(), tensors)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


# from 2.14 on, torch warns of a look at its own copies of the inputs
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_it_is_an_operation_that_compilers_can_trust():
    tensors, batch, plan, settings = inputs("slab", "direct")
    checks = torch.library.opcheck(_energy, (*tensors, batch, list(plan), json.dumps(attrs.asdict(settings))))
    assert set(checks.values()) == {"SUCCESS"}
