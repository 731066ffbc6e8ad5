"""Files appear whole or not at all: whatever stops a run, the older file is still there."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lsf.errors import LsfError

MACHINE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE})
"""Causes that are no mistake of the user's."""


class MachineError(LsfError):
    """The machine failed: the disk is full or broken."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which takes the place of ``path`` when the block ends.

    The folder is made where it is missing. When the block raises (a full disk, Ctrl-C), the temporary
    file is removed and ``path`` stays as it was; an ``OSError`` becomes a :class:`lsf.errors.LsfError`
    that names the file and the cause, a :class:`MachineError` where the machine is to blame. The block
    should do nothing but write.
    """
    path = Path(path)
    # the process number keeps two runs apart; the suffix stays, since writers choose the format by it
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        kind = MachineError if error.errno in MACHINE else LsfError
        raise kind(f"cannot write {path}: {reason}; what was there before is unchanged") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
