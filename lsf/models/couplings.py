"""Constants of angular-momentum coupling, computed once at construction in float64.

e3nn supplies the real Wigner 3j symbols. They refer to its component order for vectors given as
(y, z, x), the order this project uses throughout, so no change of basis is needed.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from e3nn import o3
from torch import Tensor

from lsf.machine.caches import constant


@constant
def wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    """Return the real 3j symbol, ``(2 l1 + 1, 2 l2 + 1, 2 l3 + 1)``, float64, of unit norm."""
    symbol: Tensor = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
    return symbol


def allowed_products(l1: int, l2: int, max_degree: int) -> tuple[int, ...]:
    """Return the degrees of natural parity that l1 ⊗ l2 contains, up to ``max_degree``."""
    return tuple(l3 for l3 in range(abs(l1 - l2), min(l1 + l2, max_degree) + 1) if (l1 + l2 + l3) % 2 == 0)


Monomial = tuple[int, ...]


def _offset(degree: int) -> int:
    return degree * degree


def _coupled(max_degree: int, order: int, degree_out: int, unnatural: bool = False) -> list[np.ndarray]:
    """All couplings of ``order`` copies of the degrees 0 … max_degree to ``degree_out``.

    Each is an array ``(2 degree_out + 1, D, …, D)`` over the components of the factors, coupled from
    left to right through every intermediate degree of natural parity, with ``unnatural`` also of the
    other one (two vectors to an axial vector, say).
    """
    dim = (max_degree + 1) ** 2
    states: list[tuple[int, tuple[int, ...], np.ndarray]] = []
    for degree in range(max_degree + 1):
        block = np.zeros((2 * degree + 1, dim))
        block[:, _offset(degree) : _offset(degree + 1)] = np.eye(2 * degree + 1)
        states.append((degree, (degree,), block))
    for _ in range(order - 1):
        coupled = []
        for degree, factors, tensor in states:
            # The product commutes, so rising factors already span every symmetric coupling.
            for other in range(factors[-1], max_degree + 1):
                highest = max_degree * order
                results = allowed_products(degree, other, highest)
                if unnatural:
                    results = tuple(range(abs(degree - other), degree + other + 1))
                for result in results:
                    symbol = wigner_3j(degree, other, result).numpy() * np.sqrt(2 * result + 1)
                    product = np.einsum("a...,abc->c...b", tensor, symbol)
                    padded = np.zeros((*product.shape[:-1], dim))
                    padded[..., _offset(other) : _offset(other + 1)] = product
                    coupled.append((result, (*factors, other), padded))
        states = coupled
    return [
        tensor
        for degree, factors, tensor in states
        if degree == degree_out and (sum(factors) + degree) % 2 == 0
    ]


@constant
def symmetric_basis(
    max_degree: int, order: int, degree_out: int, complete: bool = False
) -> tuple[tuple[Monomial, ...], np.ndarray]:
    """Independent equivariant polynomials of one order in the components 0 … (max_degree + 1)² - 1.

    The couplings are collected onto monomials (which symmetrises them) and orthonormalised in the
    fixed order of generation, so that the basis, and with it the meaning of stored weights, does not
    depend on a linear-algebra library. Couplings through intermediate degrees of natural parity reach
    all polynomials but a few of third order: 1 ⊗ 2 ⊗ 3 to degree 2, for one. ``complete`` appends these.

    Returns
    -------
    monomials : rising tuples of component indices
    coefficients : (n_basis, 2 degree_out + 1, n_monomials); every basis polynomial has a mean
        square of 1 per output component over monomials

    References
    ----------
    Batatia et al., MACE, arXiv:2206.07697, eq. (10); Dusson et al., arXiv:1911.03550.
    """
    dim = (max_degree + 1) ** 2
    monomials = tuple(itertools.combinations_with_replacement(range(dim), order))
    column = {monomial: index for index, monomial in enumerate(monomials)}
    basis: list[np.ndarray] = []
    tensors = _coupled(max_degree, order, degree_out)
    if complete:
        tensors += _coupled(max_degree, order, degree_out, unnatural=True)
    for tensor in tensors:
        polynomial = np.zeros((2 * degree_out + 1, len(monomials)))
        for entry in np.argwhere(np.abs(tensor) > 1e-12):
            monomial = tuple(sorted(int(index) for index in entry[1:]))
            polynomial[entry[0], column[monomial]] += tensor[tuple(entry)]
        start = np.linalg.norm(polynomial)
        for _ in range(2):  # a second pass removes the rounding of the first
            for other in basis:
                polynomial = polynomial - other * np.vdot(other, polynomial)
        norm = np.linalg.norm(polynomial)
        if start > 1e-10 and norm > 1e-8 * start:
            basis.append(polynomial / norm)
    scale = np.sqrt(2 * degree_out + 1)
    stacked = np.stack(basis) * scale if basis else np.zeros((0, 2 * degree_out + 1, len(monomials)))
    stacked[np.abs(stacked) < 1e-13] = 0.0
    return monomials, stacked
