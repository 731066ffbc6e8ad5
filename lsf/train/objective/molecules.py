"""Loss terms about whole molecules: the force on each, and how they pull on one another.

Forces inside a molecule are large and stiff; what molecules do to one another is a small part of them, which
these terms weigh by itself. Molecules are numbered per frame by the property ``molecule_ids``; atoms with a
number below 0 belong to none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lsf.machine.geometric import Batch
from lsf.train.objective.labels import Predictions, atoms_per_graph, compare
from lsf.train.objective.losses import Loss, Term


class Molecules(NamedTuple):
    """The molecules of a batch."""

    member: Tensor  # (n_members,) int64 atoms that belong to a molecule
    place: Tensor  # (n_members,) int64 molecule of each
    graph: Tensor  # (n_molecules,) int64 graph of each molecule

    def sums(self, values: Tensor) -> Tensor:
        """Return the sums over each molecule's atoms, (n_molecules, 3), of values (n_atoms, 3)."""
        zeros = values.new_zeros(self.graph.shape[0], values.shape[1])
        return zeros.index_add(0, self.place, values.index_select(0, self.member))


def molecules_of(batch: Batch) -> Molecules:
    """Return the molecules of a batch; equal numbers in two frames are two molecules."""
    member = torch.nonzero(batch.molecule_ids >= 0).squeeze(1)
    pairs = torch.stack((batch.batch[member], batch.molecule_ids[member]), 1)
    distinct, index = torch.unique(pairs, dim=0, return_inverse=True)
    return Molecules(member, index, distinct[:, 0])


class MolecularLoss(Loss):
    """A number per frame made from the molecules' force errors; a mean over the frames that have both."""

    needs = "forces"
    ingredients = ("molecule_ids",)

    def term(self, predictions: Predictions, batch: Batch) -> Term:
        """Return sum and count over the frames with forces and molecules (scalars)."""
        molecules = molecules_of(batch)
        errors = molecules.sums(compare(self.needs, predictions, batch).difference().to(torch.float64))
        weight = torch.zeros_like(batch.weight_forces)
        weight[molecules.graph] = batch.weight_forces[molecules.graph]
        values = self.values(errors, molecules, batch)
        return Term((weight * values).sum(), (weight > 0.0).sum().to(torch.float64))

    def values(self, errors: Tensor, molecules: Molecules, batch: Batch) -> Tensor:
        """Return the number of each frame (n_graphs,) from the errors of its molecules (n_molecules, 3)."""
        raise NotImplementedError


class MolecularForcesLoss(MolecularLoss):
    r"""Force on each molecule, :math:`\sum_m \|\sum_{i \in m} (F_i - \hat F_i)\|^2 / n_{atoms}`, (eV/Å)²."""

    def values(self, errors: Tensor, molecules: Molecules, batch: Batch) -> Tensor:
        """Return the squares summed over molecules, per atom of the frame."""
        sizes = atoms_per_graph(batch)
        sums = errors.new_zeros(sizes.shape[0]).index_add(0, molecules.graph, errors.square().sum(1))
        return sums / sizes


class ClusterVirialLoss(MolecularLoss):
    r"""Virial of the forces between molecules, squared, eV².

    .. math:: \Big(\sum_m \bar R_m \cdot \sum_{i \in m} (F_i - \hat F_i)\Big)^2

    :math:`\bar R_m` is the mean position of the molecule's atoms as they stand in the file: molecules must be
    whole, and in a periodic cell the value depends on the image each one is given by.
    """

    def values(self, errors: Tensor, molecules: Molecules, batch: Batch) -> Tensor:
        """Return the squared virial of each frame."""
        counts = torch.bincount(molecules.place, minlength=molecules.graph.shape[0]).unsqueeze(1)
        centers = molecules.sums(batch.positions) / counts
        n_graphs = batch.weight_forces.shape[0]
        virials = errors.new_zeros(n_graphs).index_add(0, molecules.graph, (centers * errors).sum(1))
        return virials.square()


class ClusterVirialPerAtomLoss(ClusterVirialLoss):
    """The same divided once, outside the square, by the number of atoms, eV²/atom."""

    def values(self, errors: Tensor, molecules: Molecules, batch: Batch) -> Tensor:
        """Return the squared virial of each frame per atom."""
        return super().values(errors, molecules, batch) / atoms_per_graph(batch)
