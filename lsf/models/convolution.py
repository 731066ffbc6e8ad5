"""What is summed over neighbours in a layer: paths, edges, radial weights. How is left to the kernels."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import attrs
import torch
from torch import Tensor, nn

from lsf.models.blocks import EdgeBlocks, edge_blocks
from lsf.models.couplings import allowed_products
from lsf.models.edge_pairs import RadialRows, radial_rows
from lsf.models.irreps import Irreps
from lsf.models.pair_layout import PairLayout
from lsf.models.radial import RadialNetwork

Path = tuple[int, int, int]

ELEMENTS_AT_MOST = 8
"""Elements present in a batch up to which a first layer sums by element before it applies any weight."""


def convolution_paths(degrees: tuple[int, ...], max_ell: int) -> tuple[Path, ...]:
    """Return all (feature degree, harmonic degree, message degree), messages up to ``max_ell``.

    Paths of one harmonic degree stand together, feature degrees rising inside.
    """
    return tuple(
        (l1, l2, l3)
        for l2 in range(max_ell + 1)
        for l1 in degrees
        for l3 in allowed_products(l1, l2, max_ell)
    )


@attrs.frozen
class Convolution:
    """The sum of a layer: ``m_i^path = Σ_j R_path(r_ij) · (h_j^l1 ⊗ Y^l2(r̂_ij))^l3``, channel by channel.

    The product is e3nn's, of component normalization: Wigner 3j symbols times √(2 l3 + 1). ``inputs`` are
    the irreps of the features h.
    """

    inputs: Irreps
    max_ell: int

    @property
    def paths(self) -> tuple[Path, ...]:
        """All (l1, l2, l3), in the order in which their weights are stored."""
        return convolution_paths(self.inputs.degrees, self.max_ell)


class Radial(NamedTuple):
    """The radial weights of a layer: R = network(basis) · out · scale."""

    network: RadialNetwork
    out: Tensor  # (width, n_paths, n_channels)
    scale: float

    def weights(self, basis: Tensor) -> Tensor:
        """Return the weights of all paths of every edge, ``(n_edges, n_paths · n_channels)``."""
        weights: Tensor = (self.network(basis) * self.scale) @ self.out.flatten(1)
        return weights


class Messages(NamedTuple):
    """Messages summed over neighbours.

    ``by_degree`` holds per degree those of its paths, ``(n_atoms, 2l + 1, n_channels)`` each. ``place``
    (n_atoms,) says which row is whose where rows are sorted in another way than atoms.
    """

    by_degree: list[list[Tensor]]
    place: Tensor | None = None


class Neighborhood:
    """Edges of a batch and the layouts in which the kernels sum over them; layouts are made when asked for.

    ``representatives`` (n_elements,) are atoms that stand for all others of their element in a first layer,
    and ``element`` (n_atoms,) says for which; both are None where the initial features of atoms of one
    element differ. ``sparing`` asks for blocks that take less memory. With ``unit_shifts`` (n_edges, 3)
    radial functions are evaluated once for the two directions of a pair.
    """

    def __init__(
        self,
        edge_index: Tensor,
        harmonics: Tensor,
        radial_basis: Tensor,
        slots: Tensor,
    ) -> None:
        self.edge_index, self.slots = edge_index, slots
        self.harmonics, self.radial_basis = harmonics, radial_basis
        self.representatives: Tensor | None = None
        self.element: Tensor | None = None
        self.pairs: PairLayout | None = None
        self.unit_shifts: Tensor | None = None
        self.sparing = False

    @cached_property
    def blocks(self) -> EdgeBlocks:
        """Blocks of receivers."""
        blocks = edge_blocks(self.edge_index, self.slots, self.harmonics.element_size(), self.sparing)
        blocks.rows = self._radial_rows.of_edge.index_select(0, blocks.edges)
        return blocks

    @cached_property
    def _radial_rows(self) -> RadialRows:
        return radial_rows(self.edge_index, self.unit_shifts, self.slots.shape[0])

    @cached_property
    def basis_in_rows(self) -> Tensor:
        """Radial basis ``(n_rows, n_radial)`` that the blocks' rows point to; zero in the last one."""
        chosen = nn.functional.embedding(self._radial_rows.edges, self.radial_basis)
        return torch.cat([chosen, chosen.new_zeros(1, chosen.shape[1])])

    @cached_property
    def harmonics_in_slots(self) -> Tensor:
        """Harmonics ``(n_slots, (max_ell + 1)²)`` of the blocks."""
        return self.blocks.gather(self.harmonics)

    @cached_property
    def elements_in_slots(self) -> Tensor:
        """One and zeros, ``(n_slots, n_elements)``: the element of every sender."""
        assert self.element is not None
        assert self.representatives is not None
        of_sender = self.element.index_select(0, self.blocks.senders)
        chosen = nn.functional.one_hot(of_sender, self.representatives.shape[0])
        return chosen.to(self.harmonics.dtype)

    @cached_property
    def by_receiver(self) -> tuple[Tensor, Tensor]:
        """Edges sorted by receiver ``(n_edges,)``, and where those of every atom begin ``(n_atoms + 1,)``."""
        return _sorted(self.edge_index[1], self.slots.shape[0])

    @cached_property
    def by_sender(self) -> tuple[Tensor, Tensor]:
        """The same by sender: no atom need be written to by several others."""
        return _sorted(self.edge_index[0], self.slots.shape[0])


def _sorted(atom: Tensor, n_atoms: int) -> tuple[Tensor, Tensor]:
    order = torch.argsort(atom, stable=True)
    bounds = torch.arange(n_atoms + 1, device=atom.device)
    return order, torch.searchsorted(atom.index_select(0, order), bounds)
