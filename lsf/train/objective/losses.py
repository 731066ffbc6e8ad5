"""Loss terms: weighted squared errors, each a mean over the entries that have a label.

A term is returned as a pair (sum, count), so that a whole data set's loss is the exact mean over its
labelled entries, whatever the batches. Terms are chosen by name in a recipe; their registry entries
stand in ``registry/losses``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import attrs
import torch
from torch import Tensor

from lsf.electrostatics.settings import Electrostatics
from lsf.machine.geometric import Batch
from lsf.options import at_least, option
from lsf.recipe.catalog import catalog
from lsf.recipe.quantities import LABELS
from lsf.recipe.schema import LossTerm
from lsf.train.objective.labels import Comparison, Predictions, atoms_per_graph, compare


class Term(NamedTuple):
    """Weighted squares summed over a batch's labelled entries, and their number (both scalars)."""

    squares: Tensor
    entries: Tensor

    def mean(self) -> Tensor:
        """Return the mean over the labelled entries, 0 where there is none."""
        return self.squares / self.entries.clamp(min=1.0)


@attrs.frozen
class MultipoleLossOptions:
    """Options of the atomic-multipole term."""

    higher_order_weight: float = option(
        "Factor of the squared errors of dipoles and higher multipoles relative to those of charges, which "
        "have another unit. Lower it to let charges decide.",
        default=1.0,
        validator=at_least(0.0),
    )


class Loss:
    r"""Mean squared error of one property over its labelled entries.

    .. math:: \frac{1}{|\{k: w_k > 0\}|} \sum_k w_k\, s_k\, (y_k - \hat y_k)^2

    :math:`w` is the label's weight (per frame; dipole: per component) and :math:`s` a scale, 1 unless a
    subclass says otherwise. With ``per_atom`` the difference is divided by the frame's number of atoms.
    Frames without the label have weight 0 and count neither above nor below the fraction line.

    ``needs`` is the label, ``ingredients`` what a frame must have besides
    (:data:`lsf.train.objective.labels.INGREDIENTS`). ``settings`` are those of the model's density.
    """

    needs: ClassVar[str]
    ingredients: ClassVar[tuple[str, ...]] = ()
    per_atom: ClassVar[bool] = False

    def __init__(self, options: Any, settings: Electrostatics | None = None) -> None:
        self.options = options
        self.settings = settings or Electrostatics()

    @property
    def compute(self) -> frozenset[str]:
        """Outputs that have to be derived by differentiation for this term."""
        return LABELS[self.needs].prediction.compute

    def term(self, predictions: Predictions, batch: Batch) -> Term:
        """Return sum and count of the weighted squares of a batch (scalars, the square of the unit)."""
        pair = compare(self.needs, predictions, batch)
        difference = pair.difference()
        if self.per_atom:
            difference = difference / atoms_per_graph(batch)[pair.graph].unsqueeze(-1)
        squares = (pair.weight * self.scaled_squares(difference)).sum()
        return Term(squares, count_labelled(pair))

    def scaled_squares(self, difference: Tensor) -> Tensor:
        """Return the squares of the differences (n_rows, n_entries)."""
        return difference.square()

    def __call__(self, predictions: Predictions, batch: Batch) -> Tensor:
        """Return the term of a batch as one number."""
        return self.term(predictions, batch).mean()


def count_labelled(pair: Comparison) -> Tensor:
    """Return the number of entries with a weight above zero, a float64 scalar."""
    entries_per_weight = pair.target.shape[1] // pair.weight.shape[1]
    return (pair.weight > 0.0).sum().to(torch.float64) * entries_per_weight


class EnergyPerAtomLoss(Loss):
    """Energy per atom, (eV/atom)²."""

    needs = "energy"
    per_atom = True


class ForcesLoss(Loss):
    """Force components, (eV/Å)²."""

    needs = "forces"


class StressLoss(Loss):
    """Components of the stress, (eV/Å³)²."""

    needs = "stress"


class VirialsLoss(Loss):
    """Components of the virial per atom, (eV/atom)²."""

    needs = "virials"
    per_atom = True


class AtomicMultipolesLoss(Loss):
    """Charges (e²), dipoles ((e·Å)²) and higher moments of the atoms, as the model's density holds them."""

    needs = "atomic_multipoles"

    def scaled_squares(self, difference: Tensor) -> Tensor:
        """Return the squares (n_atoms, (L+1)²), those beyond the charge times their factor."""
        squares = difference.square()
        factor: float = self.options.higher_order_weight
        return squares if factor == 1.0 else torch.cat((squares[:, :1], factor * squares[:, 1:]), 1)


class TotalChargeLoss(Loss):
    """Total charge of a frame, e²."""

    needs = "total_charge"


class TotalChargePerAtomLoss(Loss):
    """Total charge divided by the number of atoms, (e/atom)²."""

    needs = "total_charge"
    per_atom = True


class DipoleLoss(Loss):
    """Cartesian components of the dipole whose weight is above zero, (e·Å)²."""

    needs = "dipole"


class DipolePerAtomLoss(Loss):
    """Dipole components divided by the number of atoms, (e·Å/atom)²."""

    needs = "dipole"
    per_atom = True


class PolarizabilityLoss(Loss):
    """Components of the polarizability per atom, (e·Å²/V/atom)²."""

    needs = "polarizability"
    per_atom = True


class BornChargesLoss(Loss):
    """Components of the Born effective charges ``Z*[i, α, β] = ∂P_α/∂r_{i,β}``, e²."""

    needs = "born_charges"


class PotentialsLoss(Loss):
    """Electrostatic potential at the atoms, V².

    Frames without labelled potentials are compared with the potential of their reference multipoles
    (:mod:`lsf.data.potentials`).
    """

    needs = "electrostatic_potentials"


class StageLoss:
    """The loss of one stage: the sum of its terms, each times its weight."""

    def __init__(self, names: Sequence[str], losses: Sequence[Loss], weights: Sequence[float]) -> None:
        self.names = tuple(names)
        self.losses = tuple(losses)
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.needs = tuple(dict.fromkeys(name for loss in losses for name in (loss.needs, *loss.ingredients)))
        self.compute = frozenset().union(*(loss.compute for loss in losses))

    def terms(self, predictions: Predictions, batch: Batch) -> Tensor:
        """Return sums and counts of all terms, (2, n_terms) float64."""
        terms = [loss.term(predictions, batch) for loss in self.losses]
        return torch.stack([torch.stack(parts).to(torch.float64) for parts in zip(*terms, strict=True)])

    def combine(self, terms: Tensor) -> Tensor:
        """Return the loss, a scalar, of sums and counts added up over any number of batches."""
        return (self.weights.to(terms.device) * self.means(terms)).sum()

    @staticmethod
    def means(terms: Tensor) -> Tensor:
        """Return each term's mean over its labelled entries, without its weight, (n_terms,)."""
        return terms[0] / terms[1].clamp(min=1.0)

    def named(self, terms: Tensor) -> dict[str, float | None]:
        """Return name → mean of each term; None where no entry was labelled."""
        means, counts = self.means(terms).tolist(), terms[1].tolist()
        return {
            name: mean if count else None for name, mean, count in zip(self.names, means, counts, strict=True)
        }


def build_stage_loss(terms: Mapping[str, LossTerm], settings: Electrostatics | None = None) -> StageLoss:
    """Return the loss of a stage from the terms of its recipe table and the model's electrostatics."""
    losses = [
        catalog().entry("losses", name).target()(term.options, settings) for name, term in terms.items()
    ]
    return StageLoss(tuple(terms), losses, [term.weight for term in terms.values()])
