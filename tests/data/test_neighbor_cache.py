"""Neighbours that are kept: the same as those found anew, and found anew only when they may be others."""

import itertools

import numpy as np
import pytest

from lsf.data import neighbors
from lsf.data.neighbors import NeighborCache, find_neighbors

CUTOFF = 3.1
SKEWED = np.array([[6.0, 0.0, 0.0], [3.4, 5.0, 0.0], [-2.8, 1.9, 6.1]])
PERIODICITIES = list(itertools.product([True, False], repeat=3))


@pytest.fixture
def searches(monkeypatch):
    """Cutoffs of the searches made so far."""
    found = []

    def counted(positions, cell, pbc, cutoff):
        found.append(cutoff)
        return find_neighbors(positions, cell, pbc, cutoff)

    monkeypatch.setattr(neighbors, "find_neighbors", counted)
    return found


def assert_same(one, other):
    np.testing.assert_array_equal(one.edge_index, other.edge_index)
    np.testing.assert_array_equal(one.unit_shifts, other.unit_shifts)
    np.testing.assert_allclose(one.lengths, other.lengths, atol=1e-12)  # one subtraction's rounding


@pytest.mark.parametrize("pbc", PERIODICITIES, ids=lambda pbc: "".join("FT"[p] for p in pbc))
def test_the_edges_are_those_of_a_search_while_atoms_move(pbc, searches):
    rng = np.random.default_rng(3)
    positions, periodic = rng.uniform(-0.5, 1.5, (9, 3)) @ SKEWED, np.array(pbc)
    cache = NeighborCache(0.8)
    for _ in range(40):
        positions = positions + rng.normal(scale=0.04, size=positions.shape)
        found = cache(positions, SKEWED, periodic, CUTOFF)
        assert_same(found, find_neighbors(positions, SKEWED, periodic, CUTOFF))
    assert 1 < len(searches) < 25
    assert set(searches) == {CUTOFF + 0.8}


def test_the_edges_are_those_of_a_search_while_the_cell_changes(searches):
    rng = np.random.default_rng(4)
    cell, periodic = SKEWED.copy(), np.ones(3, bool)
    fractional = rng.uniform(-0.5, 1.5, (9, 3))
    cache = NeighborCache(0.8)
    for _ in range(40):
        cell = cell @ (np.eye(3) + rng.normal(scale=0.008, size=(3, 3)))
        fractional += rng.normal(scale=0.004, size=(9, 3))
        found = cache(fractional @ cell, cell, periodic, CUTOFF)
        assert_same(found, find_neighbors(fractional @ cell, cell, periodic, CUTOFF))
    assert 1 < len(searches) < 25


def test_when_neighbours_are_searched_anew(searches):
    rng = np.random.default_rng(5)
    start, slab = rng.uniform(0.0, 6.0, (6, 3)), np.array([True, True, False])
    cache = NeighborCache(0.6)

    def after(positions, cell=SKEWED, pbc=slab, cutoff=CUTOFF):
        before = len(searches)
        cache(positions, cell, pbc, cutoff)
        return len(searches) - before

    def moved(distance):
        positions = start.copy()
        positions[2, 1] += distance
        return positions

    assert after(start) == 1
    assert after(start) == 0
    assert after(moved(0.29)) == 0
    assert after(moved(0.31)) == 1  # more than half of the skin
    assert after(moved(0.31) + SKEWED[0] * (np.arange(6) == 1)[:, None]) == 1  # wrapped
    assert after(start) == 1
    assert after(start, cutoff=2.0) == 1
    assert after(start, pbc=np.array([True, False, False])) == 1
    assert after(start[:5]) == 1
    assert after(start, cell=SKEWED * 1.0001) == 1  # with an open direction
    assert after(start, cell=SKEWED, pbc=np.ones(3, bool)) == 1
    assert after(start * 1.001, cell=SKEWED * 1.001, pbc=np.ones(3, bool)) == 0
    assert after(start * 0.8, cell=SKEWED * 0.8, pbc=np.ones(3, bool)) == 1  # pairs have come closer


def test_without_a_skin_every_move_is_searched(searches):
    positions = np.random.default_rng(6).uniform(0.0, 6.0, (6, 3))
    cache = NeighborCache(0.0)
    for _ in range(3):
        cache(positions, SKEWED, np.ones(3, bool), CUTOFF)
    cache(positions + 1e-9, SKEWED, np.ones(3, bool), CUTOFF)
    assert len(searches) == 2
