"""How many CPU threads a run uses."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

SMALL_BATCH: Final = 1000
"""Atoms per batch below which the tensors are too small for several threads to share."""

VARIABLE: Final = "OMP_NUM_THREADS"


@contextmanager
def threads_for(atoms_per_batch: float, log: logging.Logger) -> Iterator[None]:
    """Use one CPU thread where batches are small, and as many as before afterwards.

    On small tensors several threads cost more than they bring, and several times more when something else
    runs beside them. A number set by the environment variable OMP_NUM_THREADS is kept.
    """
    before = torch.get_num_threads()
    if VARIABLE in os.environ or atoms_per_batch >= SMALL_BATCH or before == 1:
        yield
        return
    log.info(
        "one CPU thread, since batches hold %.0f atoms only (%s=%d undoes it)",
        atoms_per_batch,
        VARIABLE,
        before,
    )
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
