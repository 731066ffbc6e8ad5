"""Source heads: from node features to the multipole density and the polarization, one module per head.

``registry/sources/<name>.toml`` names them; the target of an entry is called with the head's options and a
:class:`lsf.models.setting.ModelSetting`, and returns a :class:`SourceHead`.
"""

from lsf.models.sources.base import (
    MultipoleReadout,
    SourceContext,
    SourceHead,
    Sources,
    cartesian_dipoles,
    polarization,
    sum_over_graph,
)

__all__ = [
    "MultipoleReadout",
    "SourceContext",
    "SourceHead",
    "Sources",
    "cartesian_dipoles",
    "polarization",
    "sum_over_graph",
]
