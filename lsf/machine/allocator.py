"""Memory that glibc keeps in the process instead of giving it back after every operation.

By default glibc maps large blocks afresh and hands them back when they are freed; the kernel then clears
every page again at the next operation. Training, and simulations with exported files, spend a good part of
their time on that. The setting is one call to glibc and holds for the process, so nothing needs to be started
anew. The LAMMPS plugin has the same in C++.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from collections.abc import Mapping
from typing import Final

from lsf.machine.caches import once

VARIABLE: Final = "LSF_ALLOCATOR"
"""Environment variable; "system" leaves the allocator as it is."""

# mallopt(3): number of each parameter, and what it is set to
_M_TRIM_THRESHOLD: Final = (-1, -1)  # of bytes free at the top of the heap, none go back
_M_TOP_PAD: Final = (-2, 64 << 20)  # bytes the heap grows by at least
_M_MMAP_MAX: Final = (-4, 0)  # blocks mapped outside of the heap
_PREFIXES: Final = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")

_log = logging.getLogger(__name__)


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> str | None:
    """Tell glibc to keep freed memory and return a sentence for the log; None where nothing was done.

    Nothing is done on other systems, with another allocator or settings of the user's own in the
    environment, and with ``LSF_ALLOCATOR=system``.
    """
    if environment.get(VARIABLE) == "system" or platform.libc_ver()[0] != "glibc":
        return None
    if any(name.startswith(_PREFIXES) for name in environment):
        return None
    library = ctypes.CDLL(None)
    if not all(library.mallopt(*setting) for setting in (_M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_TOP_PAD)):
        return None
    return f"freed memory stays in the process, which is faster ({VARIABLE}=system undoes it)"


@once
def keep_freed_memory_in_simulations() -> None:
    """Do the same for a process that evaluates an exported file again and again, and log it once."""
    kept = keep_freed_memory()
    if kept is not None:
        _log.info(kept)
