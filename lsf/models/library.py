"""The models by name: each is the same forward with another source head.

These builders are the targets of ``registry/models/*.toml``; their options stand in
:mod:`lsf.models.options`.
"""

from __future__ import annotations

from lsf.data.statistics import DataFacts
from lsf.electrostatics.settings import Electrostatics
from lsf.models.backbone import Backbone
from lsf.models.backbone_options import BackboneOptions
from lsf.models.charge_state_embedding import ChargeState, NoChargeState
from lsf.models.energies.base import EnergyTerm
from lsf.models.energies.coulomb import CoulombTerm, NoCoulomb
from lsf.models.energies.readout import NoPolarizability, PolarizabilityReadout
from lsf.models.local_source import LocalSourceModel
from lsf.models.options import (
    FixedChargeOptions,
    LocalChargesOptions,
    LocalSplitChargesOptions,
    MACEOptions,
)
from lsf.models.radial import RADIAL_BASES, TRANSFORMS, RadialBasis
from lsf.models.setting import ModelSetting
from lsf.models.sources.base import SourceHead
from lsf.models.sources.fixed import FixedSource
from lsf.models.sources.none import NoSource
from lsf.models.sources.split import SplitSource
from lsf.options import NoOptions
from lsf.recipe.catalog import catalog


def mace(options: MACEOptions, electrostatics: Electrostatics, facts: DataFacts) -> LocalSourceModel:
    """Return the backbone alone, without charges."""
    setting = ModelSetting(options, electrostatics, facts)
    return _assemble(setting, NoSource(NoOptions(), setting), NoCoulomb(), NoPolarizability())


def local_charges(
    options: LocalChargesOptions, electrostatics: Electrostatics, facts: DataFacts
) -> LocalSourceModel:
    """Return the model whose sources are read from node features, by the head that the options name."""
    setting = ModelSetting(options, electrostatics, facts)
    source = catalog().entry("sources", options.source.use).target()(options.source.options, setting)
    return _assemble(setting, source, CoulombTerm(electrostatics), NoPolarizability())


def fixed_charges(
    options: FixedChargeOptions, electrostatics: Electrostatics, facts: DataFacts
) -> LocalSourceModel:
    """Return the model with formal charges that stay as given; its higher multipoles are zero."""
    setting = ModelSetting(options, electrostatics, facts)
    return _assemble(
        setting, FixedSource(NoOptions(), setting), CoulombTerm(electrostatics), NoPolarizability()
    )


def local_split_charges(
    options: LocalSplitChargesOptions, electrostatics: Electrostatics, facts: DataFacts
) -> LocalSourceModel:
    """Return the model with formal charges and learned transfer along edges."""
    setting = ModelSetting(options, electrostatics, facts)
    source = SplitSource(options, setting)
    polarizability = (
        PolarizabilityReadout(setting.hidden, options.num_interactions)
        if options.polarizability
        else NoPolarizability()
    )
    return _assemble(setting, source, CoulombTerm(electrostatics), polarizability)


def _radial(options: BackboneOptions) -> RadialBasis:
    radial = RADIAL_BASES[options.radial_basis](options.r_max, options.num_radial, options.cutoff_p)
    if options.distance_transform != "none":
        radial.transform = TRANSFORMS[options.distance_transform]()
    return radial


def _charge_state(setting: ModelSetting) -> ChargeState | NoChargeState:
    options = setting.options
    if not (options.total_charge_embedding or options.total_spin_embedding):
        return NoChargeState()
    return ChargeState(setting.hidden.channels, options.total_charge_embedding, options.total_spin_embedding)


def _term(name: str, setting: ModelSetting) -> EnergyTerm:
    """Return an energy term of the registry that has no options."""
    term: EnergyTerm = catalog().entry("energies", name).target()(NoOptions(), setting)
    return term


def _assemble(
    setting: ModelSetting,
    source: SourceHead,
    coulomb: EnergyTerm,
    polarizability: PolarizabilityReadout | NoPolarizability,
) -> LocalSourceModel:
    options = setting.options
    backbone = Backbone(options, len(setting.facts.species), setting.facts.avg_num_neighbors)
    backbone.recompute(options.recompute)
    # weights are drawn in this order: it is part of what a seed means
    readout = _term("readout", setting)
    state = _charge_state(setting)
    short_range = [_term(name, setting) for name in options.short_range_terms()]
    added = [
        catalog().entry("energies", name).target()(chosen.options, setting)
        for name, chosen in options.energies.items()
    ]
    energies = [_term("atomic", setting), readout, *short_range, coulomb, _term("field", setting), *added]
    return LocalSourceModel(setting, backbone, _radial(options), source, energies, polarizability, state)
