"""Plans that are kept while the cell stays: the same numbers to the bit, and no stale ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from structures import KINDS, Structure, energy, kind_structure

from lsf.electrostatics.plan import cache as plan_cache
from lsf.electrostatics.plan.cache import PlanCache
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan, plan_structure
from lsf.electrostatics.reciprocal import waves
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import BoundaryError


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The outlines that lists were made for."""
    outlines = []
    original = plan_cache.plan_outline

    def recorded(settings: Electrostatics, outline: Any, previous: Any) -> CoulombPlan:
        outlines.append(outline)
        return original(settings, outline, previous)

    monkeypatch.setattr(plan_cache, "plan_outline", recorded)
    return outlines


def cached(cache: PlanCache, structure: Structure, settings: Electrostatics) -> CoulombPlan:
    return cache(settings, structure.positions.numpy(), structure.cell.numpy(), np.array(structure.pbc))


def moved(structure: Structure, seed: int, size: float) -> Structure:
    step = torch.from_numpy(np.random.default_rng(seed).normal(size=structure.positions.shape)) * size
    return structure._replace(positions=structure.positions + step)


@pytest.mark.parametrize("method", KINDS)
def test_one_list_serves_a_trajectory_and_changes_no_bit(method: str, made: list[Any]) -> None:
    settings = Electrostatics(boundary=method)
    cache = PlanCache()
    structure = kind_structure(method, n_atoms=8)
    for step in range(10):
        structure = moved(structure, step, 0.02)
        plan = cached(cache, structure, settings)
        fresh = structure.plan(settings)
        assert all(torch.equal(old, new) for old, new in zip(plan, fresh, strict=True))
        assert torch.equal(energy(structure, settings, plan), energy(structure, settings, fresh))
    assert len(made) == 1


def test_a_slab_that_needs_a_longer_cell_is_noticed(made: list[Any]) -> None:
    settings = Electrostatics(boundary="slab")
    cache = PlanCache()
    slab = kind_structure("slab")
    first = cached(cache, slab, settings)
    slab.positions[0] += 10.0
    second = cached(cache, slab, settings)
    assert float(second.slab_length) > float(first.slab_length)
    assert torch.equal(energy(slab, settings, second), energy(slab, settings))
    assert len(made) == 2


@pytest.mark.parametrize("method", ["pbc", "slab", "molecule_in_box"])
def test_a_changed_cell_is_noticed_even_in_place(method: str, made: list[Any]) -> None:
    settings = Electrostatics(boundary=method)
    cache = PlanCache()
    structure = kind_structure(method)
    cached(cache, structure, settings)
    structure.cell.mul_(1.5)
    assert torch.equal(cached(cache, structure, settings).k_triplets, structure.plan(settings).k_triplets)
    assert len(made) == 2


def test_changed_settings_periodicity_and_number_of_atoms_are_noticed(made: list[Any]) -> None:
    cache = PlanCache()
    crystal = kind_structure("pbc")
    fine = Electrostatics(boundary="auto", kspace_cutoff_factor=2.0)
    for structure, settings in (
        (crystal, Electrostatics(boundary="auto")),
        (crystal, fine),
        (crystal._replace(pbc=(True, True, False)), fine),
        (crystal._replace(pbc=(True, False, True)), fine),
        (crystal._replace(pbc=(False, False, False)), fine),
        (kind_structure("pbc", n_atoms=6)._replace(pbc=(False, False, False)), fine),
    ):
        arrays = structure.positions.numpy(), structure.cell.numpy(), np.array(structure.pbc)
        for old, new in zip(cache(settings, *arrays), plan_structure(settings, *arrays), strict=True):
            assert torch.equal(old, new)
    assert len(made) == 6


def test_structures_are_checked_although_lists_are_kept() -> None:
    settings = Electrostatics(boundary="molecule_in_box")
    cache = PlanCache()
    molecule = kind_structure("molecule_in_box")
    cached(cache, molecule, settings)
    molecule.positions[0] += 14.0
    with pytest.raises(BoundaryError, match="unwrap the molecule or enlarge the box"):
        cached(cache, molecule, settings)


def test_weights_of_waves_are_kept_while_cell_plan_and_settings_stay() -> None:
    settings = Electrostatics(boundary="pbc")
    structure = kind_structure("pbc")
    plan, cell = structure.plan(settings), structure.cell[None]
    first = waves(cell, plan, settings, meshed=False)
    assert waves(cell.clone(), plan, settings, meshed=False) is first
    wider = Electrostatics(boundary="pbc", smearing_width=1.6)
    # none of these may be served by what is kept; each is kept in its turn
    for other_cell, other_plan, other_settings in (
        (1.01 * cell, plan, settings),
        (cell.to(torch.float32), plan, settings),
        (cell.clone().requires_grad_(), plan, settings),
        (cell, plan, wider),
        (cell, plan._replace(k_batch=plan.k_batch.clone()), wider),
    ):
        found = waves(other_cell, other_plan, other_settings, meshed=False)
        fresh = CoulombPlan(*(tensor.clone() for tensor in other_plan))
        expected = waves(other_cell, fresh, other_settings, meshed=False)
        assert found is not first
        assert torch.equal(found.weights, expected.weights)
        assert found.weights.dtype == other_cell.dtype
        assert not torch.equal(found.weights, first.weights) or other_cell.requires_grad
    # a list that is changed in place is another list
    plan = structure.plan(settings)
    first = waves(cell, plan, settings, meshed=False)
    plan.k_triplets.neg_()
    assert waves(cell, plan, settings, meshed=False) is not first
