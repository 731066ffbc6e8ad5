"""Irreps, harmonics, couplings and the contraction against e3nn."""

import itertools

import numpy as np
import pytest
import torch
from e3nn import o3

from lsf.data.graph import group_by_species
from lsf.models.contraction import SymmetricContraction, factorisation
from lsf.models.couplings import symmetric_basis
from lsf.models.harmonics import spherical_harmonics
from lsf.models.irreps import Irreps, parse_irreps


def rotation_blocks(degrees: tuple[int, ...], matrix: torch.Tensor) -> torch.Tensor:
    """Block-diagonal representation of a rotation or reflection of vectors.

    Solved from the harmonics of random directions: e3nn goes through angles, good to 1e-7 only.
    """
    points = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    points = points / points.norm(dim=1, keepdim=True)
    before = spherical_harmonics(points, max(degrees))
    after = spherical_harmonics(points @ matrix.T, max(degrees))
    blocks = []
    for degree in degrees:
        part = slice(degree * degree, (degree + 1) ** 2)
        blocks.append(torch.linalg.lstsq(before[:, part], after[:, part]).solution.T)
    return torch.block_diag(*blocks)


def random_rotation(seed: int, improper: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    q = q * torch.sign(torch.diagonal(r))
    sign = -1.0 if improper else 1.0
    return q * torch.sign(torch.linalg.det(q)) * sign


@pytest.mark.parametrize("max_degree", [0, 1, 2, 3, 4])
def test_harmonics_equal_e3nn(max_degree):
    vectors = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    reference = o3.spherical_harmonics(list(range(max_degree + 1)), vectors[:, [1, 2, 0]], False, "component")
    assert torch.allclose(spherical_harmonics(vectors, max_degree), reference, atol=1e-13)


def test_harmonics_are_finite_and_differentiable_along_the_axes():
    axes = torch.eye(3, dtype=torch.float64).repeat(2, 1) * torch.tensor([[1.0]] * 3 + [[-1.0]] * 3)
    vectors = axes.clone().requires_grad_(True)
    values = spherical_harmonics(vectors, 4)
    (gradient,) = torch.autograd.grad(values.sum(), vectors, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), vectors)
    assert torch.isfinite(values).all()
    assert torch.isfinite(second).all()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("64x0e + 32x1o", "same number of channels"),
        ("64x1o", "scalars"),
        ("64x0e + 64x1e", "natural parity"),
        ("64x0e + 64x0e", "only once"),
        ("64", "not an irrep"),
    ],
)
def test_unusable_irreps_are_refused(text, match):
    with pytest.raises(ValueError, match=match):
        parse_irreps(text)


def test_irreps_read_back():
    irreps = parse_irreps("8x1o + 8x0e+8x2e")
    assert irreps == Irreps(8, (0, 1, 2))
    assert str(irreps) == "8x0e + 8x1o + 8x2e"
    assert irreps.slices() == {0: slice(0, 1), 1: slice(1, 4), 2: slice(4, 9)}


# Number of symmetric couplings of l = 0 … 3: published path counts of the reduced MACE basis
# (8 and 12 of order three, measured independently by a singular value decomposition).
@pytest.mark.parametrize(
    ("order", "degree", "count"), [(1, 0, 1), (1, 1, 1), (2, 0, 4), (2, 1, 3), (3, 0, 8), (3, 1, 12)]
)
def test_symmetric_basis_has_the_known_size(order, degree, count):
    _, basis = symmetric_basis(3, order, degree)
    assert basis.shape[0] == count


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_symmetric_basis_is_equivariant(order, degree):
    max_degree = 2
    monomials, basis = symmetric_basis(max_degree, order, degree)
    matrix = random_rotation(3, improper=True)
    turn_in = rotation_blocks(tuple(range(max_degree + 1)), matrix).numpy()
    turn_out = rotation_blocks((degree,), matrix).numpy()
    values = np.random.default_rng(0).normal(size=(max_degree + 1) ** 2)

    def polynomials(x):
        products = np.array([np.prod(x[list(monomial)]) for monomial in monomials])
        return basis @ products

    assert np.allclose(polynomials(turn_in @ values), polynomials(values) @ turn_out.T, atol=1e-12)


def naive_contraction(module, basis, species, max_ell, correlation, degrees):
    """Σ over orders and couplings of weight · polynomial, straight from the definition."""
    outputs = []
    for index, degree in enumerate(degrees):
        total, start = 0.0, 0
        for order in range(1, correlation + 1):
            monomials, couplings = symmetric_basis(max_ell, order, degree)
            columns = [torch.stack([basis[:, i] for i in m]).prod(0) for m in monomials]
            products = torch.stack(columns, 1)  # [atom, monomial, channel]
            polynomial = torch.einsum("pmk,nkc->npmc", torch.from_numpy(couplings), products)
            weight = module.weights[index][species][:, start : start + couplings.shape[0]]
            total = total + (polynomial * weight.unsqueeze(2)).sum(1)
            start += couplings.shape[0]
        outputs.append(total)
    return torch.cat(outputs, 1)


@pytest.mark.parametrize(
    ("max_ell", "correlation", "degrees"),
    [(0, 3, (0,)), (1, 3, (0, 1)), (2, 2, (0, 1, 2)), (3, 1, (0, 1)), (3, 3, (0, 1)), (2, 3, (0, 1, 2))],
)
def test_contraction_equals_its_definition(max_ell, correlation, degrees):
    torch.manual_seed(0)
    module = SymmetricContraction(max_ell, correlation, Irreps(3, degrees), n_species=4)
    module = module.to(torch.float64)
    basis = torch.randn(7, (max_ell + 1) ** 2, 3, dtype=torch.float64)
    species = torch.tensor([3, 0, 0, 2, 3, 0, 2])  # one species absent, unequal counts
    present, slots, place = group_by_species(species)
    grouped = torch.cat([basis, torch.zeros_like(basis[:1])])[slots]
    result = module(grouped, present).flatten(0, 1)[place]
    expected = naive_contraction(module, basis, species, max_ell, correlation, degrees)
    assert torch.allclose(result, expected, atol=1e-12)


def test_lower_monomials_stay_few():
    # 1 + 6 even + 21 + 55 pairs of equal parity; the constant is only used by odd outputs
    assert len(factorisation(3, 3, (0, 1)).lower) <= 83
    pairs = itertools.combinations_with_replacement(range(16), 2)
    assert len(list(pairs)) == 136
