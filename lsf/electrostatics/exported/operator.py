"""The Coulomb energy as one operation that compilers do not look into.

A compiled graph calls it like a matrix product: whatever backend a structure's plan asks for, in the memory
it takes outside of graphs. It makes the first derivatives along with the energy, and there are no second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor

from lsf.electrostatics.differentiate import derivatives
from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.electrostatics.settings import Electrostatics
from lsf.machine.caches import constant


def opaque_coulomb_energy(
    coefficients: Tensor,
    positions: Tensor,
    cell: Tensor,
    batch: Tensor,
    plan: CoulombPlan,
    settings: Electrostatics,
) -> Tensor:
    """Return :func:`lsf.electrostatics.energy.coulomb_energy`, once differentiable."""
    energies: Tensor = _energy(
        coefficients, positions, cell, batch, list(plan), json.dumps(attrs.asdict(settings))
    )[0]
    return energies


@constant
def _settings(text: str) -> Electrostatics:
    return Electrostatics(**json.loads(text))


@contextmanager
def _autograd() -> Iterator[None]:
    """Let autograd work inside of an operator, whose inside the dispatcher takes to be beneath autograd."""
    key = torch._C.DispatchKey.AutogradFunctionality
    hidden = torch._C._dispatch_tls_is_dispatch_key_excluded(key)
    torch._C._dispatch_tls_set_dispatch_key_excluded(key, False)
    try:
        yield
    finally:
        torch._C._dispatch_tls_set_dispatch_key_excluded(key, hidden)


@torch.library.custom_op("lsf::coulomb_energy", mutates_args=())
def _energy(
    coefficients: Tensor,
    positions: Tensor,
    cell: Tensor,
    batch: Tensor,
    plan: Sequence[Tensor],
    settings: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return energies (n_graphs,) and the derivatives by coefficients, positions and cell."""
    with _autograd(), torch.enable_grad():
        c, r, h = (value.detach().requires_grad_(True) for value in (coefficients, positions, cell))
        inputs = [c, r, h]
        energies = coulomb_energy(c, r, h, batch, CoulombPlan(*plan), _settings(settings))
        by_coefficients, by_positions, by_cell = derivatives(energies, inputs, retain_graph=False)
    found = by_coefficients.contiguous(), by_positions.contiguous(), by_cell.contiguous()
    return energies.detach(), *found


@_energy.register_fake
def _(
    coefficients: Tensor,
    positions: Tensor,
    cell: Tensor,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    c, r, h = (value.new_empty(value.shape) for value in (coefficients, positions, cell))
    return cell.new_empty(cell.shape[0]), c, r, h


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[3], *output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, by_energy: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    constants = None, [None] * len(CoulombPlan._fields), None
    if by_energy is None:
        return None, None, None, *constants
    batch, by_coefficients, by_positions, by_cell = ctx.saved_tensors
    of_atom = by_energy.index_select(0, batch).unsqueeze(1)
    of_cell = by_energy.reshape(-1, 1, 1)
    return of_atom * by_coefficients, of_atom * by_positions, of_cell * by_cell, *constants


_energy.register_autograd(_backward, setup_context=_keep)
