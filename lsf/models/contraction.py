"""Symmetric contraction: the many-body product basis of MACE, as one matrix product per species.

Every output is a polynomial of degree at most ``correlation`` in the components A of one atom and
channel, Batatia et al., arXiv:2206.07697, eqs. (10) and (11):

    B_LM = Σ_ν Σ_η W^ν_{z η c} Σ_{k_1 … k_ν} U^ν_{η LM, k_1 … k_ν} A_{k_1 c} … A_{k_ν c}

with k = (l, m) and U the symmetric couplings. The polynomial is factorised as ``Σ_k A_k (Q · T[k])`` with Q
the monomials of lower degree, ``T = W U`` of the atom's species: parity (even degrees l against odd ones)
decides which factor k is split off, which keeps Q short. Derivatives of the matrix product are autograd's,
those of the monomials stand in :mod:`lsf.models.monomials`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lsf.machine.caches import constant
from lsf.models.couplings import Monomial, symmetric_basis
from lsf.models.irreps import Irreps
from lsf.models.monomials import IndexPairs, Run, chosen, pair_products, recorded, runs_of

Split = tuple[Monomial, int | None]

ATOMS_AT_ONCE: Final = 32
"""Atoms of every species whose polynomials are evaluated together where intermediates are computed again."""


def _is_odd(component: int) -> bool:
    return int(np.sqrt(component)) % 2 == 1


def split_monomial(monomial: Monomial, odd_output: bool) -> Split:
    """Return (lower monomial, factor): the factor has the output's parity, None stands for 1."""
    odd = [index for index in monomial if _is_odd(index)]
    even = [index for index in monomial if not _is_odd(index)]
    if odd_output:
        factor = odd[-1]
        rest = list(monomial)
        rest.remove(factor)
        return tuple(rest), factor
    if len(monomial) < 3:
        return monomial, None
    factor = even[-1]
    rest = list(monomial)
    rest.remove(factor)
    return tuple(rest), factor


class Factorisation:
    """Constant tables of the contraction for given degrees and correlation order.

    ``lower`` lists the monomials Q; ``factors[l]`` the components that multiply them for output l
    (None first for the constant); ``tables[l]`` is ``(n_basis, n_lower · n_factors · (2l + 1))``.
    """

    def __init__(self, max_ell: int, correlation: int, degrees_out: tuple[int, ...], complete: bool) -> None:
        self.lower: list[Monomial] = []
        self.factors: dict[int, list[int | None]] = {}
        self.tables: dict[int, np.ndarray] = {}
        entries: dict[int, list[tuple[int, int, Split, float]]] = {}
        counts: dict[int, int] = {}
        for degree in degrees_out:
            entries[degree], counts[degree] = [], 0
            for order in range(1, correlation + 1):
                monomials, basis = symmetric_basis(max_ell, order, degree, complete)
                for path, component, column in np.argwhere(basis != 0.0):
                    split = split_monomial(monomials[column], degree % 2 == 1)
                    value = float(basis[path, component, column])
                    entries[degree].append((counts[degree] + int(path), int(component), split, value))
                counts[degree] += basis.shape[0]
        used = {split[0] for items in entries.values() for _, _, split, _ in items}
        self.lower = sorted(used, key=lambda monomial: (len(monomial), monomial))
        row = {monomial: index for index, monomial in enumerate(self.lower)}
        for degree, items in entries.items():
            found = {split[1] for _, _, split, _ in items}
            factors = sorted(found, key=lambda factor: -1 if factor is None else factor)
            place = {factor: index for index, factor in enumerate(factors)}
            table = np.zeros((counts[degree], len(self.lower), len(factors), 2 * degree + 1))
            for path, component, (lower, factor), value in items:
                table[path, row[lower], place[factor], component] += value
            self.factors[degree] = factors
            self.tables[degree] = table.reshape(counts[degree], -1)


@constant
def factorisation(
    max_ell: int, correlation: int, degrees_out: tuple[int, ...], complete: bool = False
) -> Factorisation:
    """Return the (cached) constant tables; building them takes a moment for large ``max_ell``."""
    return Factorisation(max_ell, correlation, degrees_out, complete)


class SymmetricContraction(nn.Module):
    """Polynomials of the atomic basis with species- and channel-dependent weights.

    Batatia et al., arXiv:2206.07697, eqs. (10) and (11). ``complete`` adds the polynomials that only
    couplings through intermediate degrees of unnatural parity reach, after all others. With ``recompute``
    backward passes compute the monomials again, some atoms at a time.
    """

    lower_0: Tensor
    lower_1: Tensor

    def __init__(
        self, max_ell: int, correlation: int, outputs: Irreps, n_species: int, complete: bool = False
    ) -> None:
        super().__init__()
        tables = factorisation(max_ell, correlation, outputs.degrees, complete)
        dim = (max_ell + 1) ** 2
        self.degrees = outputs.degrees
        self.recompute = False
        self.n_lower = len(tables.lower)
        self.sizes: list[tuple[int, int]] = []
        self.weights = nn.ParameterList()
        for degree in outputs.degrees:
            table = torch.from_numpy(tables.tables[degree])
            self.register_buffer(f"table_{degree}", table.T.contiguous(), persistent=False)
            n_basis = table.shape[0]
            self.weights.append(nn.Parameter(torch.randn(n_species, n_basis, outputs.channels) / n_basis))
            # The component index dim points at an appended 1: the constant factor.
            chosen = [dim if factor is None else factor for factor in tables.factors[degree]]
            self.register_buffer(f"factors_{degree}", torch.tensor(chosen), persistent=False)
            self.sizes.append((len(chosen), 2 * degree + 1))
        self._register_lower(tables.lower, dim)

    def _register_lower(self, lower: list[Monomial], dim: int) -> None:
        # A lower monomial has up to two factors for correlation 3; missing ones are the constant 1.
        depth = max(1, max(len(monomial) for monomial in lower))
        self.depth = depth
        for position in range(depth):
            chosen = [monomial[position] if position < len(monomial) else dim for monomial in lower]
            self.register_buffer(f"lower_{position}", torch.tensor(chosen), persistent=False)
        self.runs: tuple[Run, ...] = ()
        if depth == 2:
            self.runs = runs_of(self.lower_0.tolist(), self.lower_1.tolist())

    def forward(self, grouped: Tensor, present_species: Tensor) -> Tensor:
        """Return ``(n_present, n_slots, Σ (2l + 1), n_channels)``.

        ``grouped`` is ``(n_present, n_slots, (max_ell + 1)², n_channels)``, atoms grouped by species.
        """
        n_present, n_slots, _, n_channels = grouped.shape
        # Component first: picking components then copies whole rows, and atoms stay innermost.
        basis = grouped.permute(2, 0, 3, 1).reshape(grouped.shape[2], n_present * n_channels, n_slots)
        matrix = self._matrix(present_species, n_channels)
        if self.recompute and torch.is_grad_enabled() and n_slots > ATOMS_AT_ONCE and not recorded():
            parts = [
                checkpoint(self._polynomials, part, matrix, use_reentrant=False, preserve_rng_state=False)
                for part in basis.split(ATOMS_AT_ONCE, dim=2)
            ]
            outputs = torch.cat(parts, dim=2)
        else:
            outputs = self._polynomials(basis, matrix)
        return outputs.reshape(n_present, n_channels, -1, n_slots).permute(0, 3, 2, 1)

    def _matrix(self, present_species: Tensor, n_channels: int) -> Tensor:
        """Return the coefficients ``(n_present · n_channels, Σ factors · (2l + 1), n_lower)``."""
        n_present = present_species.shape[0]
        coefficients = []
        for index, degree in enumerate(self.degrees):
            weight = self.weights[index].index_select(0, present_species)
            table = torch.matmul(getattr(self, f"table_{degree}").to(weight.dtype), weight)
            coefficients.append(table.reshape(n_present, self.n_lower, -1, n_channels))
        joined = torch.cat(coefficients, dim=2).permute(0, 3, 2, 1)
        return joined.reshape(n_present * n_channels, -1, self.n_lower)

    def _polynomials(self, basis: Tensor, matrix: Tensor) -> Tensor:
        """Return ``(n_present · n_channels, Σ (2l + 1), n_slots)``.

        ``basis`` is ``((max_ell + 1)², n_present · n_channels, n_slots)``.
        """
        n_slots = basis.shape[2]
        basis = torch.cat([basis, torch.ones_like(basis[:1])])
        if self.depth == 2:
            lower = pair_products(basis, IndexPairs(self.lower_0, self.lower_1, self.runs))
        else:
            lower = chosen(basis, self.lower_0)
        product = torch.bmm(matrix, lower.transpose(0, 1))  # [species·channel, factor·m, atom]
        outputs, start = [], 0
        for index, degree in enumerate(self.degrees):
            n_factors, size = self.sizes[index]
            block = product[:, start : start + n_factors * size].reshape(-1, n_factors, size, n_slots)
            start += n_factors * size
            factors = chosen(basis, getattr(self, f"factors_{degree}")).transpose(0, 1)
            outputs.append((block * factors.unsqueeze(2)).sum(1))
        return torch.cat(outputs, dim=1)
