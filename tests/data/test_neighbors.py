"""Neighbour lists against a loop over images, and their invariances."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lsf.data.neighbors import closest_pair, find_neighbors

CUTOFF = 3.1
CELLS = {
    "cubic": np.eye(3) * 7.0,
    "smaller than the cutoff": np.diag([2.0, 2.4, 1.7]),
    "skewed": np.array([[4.0, 0.0, 0.0], [3.4, 3.0, 0.0], [-2.8, 1.9, 4.1]]),
    "very skewed": np.array([[3.0, 0.0, 0.0], [8.9, 3.0, 0.0], [-5.7, 7.7, 3.3]]),
    "left-handed": np.array([[0.0, 4.0, 0.1], [4.2, 0.0, 0.3], [0.5, 0.2, 4.4]]),
}
PERIODICITIES = list(itertools.product([True, False], repeat=3))


def image_loop(positions, cell, pbc, cutoff):
    """Every directed edge by brute force; enough images for any of the cells above."""
    box = np.where(np.asarray(pbc)[:, None], cell, 0.0)
    fractional = positions @ np.linalg.pinv(box)
    spread = np.ptp(fractional, axis=0)
    heights = 1.0 / np.maximum(np.linalg.norm(np.linalg.pinv(box), axis=0), 1e-12)
    reach = [
        int(np.ceil(cutoff / h + s)) + 1 if p else 0 for h, s, p in zip(heights, spread, pbc, strict=True)
    ]
    edges = set()
    for shift in itertools.product(*(range(-n, n + 1) for n in reach)):
        vectors = positions[None, :] - positions[:, None] + np.array(shift) @ cell  # [sender, receiver]
        close = np.linalg.norm(vectors, axis=-1) < cutoff
        if shift == (0, 0, 0):
            np.fill_diagonal(close, False)
        edges |= {(int(i), int(j), *shift) for i, j in np.argwhere(close)}
    return edges


def as_set(found):
    return {
        (int(i), int(j), *map(int, shift))
        for (i, j), shift in zip(found.edge_index.T, found.unit_shifts, strict=True)
    }


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("pbc", PERIODICITIES, ids=lambda pbc: "".join("FT"[p] for p in pbc))
def test_same_edges_as_a_loop_over_images(name, pbc):
    rng = np.random.default_rng(3)
    cell = CELLS[name]
    positions = rng.uniform(-1.0, 2.0, (5, 3)) @ cell  # deliberately not wrapped
    found = find_neighbors(positions, cell, np.array(pbc), CUTOFF)
    assert len(as_set(found)) == len(found.lengths)
    assert as_set(found) == image_loop(positions, cell, pbc, CUTOFF)


@pytest.mark.parametrize("pbc", PERIODICITIES[1:], ids=lambda pbc: "".join("FT"[p] for p in pbc))
def test_zero_vectors_along_directions_that_are_not_periodic(pbc):
    rng = np.random.default_rng(4)
    full = CELLS["skewed"]
    cell = np.where(np.array(pbc)[:, None], full, 0.0)
    positions = rng.uniform(0.0, 6.0, (6, 3))
    with_zeros = find_neighbors(positions, cell, np.array(pbc), CUTOFF)
    with_rows = find_neighbors(positions, full, np.array(pbc), CUTOFF)
    assert as_set(with_zeros) == as_set(with_rows)
    assert not with_zeros.unit_shifts[:, ~np.array(pbc)].any()


def test_edge_vectors_lengths_and_order():
    rng = np.random.default_rng(5)
    cell = CELLS["very skewed"]
    positions = rng.uniform(0.0, 9.0, (7, 3))
    found = find_neighbors(positions, cell, np.ones(3, dtype=bool), CUTOFF)
    sender, receiver = found.edge_index
    vectors = positions[receiver] - positions[sender] + found.unit_shifts @ cell
    # lengths differ by the rounding of one subtraction
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), found.lengths, atol=1e-12)
    assert (np.diff(receiver) >= 0).all()
    again = find_neighbors(positions, cell, np.ones(3, dtype=bool), CUTOFF)
    np.testing.assert_array_equal(found.edge_index, again.edge_index)
    np.testing.assert_array_equal(found.unit_shifts, again.unit_shifts)


def test_both_directions_of_every_edge_are_there():
    rng = np.random.default_rng(6)
    found = find_neighbors(rng.uniform(0, 4, (6, 3)), CELLS["skewed"], np.array([True, True, False]), CUTOFF)
    edges = as_set(found)
    assert edges == {(j, i, -a, -b, -c) for i, j, a, b, c in edges}


def test_moving_an_atom_by_lattice_vectors_changes_shifts_only():
    rng = np.random.default_rng(7)
    cell = CELLS["skewed"]
    positions = rng.uniform(0.0, 5.0, (6, 3))
    pbc = np.array([True, True, True])
    moves = rng.integers(-3, 4, (6, 3))
    before = find_neighbors(positions, cell, pbc, CUTOFF)
    after = find_neighbors(positions + moves @ cell, cell, pbc, CUTOFF)
    shifted = {(i, j, *(np.array(shift) - moves[i] + moves[j])) for i, j, *shift in as_set(after)}
    assert as_set(before) == {tuple(map(int, edge)) for edge in shifted}


def test_one_atom_alone_has_no_neighbours():
    found = find_neighbors(np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool), 6.0)
    assert found.edge_index.shape == (2, 0)
    assert found.unit_shifts.shape == (0, 3)


@pytest.mark.parametrize("pbc", [True, False])
def test_closest_pair_sees_periodic_images(pbc):
    cell = np.eye(3) * 10.0
    positions = np.array([[0.05, 5.0, 5.0], [9.95, 5.0, 5.0], [5.0, 5.0, 5.0]])
    found = closest_pair(positions, cell, np.full(3, pbc), 0.3)
    if pbc:
        assert found is not None
        assert found[:2] == (0, 1)
        assert found[2] == pytest.approx(0.1)
    else:
        assert found is None


def test_closest_pair_names_an_atom_that_meets_its_own_image():
    found = closest_pair(np.zeros((1, 3)), np.diag([0.2, 5.0, 5.0]), np.array([True, False, False]), 0.3)
    assert found == (0, 0, pytest.approx(0.2))
