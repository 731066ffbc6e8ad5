"""What is summed over neighbours in a layer: paths, edges, radial weights. How is left to the kernels."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import attrs
import torch
from torch import Tensor

from lsf.models.couplings import allowed_products
from lsf.models.irreps import Irreps
from lsf.models.message_passing.native.blocks import EdgeBlocks, EdgeTables, edge_blocks
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

    ``initial`` (n_elements, 1, n_channels) are the features of every element before the first layer, and
    ``element`` (n_atoms,) says which is whose; both are None where the initial features of atoms of one
    element differ, and after that layer. ``sparing`` asks for blocks that take less memory. With
    ``unit_shifts`` (n_edges, 3) radial functions are evaluated once for the two directions of a pair.
    ``tables`` are those of the blocks where they were made before: what a recorded graph is given.
    ``lengths`` (n_edges,) and ``radial_slopes`` (n_edges, n_radial) are there for compiled code alone.
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
        self.initial: Tensor | None = None
        self.element: Tensor | None = None
        self.tables: EdgeTables | None = None
        self.unit_shifts: Tensor | None = None
        self.lengths: Tensor | None = None
        self.radial_slopes: Tensor | None = None
        self.sparing = False

    @cached_property
    def blocks(self) -> EdgeBlocks:
        """Blocks of receivers."""
        if self.tables is not None:
            return EdgeBlocks(self.tables, [])
        itemsize = self.harmonics.element_size()
        return edge_blocks(self.edge_index, self.slots, self.unit_shifts, itemsize, self.sparing)

    @cached_property
    def basis_in_rows(self) -> Tensor:
        """Radial basis ``(n_rows, n_radial)`` that the blocks' rows point to; zero in the last one."""
        return self.blocks.in_rows(self.radial_basis)

    @property
    def with_slopes(self) -> bool:
        """Whether radial functions come with their slopes, for sums of
        :mod:`lsf.models.message_passing.compiled.sums`.
        """
        return self.radial_slopes is not None

    @cached_property
    def slopes_in_rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Radial basis and its slopes ``(n_radial, n_rows)``, constants, and the lengths ``(n_rows,)``."""
        assert self.lengths is not None
        assert self.radial_slopes is not None
        rows = [self.radial_basis.detach(), self.radial_slopes, self.lengths.unsqueeze(1)]
        basis, slopes, lengths = (self.blocks.in_rows(values).T for values in rows)
        return basis, slopes, lengths[0]

    @cached_property
    def harmonics_in_slots(self) -> Tensor:
        """Harmonics ``(n_edge_slots, (max_ell + 1)²)`` of the blocks."""
        return self.blocks.in_slots(self.harmonics)

    @cached_property
    def elements_in_slots(self) -> Tensor:
        """One and zeros, ``(n_edge_slots, n_elements)``: the element of every sender."""
        assert self.element is not None
        assert self.initial is not None
        of_sender = self.element.index_select(0, self.blocks.tables.sender_of_slot)
        every = torch.arange(self.initial.shape[0], device=of_sender.device)
        return (of_sender.unsqueeze(1) == every).to(self.harmonics.dtype)

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
