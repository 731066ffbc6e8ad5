"""What the parts of a model are built from, and what several of them work out from it."""

from __future__ import annotations

import attrs

from lsf.data.statistics import DataFacts
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import LsfError
from lsf.models.backbone import layer_irreps
from lsf.models.backbone_options import BackboneOptions
from lsf.models.irreps import Irreps, parse_irreps


@attrs.frozen
class ModelSetting:
    """The model's options, the recipe's electrostatics and the facts of the data.

    Every source head and every energy term is built from its own options and one of these.
    """

    options: BackboneOptions
    electrostatics: Electrostatics
    facts: DataFacts

    @property
    def hidden(self) -> Irreps:
        """Irreps of the node features."""
        return parse_irreps(self.options.hidden_irreps)

    @property
    def layers(self) -> list[Irreps]:
        """Irreps that each layer leaves."""
        options = self.options
        return layer_irreps(self.hidden, options.num_interactions, options.last_layer == "scalars")

    @property
    def energy_scale(self) -> float:
        """Factor of the short-range energy, see :func:`energy_scale`."""
        return energy_scale(self.options, self.facts)

    @property
    def energy_shift(self) -> float:
        """Shift of the short-range energy of every atom in eV, see :func:`energy_shift`."""
        return energy_shift(self.options, self.facts)


def energy_scale(options: BackboneOptions, facts: DataFacts) -> float:
    """Return the factor of the short-range energy.

    Raises :class:`lsf.errors.LsfError` when the data does not say how large energies or forces are.
    """
    if not isinstance(options.scale, str):
        return 1.0 if options.scale is None else options.scale
    measured = facts.forces_rms if options.scale == "forces" else facts.energy_std
    if not measured:
        raise LsfError(
            f'model.scale = "{options.scale}": found no training frames whose {options.scale} differ from '
            'zero and from one another; expected labels to take it from, a number, or "none"'
        )
    return measured


def energy_shift(options: BackboneOptions, facts: DataFacts) -> float:
    """Return what is added to the short-range energy of every atom, in eV.

    Raises :class:`lsf.errors.LsfError` when it is to be the mean of the energies and there are none.
    """
    if options.shift != "mean":
        return options.shift or 0.0
    if facts.energy_mean is None:
        raise LsfError(
            'model.shift = "mean": found no training frame with an energy; expected energies to take the '
            'mean of, a number, or "none"'
        )
    return facts.energy_mean
