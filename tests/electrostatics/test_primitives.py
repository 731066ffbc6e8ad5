"""The adjoint pairs, Boys functions and pair kernels: values, transposes, derivatives of two orders."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from lsf.electrostatics.fourier import bins as fourier_bins
from lsf.electrostatics.fourier import blocks as fourier_blocks
from lsf.electrostatics.fourier import dispatch
from lsf.electrostatics.fourier import layout as fourier_layout
from lsf.electrostatics.fourier import small as fourier_phases
from lsf.electrostatics.fourier.backends import AdjointPair, Arrange
from lsf.electrostatics.fourier.pair import fourier_gather, fourier_sum
from lsf.electrostatics.lattice import invert
from lsf.electrostatics.multipoles import monomials
from lsf.electrostatics.open_space import boys, kernels
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.electrostatics.slab import LayerGrid, layer_gather, layer_grid, layer_sum

TRIPLETS = torch.tensor([[0, 0, 1], [0, 0, 2], [1, -2, 0], [2, 1, -3], [1, 0, -1], [0, 1, 0], [3, 0, 2]])
K_BATCH = torch.tensor([0, 0, 0, 0, 2, 2, 2])
BATCH = torch.tensor([0, 0, 0, 1, 2, 2])


def arrange_phases(
    fractional: Tensor, batch: Tensor, k_triplets: Tensor, k_batch: Tensor, n_graphs: int
) -> AdjointPair:
    layout = fourier_phases.phase_layout(batch, k_triplets, k_batch, n_graphs)
    assert layout is not None
    return fourier_phases.arrange(fractional, layout, len(k_batch))


def arrange_products(*arguments: Any) -> fourier_phases.PhasePair:
    """Phases as in large batches, from those along the axes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fourier_phases, "FEW_PHASES", 0)
        return arrange_phases(*arguments)


WAYS = pytest.mark.parametrize(
    "arrange",
    [fourier_blocks.arrange, arrange_phases, arrange_products],
    ids=["blocks", "phases", "products of phases"],
)


def random(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def direct_sum(fractional: Tensor, moments: Tensor, degree: int) -> Tensor:
    """Type 1 by its definition, in complex numbers."""
    rows = []
    for triplet, graph in zip(TRIPLETS, K_BATCH, strict=True):
        turned = [-2j * math.pi * int(n) for n in triplet]
        polynomial = torch.tensor(
            [
                math.prod(t**e for t, e in zip(turned, exponents, strict=True))
                for exponents in monomials(degree)
            ],
            dtype=torch.complex128,
        )
        phase = torch.exp(-2j * math.pi * (fractional @ triplet.double()))
        rows.append((phase * (moments.to(phase.dtype) @ polynomial))[graph == BATCH].sum())
    return torch.view_as_real(torch.stack(rows))


@WAYS
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_fourier_sum_is_its_definition(degree: int, arrange: Arrange) -> None:
    fractional, moments = 3.0 * random(0, 6, 3), random(1, 6, len(monomials(degree)))
    grid = arrange(fractional, BATCH, TRIPLETS, K_BATCH, 3)
    found = fourier_sum(fractional, moments, grid, degree)
    torch.testing.assert_close(found, direct_sum(fractional, moments, degree), rtol=1e-12, atol=1e-10)


@WAYS
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_fourier_pair_is_adjoint(degree: int, arrange: Arrange) -> None:
    fractional, moments = 3.0 * random(0, 6, 3), random(1, 6, len(monomials(degree)))
    amplitudes = random(2, len(TRIPLETS), 2)
    grid = arrange(fractional, BATCH, TRIPLETS, K_BATCH, 3)
    forward = (amplitudes * fourier_sum(fractional, moments, grid, degree)).sum()
    backward = (moments * fourier_gather(fractional, amplitudes, grid, degree)).sum()
    torch.testing.assert_close(forward, backward, rtol=1e-12, atol=1e-12)


@WAYS
@pytest.mark.parametrize("degree", [0, 1])
def test_fourier_pair_differentiates_twice(degree: int, arrange: Arrange) -> None:
    def total(fractional: Tensor, moments: Tensor) -> Tensor:
        grid = arrange(fractional, BATCH, TRIPLETS, K_BATCH, 3)
        return fourier_sum(fractional, moments, grid, degree)

    def gathered(fractional: Tensor, amplitudes: Tensor) -> Tensor:
        grid = arrange(fractional, BATCH, TRIPLETS, K_BATCH, 3)
        return fourier_gather(fractional, amplitudes, grid, degree)

    fractional = random(0, 6, 3).requires_grad_()
    moments = random(1, 6, len(monomials(degree))).requires_grad_()
    amplitudes = random(2, len(TRIPLETS), 2).requires_grad_()
    # central differences of 1e-6 in functions with curvature up to (2π 3)^3 leave 1e-5 of the largest entry
    assert gradcheck(total, (fractional, moments), atol=1e-4, rtol=1e-5)
    assert gradcheck(gathered, (fractional, amplitudes), atol=1e-4, rtol=1e-5)
    assert gradgradcheck(total, (fractional, moments), atol=1e-3, rtol=1e-4, fast_mode=True)
    assert gradgradcheck(gathered, (fractional, amplitudes), atol=1e-3, rtol=1e-4, fast_mode=True)


def test_size_classes_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    counts, bounds = [2, 40, 3, 170], [9, 1, 8, 2]
    batch = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    lists = [torch.cartesian_prod(*[torch.arange(-n, n + 1)] * 3) for n in bounds]
    lists = [part[len(part) // 2 + 1 :] for part in lists]  # half spaces, zero left out
    # balls, whose corners are cut away in groups of columns that do not begin at zero
    lists = [part[part.double().norm(dim=1) <= n] for part, n in zip(lists, bounds, strict=True)]
    triplets = torch.cat(lists)
    k_batch = torch.repeat_interleave(torch.arange(4), torch.tensor([len(part) for part in lists]))
    fractional = torch.from_numpy(rng.uniform(size=(len(batch), 3)))
    moments, amplitudes = random(1, len(batch), 4), random(2, len(k_batch), 2)

    def both(triplets: Tensor) -> tuple[int, Tensor, Tensor]:
        grid = fourier_blocks.arrange(fractional, batch, triplets, k_batch, 4)
        return (
            len(grid.blocks),
            fourier_sum(fractional, moments, grid, 1),
            fourier_gather(fractional, amplitudes, grid, 1),
        )

    monkeypatch.setattr(fourier_layout, "SMALL_BATCH", 2**40)
    n_blocks, *whole = both(triplets)
    monkeypatch.setattr(fourier_layout, "SMALL_BATCH", 0)
    monkeypatch.setattr(fourier_layout, "GROUP_COST", 1)
    monkeypatch.setattr(fourier_layout, "GROUP_SIZE", 1)
    monkeypatch.setattr(fourier_blocks, "CHUNK_ELEMENTS", 1)
    n_classes, *split = both(triplets.clone())
    cut = fourier_blocks.arrange(fractional, batch, triplets.clone(), k_batch, 4)
    assert any(group.k.start > 0 for block in cut.blocks for group in block.groups)
    assert n_blocks == 1
    assert n_classes > 1
    # sums of 1e4 terms up to 1e2 in another order
    torch.testing.assert_close(split, whole, rtol=1e-12, atol=1e-9)


def test_layouts_are_remembered_until_a_list_changes() -> None:
    batch, triplets, k_batch = BATCH.clone(), TRIPLETS.clone(), K_BATCH.clone()
    first = fourier_layout.layout(batch, triplets, k_batch, 3)
    assert fourier_layout.layout(batch, triplets, k_batch, 3) is first
    assert fourier_layout.layout(batch.clone(), triplets, k_batch, 3) is not first
    first = fourier_layout.layout(batch, triplets, k_batch, 3)
    triplets.neg_().neg_()
    assert fourier_layout.layout(batch, triplets, k_batch, 3) is not first
    first = fourier_layout.layout(batch, triplets, k_batch, 3)
    batch.add_(0)
    assert fourier_layout.layout(batch, triplets, k_batch, 3) is not first


def test_one_structure_and_many_have_the_same_phases() -> None:
    fractional, triplets = 3.0 * random(0, 4, 3), TRIPLETS[:4]
    moments, amplitudes = random(1, 4, 10), random(2, 4, 2)
    alone = (torch.zeros(4, dtype=torch.int64), triplets, torch.zeros(4, dtype=torch.int64), 1)
    empty = (alone[0] + 1, triplets, alone[2] + 1, 3)  # in the middle of two structures without anything
    for kept in (2, 4):  # degrees: odd and even powers of the highest wave vector
        pairs = [arrange_phases(fractional, *arguments) for arguments in (alone, empty)]
        columns = len(monomials(kept))
        sums = [pair.sum(random(3, 4, columns), kept) for pair in pairs]
        torch.testing.assert_close(*sums, rtol=1e-14, atol=1e-12)
        gathered = [pair.gather(amplitudes, kept) for pair in pairs]
        torch.testing.assert_close(*gathered, rtol=1e-14, atol=1e-12)
    exact = fourier_blocks.arrange(fractional, *alone)
    torch.testing.assert_close(pairs[0].sum(moments, 2), exact.sum(moments, 2), rtol=1e-12, atol=1e-9)


def test_large_and_uneven_batches_are_left_to_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (BATCH, TRIPLETS.clone(), K_BATCH, 3)
    monkeypatch.setattr(fourier_phases, "STRUCTURE_TERMS", 11)  # the largest structures have 3 x 4 terms
    assert fourier_phases.phase_layout(*arguments) is None
    monkeypatch.setattr(fourier_phases, "STRUCTURE_TERMS", 12)
    monkeypatch.setattr(fourier_phases, "BATCH_TERMS", 23)  # two structures have wave vectors
    assert fourier_phases.phase_layout(BATCH, TRIPLETS.clone(), K_BATCH, 3) is None


def test_unlike_cells_are_left_to_blocks() -> None:
    """Waves along h in one structure, along k in the other: tables of all (h, k) would be far larger."""
    steps = torch.arange(1, 31)
    nothing = torch.zeros_like(steps)
    along = [torch.stack([steps, nothing, nothing], 1), torch.stack([nothing, steps, nothing], 1)]
    batch, k_batch = torch.tensor([0, 1]), torch.arange(2).repeat_interleave(30)
    assert fourier_phases.phase_layout(batch, torch.cat(along), k_batch, 2) is None
    assert fourier_phases.phase_layout(batch, torch.cat(along[:1] * 2), k_batch, 2) is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_memory_of_phases_is_lent_to_one_pair_at_a_time(dtype: torch.dtype) -> None:
    """Two arrangements that live together, and one after the first is gone, equal fresh ones."""
    waves = (BATCH, TRIPLETS, K_BATCH, 3)
    places = [random(seed, len(BATCH), 3).to(dtype) for seed in (1, 2, 3)]
    moments = random(4, len(BATCH), 4).to(dtype)
    expected = [fourier_blocks.arrange(place, *waves).sum(moments, 1) for place in places]
    first, second = (arrange_products(place, *waves) for place in places[:2])
    found = [first.sum(moments, 1), second.sum(moments, 1)]
    del first
    third = arrange_products(places[2], *waves)
    found += [third.sum(moments, 1), second.sum(moments, 1)]
    tolerance = 1e-11 if dtype == torch.float64 else 1e-3  # sums of some ten terms up to 1e2
    for one, other in zip(found, [*expected, expected[1]], strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=tolerance)


def layer_plan() -> tuple[CoulombPlan, LayerGrid]:
    pairs = torch.tensor([[0, 1], [1, -1], [1, 0], [2, 1]])
    empty = torch.zeros(0, dtype=torch.int64)
    plan = CoulombPlan(
        kind=torch.zeros(3, dtype=torch.int64),
        slab_axis=empty,
        slab_length=empty,
        k_triplets=empty,
        k_batch=empty,
        layer_pairs=pairs,
        layer_batch=torch.tensor([0, 2, 2, 2]),
        open_pairs=empty,
        mesh_size=empty,
        mesh_order=empty,
        open_box=empty,
        truncation_radius=empty,
    )
    return plan, layer_grid(random(0, 6, 2), BATCH, plan)


def test_layer_pair_is_its_definition_and_adjoint() -> None:
    plan, grid = layer_plan()
    in_plane, depth, rate = random(0, 6, 2), -random(1, 6).abs(), random(2, 4).abs()
    moments, amplitudes = random(3, 6, 2), random(4, 4, 2, 2)
    phase = 2j * math.pi * (plan.layer_pairs.double() @ in_plane.T) + rate[:, None] * depth
    same = (plan.layer_batch[:, None] == BATCH).double()
    expected = torch.view_as_real((same * torch.exp(phase)) @ moments.to(torch.complex128))
    found = layer_sum(in_plane, depth, rate, moments, grid)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    backward = (moments * layer_gather(in_plane, depth, rate, amplitudes, grid)).sum()
    torch.testing.assert_close((amplitudes * found).sum(), backward, rtol=1e-12, atol=1e-12)


def test_layer_pair_differentiates_twice() -> None:
    plan, _ = layer_plan()

    def total(in_plane: Tensor, depth: Tensor, rate: Tensor, moments: Tensor) -> Tensor:
        return layer_sum(in_plane, depth, rate, moments, layer_grid(in_plane, BATCH, plan))

    def gathered(in_plane: Tensor, depth: Tensor, rate: Tensor, amplitudes: Tensor) -> Tensor:
        return layer_gather(in_plane, depth, rate, amplitudes, layer_grid(in_plane, BATCH, plan))

    common = (random(0, 6, 2), -random(1, 6).abs(), random(2, 4).abs())
    for function, last in ((total, random(3, 6, 2)), (gathered, random(4, 4, 2, 2))):
        inputs = tuple(tensor.requires_grad_() for tensor in (*common, last))
        # curvature up to (2π 2)^3 times central differences of 1e-6
        assert gradcheck(function, inputs, atol=1e-5)
        assert gradgradcheck(function, inputs, atol=1e-4)


def test_boys_functions_match_the_incomplete_gamma_function() -> None:
    x = torch.cat(
        [torch.linspace(1e-3, 12.0, 400), torch.linspace(127.0, 129.0, 9), torch.logspace(1, 4, 50)]
    ).double()
    found = boys(x, 8)
    for n in range(9):
        order = torch.full_like(x, n + 0.5)
        expected = torch.exp(torch.lgamma(order)) * torch.special.gammainc(order, x) / (2.0 * x**order)
        # the reference itself is good to 1e-12 here
        torch.testing.assert_close(found[n], expected, rtol=2e-12, atol=0.0)
    # where most arguments are small, all go downward; else most of them went upward
    torch.testing.assert_close(boys(x[x < 6.0], 8), found[:, x < 6.0], rtol=3e-14, atol=0.0)
    at_zero = torch.tensor([1.0 / (2 * n + 1) for n in range(9)], dtype=torch.float64)
    torch.testing.assert_close(boys(torch.zeros(1).double(), 8)[:, 0], at_zero, rtol=1e-15, atol=0.0)


def test_kernels_differentiate_twice_also_at_zero() -> None:
    squared = torch.tensor([0.0, 1e-8, 0.3, 9.0, 36.0, 40.0, 400.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda r2: kernels(r2, 1.2, 3), (squared,))
    assert gradgradcheck(lambda r2: kernels(r2, 1.2, 3), (squared,))


def test_inverse_of_a_cell() -> None:
    cells = random(0, 4, 3, 3)
    inverse, determinant = invert(cells)
    torch.testing.assert_close(inverse, torch.linalg.inv(cells), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(determinant, torch.linalg.det(cells), rtol=1e-12, atol=1e-12)


def binned_case(n_atoms: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, tuple[Any, ...]]:
    """Atoms of one structure, some bins without any, and waves with unlike bounds along the axes."""
    rng = np.random.default_rng(0)
    fractional = torch.from_numpy(rng.uniform(-1.0, 2.0, size=(n_atoms, 3)))
    fractional[: n_atoms // 2, 2] = 0.3 + 0.1 * fractional[: n_atoms // 2, 2]
    fractional[0, 2] = -1e-20  # one period up it is 1.0, not below
    triplets = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-4, 5), torch.arange(-21, 22))
    triplets = triplets[len(triplets) // 2 + 1 :][::3]  # some of a half space, zero left out
    zeros = torch.zeros(n_atoms, dtype=torch.int64), torch.zeros(len(triplets), dtype=torch.int64)
    return fractional.to(dtype), (zeros[0], triplets, zeros[1], 1)


def arrange_bins(fractional: Tensor, waves: tuple[Any, ...]) -> fourier_bins.BinnedPair:
    layout = fourier_bins.bin_layout(*waves)
    assert layout is not None
    return fourier_bins.arrange(fractional, layout)


@pytest.fixture
def few_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fourier_bins, "FEWEST_COLUMNS", 15)


@pytest.mark.usefixtures("few_columns")
@pytest.mark.parametrize("bin_atoms", [5, 20])  # thin bins; wide ones, with more polynomials
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_bins_equal_blocks(degree: int, bin_atoms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fourier_bins, "BIN_ATOMS", bin_atoms)
    monkeypatch.setattr(fourier_bins, "CHUNK_ELEMENTS", 2**12)  # bins of more than one chunk
    fractional, waves = binned_case(400)
    moments, amplitudes = random(1, 400, len(monomials(degree))), random(2, len(waves[1]), 2)
    bins, blocks = arrange_bins(fractional, waves), fourier_blocks.arrange(fractional, *waves)
    # rounding, relative to the largest column: each order multiplies by 2π times up to 21
    for found, expected in (
        (bins.sum(moments, degree), blocks.sum(moments, degree)),
        (bins.gather(amplitudes, degree), blocks.gather(amplitudes, degree)),
    ):
        error = (found - expected).abs().amax(0) / expected.abs().amax(0)
        assert error.max() < 1e-13
    moments[:, 1:] = 0.0  # charges alone, with nothing large to hide behind
    torch.testing.assert_close(
        bins.sum(moments, degree), blocks.sum(moments, degree), rtol=0.0, atol=1e-13 * 400
    )


@pytest.mark.usefixtures("few_columns")
def test_bins_in_float32() -> None:
    fractional, waves = binned_case(3000, torch.float32)
    moments, amplitudes = random(1, 3000, 4), random(2, len(waves[1]), 2)
    exact = fourier_blocks.arrange(fractional.double(), *waves)
    bins = arrange_bins(fractional, waves)
    for found, expected in (
        (bins.sum(moments.float(), 1), exact.sum(moments, 1)),
        (bins.gather(amplitudes.float(), 2), exact.gather(amplitudes, 2)),
    ):
        assert found.dtype == torch.float32
        error = (found.double() - expected).abs().amax(0) / expected.abs().amax(0)
        assert error.max() < 2e-5


@pytest.mark.usefixtures("few_columns")
def test_bins_differentiate_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fourier_bins, "BIN_ATOMS", 1)
    fractional, waves = binned_case(24)
    columns = len(monomials(1))

    def total(fractional: Tensor, moments: Tensor, amplitudes: Tensor) -> Tensor:
        pair = arrange_bins(fractional, waves)
        summed = fourier_sum(fractional, moments, pair, 1)
        return (summed * amplitudes).sum() + (moments * fourier_gather(fractional, amplitudes, pair, 1)).sum()

    inputs = (fractional, random(1, 24, columns), random(2, len(waves[1]), 2))
    for tensor in inputs:
        tensor.requires_grad_()
    # central differences of 1e-6 in functions with curvature up to (2π 21)^2 and values up to 1e5
    assert gradcheck(total, inputs, atol=1e-2, rtol=1e-5, fast_mode=True)
    assert gradgradcheck(total, inputs, atol=1.0, rtol=1e-4, fast_mode=True)


def test_which_structures_are_binned(monkeypatch: pytest.MonkeyPatch) -> None:
    fractional, waves = binned_case(3000)
    batch, triplets, k_batch, _ = waves
    assert fourier_bins.bin_layout(*waves) is None  # three times five columns
    monkeypatch.setattr(fourier_bins, "FEWEST_COLUMNS", 15)
    waves = (batch, triplets.clone(), k_batch, 1)  # layouts are remembered by list
    assert isinstance(dispatch.exact_sums("direct")(fractional, *waves), fourier_bins.BinnedPair)
    few = torch.zeros(1900, dtype=torch.int64)
    assert fourier_bins.bin_layout(few, triplets, k_batch, 1) is None  # too few atoms, waves, two structures
    low = triplets[triplets[:, 2].abs() < 14]
    assert fourier_bins.bin_layout(batch, low, k_batch[: len(low)], 1) is None
    assert fourier_bins.bin_layout(batch, triplets, k_batch, 2) is None
