"""Atoms grouped by species: every atom once, under its species, and few slots empty."""

import pytest
import torch

from lsf.data.graph import group_by_species


@pytest.mark.parametrize(
    ("counts", "n_groups", "width"),
    [((128, 64), 3, 64), ((2, 1), 2, 2), ((300,), 1, 300), ((500, 8, 8), 6, 125), ((100, 100), 2, 100)],
)
def test_a_frequent_species_has_several_groups(counts, n_groups, width):
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(0))
    species = torch.tensor(counts).new_tensor(range(1, 2 * len(counts), 2))
    species = species.repeat_interleave(torch.tensor(counts))[order]
    present, slots, place = group_by_species(species)
    assert slots.shape == (n_groups, width)
    assert torch.equal(present, present.sort().values)
    assert torch.equal(slots.flatten()[place], torch.arange(sum(counts)))
    assert torch.equal(present[torch.div(place, width, rounding_mode="floor")], species)
    assert int((slots < sum(counts)).sum()) == sum(counts)
