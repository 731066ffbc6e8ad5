"""Energy terms: what adds to the energy of a structure, one module per term.

``registry/energies/<name>.toml`` names them; the target of an entry is called with the term's options and a
:class:`lsf.models.setting.ModelSetting`, and returns an :class:`EnergyTerm`.
"""

from lsf.models.energies.base import EnergyContext, EnergyTerm

__all__ = ["EnergyContext", "EnergyTerm"]
