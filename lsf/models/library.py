"""The models by name: each is the same forward with another source head.

These builders are the targets of ``registry/models/*.toml``; their options stand in
:mod:`lsf.models.options`.
"""

from __future__ import annotations

from torch import nn

from lsf.data.statistics import DataFacts
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import LsfError
from lsf.models.backbone import Backbone, layer_irreps
from lsf.models.charge_state_embedding import ChargeState
from lsf.models.energies.localized_charge import LocalizedCharge
from lsf.models.energies.pair_repulsion import PairRepulsion
from lsf.models.energies.readout import EnergyReadout, PolarizabilityReadout
from lsf.models.irreps import Irreps, parse_irreps
from lsf.models.local_source import CoulombTerm, LocalSourceModel, NoCoulomb
from lsf.models.options import (
    BackboneOptions,
    FixedChargeOptions,
    LocalChargesOptions,
    LocalSplitChargesOptions,
    MACEOptions,
)
from lsf.models.radial import RADIAL_BASES, TRANSFORMS, RadialBasis
from lsf.models.sources.heads import (
    FixedSource,
    LocalSource,
    MultipoleReadout,
    NoSource,
    SourceHead,
    SplitSource,
)
from lsf.models.sources.oxidation import (
    Mixer,
    NoMixer,
    OxidationDependentTransfer,
    ProductMixer,
    SumMixer,
    SymmetricTransfer,
)

SYMMETRIC_WIDTH = 64
OXIDATION_WIDTH = 32


def mace(options: MACEOptions, electrostatics: Electrostatics, facts: DataFacts) -> LocalSourceModel:
    """Return the backbone alone, without charges."""
    return _assemble(options, facts, NoSource(), NoCoulomb())


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


def local_charges(
    options: LocalChargesOptions, electrostatics: Electrostatics, facts: DataFacts
) -> LocalSourceModel:
    """Return the model that reads multipoles directly from node features."""
    source = LocalSource(_layers(options), electrostatics.multipoles_max_l)
    return _assemble(options, facts, source, CoulombTerm(electrostatics))


def fixed_charges(
    options: FixedChargeOptions, electrostatics: Electrostatics, facts: DataFacts
) -> LocalSourceModel:
    """Return the model with formal charges that stay as given; its higher multipoles are zero."""
    source = FixedSource(electrostatics.multipoles_max_l)
    return _assemble(options, facts, source, CoulombTerm(electrostatics))


def local_split_charges(
    options: LocalSplitChargesOptions, electrostatics: Electrostatics, facts: DataFacts
) -> LocalSourceModel:
    """Return the model with formal charges and learned transfer along edges."""
    hidden, layers = parse_irreps(options.hidden_irreps), _layers(options)
    transfers = nn.ModuleList(_transfer(options, layer) for layer in layers)
    max_l = electrostatics.multipoles_max_l
    higher = tuple(range(1, max_l + 1))
    multipoles = MultipoleReadout(layers, higher) if higher else None
    source = SplitSource(_mixer(options, hidden), transfers, multipoles)
    polarizability = None
    if options.polarizability:
        polarizability = PolarizabilityReadout(hidden, options.num_interactions)
    return _assemble(options, facts, source, CoulombTerm(electrostatics), polarizability)


def _layers(options: BackboneOptions) -> list[Irreps]:
    hidden = parse_irreps(options.hidden_irreps)
    return layer_irreps(hidden, options.num_interactions, options.last_layer == "scalars")


def _radial(options: BackboneOptions) -> RadialBasis:
    radial = RADIAL_BASES[options.radial_basis](options.r_max, options.num_radial, options.cutoff_p)
    if options.distance_transform != "none":
        radial.transform = TRANSFORMS[options.distance_transform]()
    return radial


def _mixer(options: LocalSplitChargesOptions, hidden: Irreps) -> Mixer:
    bounds = (options.oxidation_range[0], options.oxidation_range[1])
    if options.oxidation_mixer == "sum":
        return SumMixer(hidden.channels, bounds)
    if options.oxidation_mixer == "product":
        return ProductMixer(hidden.channels, bounds)
    return NoMixer()


def _transfer(options: LocalSplitChargesOptions, hidden: Irreps) -> nn.Module:
    bounds = (options.oxidation_range[0], options.oxidation_range[1])
    if options.transfer == "oxidation_dependent":
        return OxidationDependentTransfer(
            hidden, options.num_radial, options.max_ell, OXIDATION_WIDTH, bounds
        )
    return SymmetricTransfer(hidden, options.num_radial, options.max_ell, SYMMETRIC_WIDTH)


def _assemble(
    options: BackboneOptions,
    facts: DataFacts,
    source: SourceHead,
    coulomb: nn.Module,
    polarizability: PolarizabilityReadout | None = None,
) -> LocalSourceModel:
    hidden = parse_irreps(options.hidden_irreps)
    backbone = Backbone(
        hidden,
        len(facts.species),
        options.num_interactions,
        options.max_ell,
        options.correlation,
        options.num_radial,
        options.radial_mlp,
        options.avg_num_neighbors or facts.avg_num_neighbors,
        options.kernels,
        (options.interaction_first, options.interaction),
        options.last_layer == "scalars",
        options.product_basis == "complete",
    )
    backbone.recompute(options.recompute)
    readout = EnergyReadout(
        hidden,
        options.num_interactions,
        parse_irreps(options.mlp_irreps).channels,
        options.final_readout == "nonlinear",
        options.gate,
        energy_scale(options, facts),
        energy_shift(options, facts),
    )
    state = localized = None
    if options.total_charge_embedding or options.total_spin_embedding:
        state = ChargeState(hidden.channels, options.total_charge_embedding, options.total_spin_embedding)
        if options.localization_width is not None:
            n_scalars = hidden.channels * options.num_interactions
            scale = energy_scale(options, facts)
            localized = LocalizedCharge(n_scalars, options.localization_width, scale)
    repulsion = PairRepulsion(facts.species, options.cutoff_p) if options.pair_repulsion else None
    return LocalSourceModel(
        facts.species,
        tuple(facts.atomic_energies[number] for number in facts.species),
        backbone,
        _radial(options),
        options.max_ell,
        readout,
        source,
        coulomb,
        polarizability,
        repulsion,
        state,
        localized,
    )
