"""What an edge knows from its two elements: bond lengths, and the repulsion of bare nuclei."""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from lsf.models.energies.base import EnergyContext, EnergyTerm
from lsf.models.radial import polynomial_cutoff
from lsf.models.setting import ModelSetting
from lsf.options import NoOptions

ZBL_EXPONENTS: Final = (3.2, 0.9423, 0.4028, 0.2016)
ZBL_COULOMB: Final = 14.3996
"""k_e e² in eV·Å, with the digits of mace-torch, whose energies this term has to give."""
ZBL_BOHR: Final = 0.529
"""The Bohr radius in Å, with the digits of mace-torch."""


class BondLengths(nn.Module):
    """Sum of the covalent radii of the two elements of every edge, in Å.

    The radii (Cordero et al., doi:10.1039/b801115j, as in ASE) are part of the model file.
    """

    radii: Tensor

    def __init__(self, species: tuple[int, ...]) -> None:
        super().__init__()
        radii = torch.tensor([covalent_radii[number] for number in species], dtype=torch.float64)
        self.register_buffer("radii", radii)

    def forward(self, species: Tensor, edge_index: Tensor) -> Tensor:
        """Return ``(n_edges,)`` float64 for species indices ``(n_atoms,)``."""
        radii = self.radii.index_select(0, species)
        return radii.index_select(0, edge_index[0]) + radii.index_select(0, edge_index[1])


class NoBondLengths(nn.Module):
    """No bond lengths: the null object of models without a transform of distances and without repulsion."""

    def forward(self, _species: Tensor, _edge_index: Tensor) -> None:
        """Return None, which the radial basis takes for no transform."""


class PairRepulsion(EnergyTerm):
    r"""Screened repulsion of nuclei at short distances, switched off at the sum of the covalent radii.

    .. math:: \tfrac12 \frac{k_e Z_u Z_v}{r} \phi(r / a) f(r / r_{uv}), \qquad
              a = \frac{0.4543 \, a_0}{Z_u^{0.3} + Z_v^{0.3}}

    Ziegler, Biersack & Littmark (1985), the universal screening function φ, with the constants and the
    envelope f of mace-torch. The constants are part of the model file. ``scale`` multiplies the energy, as it
    does that of the network.
    """

    name: ClassVar[str] = "pair_repulsion"
    part: ClassVar[str | None] = "short_range"
    per_atom: ClassVar[bool] = True

    numbers: Tensor
    screening: Tensor
    length: Tensor

    def __init__(self, species: tuple[int, ...], cutoff_p: int, scale: float = 1.0) -> None:
        super().__init__()
        self.cutoff_p = cutoff_p
        self.scale = scale
        self.register_buffer("numbers", torch.tensor(species, dtype=torch.float64), persistent=False)
        # weights of the four exponentials; prefactor and exponent of the screening length
        self.register_buffer(
            "screening", torch.tensor([0.1818, 0.5099, 0.2802, 0.02817], dtype=torch.float64)
        )
        self.register_buffer("length", torch.tensor([0.4543, 0.3], dtype=torch.float64))

    def forward(self, context: EnergyContext) -> Tensor:
        """Return ``(n_atoms,)`` eV."""
        vectors, graph = context.edges.vectors, context.graph
        assert context.bond_lengths is not None, "a model with pair repulsion has bond lengths"
        lengths = torch.sqrt((vectors * vectors).sum(-1))
        return self.scale * self.energies(lengths, context.bond_lengths, graph.species, graph.edge_index)

    def energies(self, lengths: Tensor, bond_lengths: Tensor, species: Tensor, edge_index: Tensor) -> Tensor:
        """Return ``(n_atoms,)`` eV, half of every directed edge at its receiver, not scaled.

        ``lengths`` and ``bond_lengths`` are ``(n_edges,)`` Å, float64.
        """
        numbers = self.numbers.index_select(0, species)
        first, second = numbers.index_select(0, edge_index[0]), numbers.index_select(0, edge_index[1])
        prefactor, exponent = self.length[0], self.length[1]
        scale = prefactor * ZBL_BOHR / (torch.pow(first, exponent) + torch.pow(second, exponent))
        screened = torch.zeros_like(lengths)
        for index, decay in enumerate(ZBL_EXPONENTS):
            screened = screened + self.screening[index] * torch.exp(-decay * lengths / scale)
        energy = 0.5 * ZBL_COULOMB * first * second / lengths * screened
        energy = energy * polynomial_cutoff(lengths / bond_lengths, self.cutoff_p)
        return torch.zeros_like(numbers).index_add(0, edge_index[1], energy)


def pair_repulsion(_options: NoOptions, setting: ModelSetting) -> PairRepulsion:
    """Return the repulsion between the elements of the data."""
    return PairRepulsion(setting.facts.species, setting.options.cutoff_p, setting.energy_scale)
