"""How a batch of structures is cut into programs, from shapes alone: nothing waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

PROGRAMS_WANTED = 4096
"""About 32 warps on each of the 132 multiprocessors of an H200."""


def structure_blocks(
    own_bounds: Tensor, sum_bounds: Tensor, n_rows: int, block: int, taken: Tensor | None = None
) -> Tensor:
    """Return rows [first, last + 1, first of sum, last + 1 of sum] that cut every structure into blocks.

    There are as many rows as the worst distribution of ``n_rows`` over the structures needs; superfluous
    ones, and those of structures that are not ``taken``, are empty blocks.

    Parameters
    ----------
    own_bounds, sum_bounds : (n_graphs + 1,) int64, first row of each structure and the end
    n_rows : own rows of all structures
    block : rows per program
    taken : (n_graphs,) bool, default all
    """
    n_graphs = own_bounds.shape[0] - 1
    counts = (own_bounds.diff() + block - 1) // block
    ends = torch.cumsum(counts, 0)
    programs = torch.arange(n_rows // block + n_graphs, device=own_bounds.device)
    graph = torch.searchsorted(ends, programs, right=True)
    used = graph < n_graphs
    graph = graph.clamp(max=n_graphs - 1)
    if taken is not None:
        used = used & taken[graph]
    first = own_bounds[graph] + (programs - (ends - counts)[graph]) * block
    last = torch.minimum(first + block, own_bounds[graph + 1])
    rows = torch.stack([first, last, sum_bounds[graph], sum_bounds[graph + 1]], 1)
    return torch.where(used[:, None], rows, 0).to(torch.int32).contiguous()


def parts_of_sums(n_programs: int, n_terms: int, n_graphs: int, least: int) -> int:
    """Return in how many parts to cut sums so that the device is busy, each of at least ``least`` terms.

    ``n_terms`` are those of all structures; their mean is what counts.
    """
    wanted = PROGRAMS_WANTED // max(1, n_programs)
    possible = n_terms // (max(1, n_graphs) * least)
    return max(1, min(wanted, possible))
