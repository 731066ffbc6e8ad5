"""Small structures and the calls that several electrostatics tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan, plan_structure
from lsf.electrostatics.settings import Electrostatics

TRICLINIC = np.array([[7.1, 0.3, -0.2], [1.9, 6.4, 0.4], [-1.1, 0.8, 8.2]])
CUBE = np.eye(3) * 14.0


class Structure(NamedTuple):
    """Inputs of one Coulomb energy."""

    coefficients: Tensor
    positions: Tensor
    cell: Tensor  # (3, 3)
    pbc: tuple[bool, bool, bool]

    def plan(self, settings: Electrostatics) -> CoulombPlan:
        return plan_structure(
            settings, self.positions.detach().numpy(), self.cell.detach().numpy(), np.array(self.pbc)
        )


def random_structure(
    seed: int, n_atoms: int, cell: np.ndarray, pbc: tuple[bool, bool, bool], degree: int, size: float = 5.0
) -> Structure:
    """Charged structure with positions in a ``size`` Å cube and coefficients of order one."""
    rng = np.random.default_rng(seed)
    return Structure(
        coefficients=torch.from_numpy(rng.normal(size=(n_atoms, (degree + 1) ** 2)) * 0.5),
        positions=torch.from_numpy(rng.uniform(0.0, size, (n_atoms, 3))),
        cell=torch.from_numpy(np.array(cell, dtype=np.float64)),
        pbc=pbc,
    )


# one structure of every kind, in the least symmetric cell its method takes
KINDS = {
    "realspace": (np.zeros((3, 3)), (False, False, False)),
    "pbc": (TRICLINIC, (True, True, True)),
    "slab": (TRICLINIC, (True, False, True)),
    "molecule_in_box": (CUBE, (False, False, False)),
}


def kind_structure(method: str, seed: int = 0, n_atoms: int = 5, degree: int = 1) -> Structure:
    cell, pbc = KINDS[method]
    return random_structure(seed, n_atoms, cell, pbc, degree)


def energy(structure: Structure, settings: Electrostatics, plan: CoulombPlan | None = None) -> Tensor:
    """Energy of one structure, a scalar; the plan is made for it unless given."""
    batch = torch.zeros(len(structure.positions), dtype=torch.int64)
    return coulomb_energy(
        structure.coefficients,
        structure.positions,
        structure.cell[None],
        batch,
        plan or structure.plan(settings),
        settings,
    )[0]


def strained(structure: Structure, strain: Tensor) -> Structure:
    """The structure with r → r (1 + ε) for positions and cell, Cartesian multipoles fixed."""
    deform = torch.eye(3, dtype=torch.float64) + strain
    return structure._replace(positions=structure.positions @ deform, cell=structure.cell @ deform)


class Derivatives(NamedTuple):
    """Energy and first derivatives; strain is symmetrised."""

    energy: Tensor
    forces: Tensor
    by_coefficients: Tensor
    by_strain: Tensor


def derivatives(
    structure: Structure, settings: Electrostatics, of: Callable[[Structure, Tensor], Tensor] | None = None
) -> Derivatives:
    """Energy and first derivatives; ``of(structure, coulomb energy)`` may turn the energy into another."""
    plan = structure.plan(settings)
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    positions = structure.positions.clone().requires_grad_()
    coefficients = structure.coefficients.clone().requires_grad_()
    leaf = structure._replace(positions=positions, coefficients=coefficients)
    deformed = strained(leaf, 0.5 * (strain + strain.T))
    value = energy(deformed, settings, plan)
    value = value if of is None else of(deformed, value)
    by_position, by_coefficient, by_strain = torch.autograd.grad(value, (positions, coefficients, strain))
    return Derivatives(value.detach(), -by_position, by_coefficient, by_strain)


def join(
    structures: list[Structure], settings: Electrostatics
) -> tuple[Tensor, Tensor, Tensor, Tensor, CoulombPlan]:
    """Coefficients, positions, cells, batch and plan of several structures in one batch."""
    plans = [structure.plan(settings) for structure in structures]
    counts = [len(structure.positions) for structure in structures]
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    plan = CoulombPlan(
        kind=torch.cat([p.kind for p in plans]),
        slab_axis=torch.cat([p.slab_axis for p in plans]),
        slab_length=torch.cat([p.slab_length for p in plans]),
        k_triplets=torch.cat([p.k_triplets for p in plans]),
        k_batch=torch.cat([p.k_batch + i for i, p in enumerate(plans)]),
        layer_pairs=torch.cat([p.layer_pairs for p in plans]),
        layer_batch=torch.cat([p.layer_batch + i for i, p in enumerate(plans)]),
        open_pairs=torch.cat([p.open_pairs + int(n) for n, p in zip(first, plans, strict=True)], 1),
        mesh_size=torch.cat([p.mesh_size for p in plans]),
        mesh_order=torch.cat([p.mesh_order for p in plans]),
        open_box=torch.cat([p.open_box for p in plans]),
        truncation_radius=torch.cat([p.truncation_radius for p in plans]),
    )
    return (
        torch.cat([structure.coefficients for structure in structures]),
        torch.cat([structure.positions for structure in structures]),
        torch.stack([structure.cell for structure in structures]),
        torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
        plan,
    )
