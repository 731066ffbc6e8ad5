"""The classes of torch-geometric that lsf uses.

The package scripts functions when it is imported, of which torch warns everybody. Here the classes are
imported without the warning.
"""

from __future__ import annotations

from lsf.machine.torchscript import without_deprecation_warnings

with without_deprecation_warnings():
    from torch_geometric.data import Batch, Data
    from torch_geometric.nn import MessagePassing

__all__ = ["Batch", "Data", "MessagePassing"]
