"""How commands speak: the console on stdout, and errors as one message with an exit status.

Exit status: 0 done, 1 the machine failed (full disk, no memory), 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from lsf.errors import LsfError
from lsf.machine.files import MachineError

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH: Final = 1000
"""Columns of output that goes to a file or pipe: lines are never broken there."""


def terminal() -> Console:
    """Return the console on stdout; what does not go to a terminal is never broken into lines."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)


def print_line(console: Console, text: str) -> None:
    """Print text as it is: no markup, no colours, never broken into lines."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def exit_status(action: Callable[[], None]) -> int:
    """Do something and return the exit status; errors are one message on stderr, no traceback."""
    try:
        action()
        sys.stdout.flush()
    except LsfError as error:
        return _fail(f"error: {error}", 1 if isinstance(error, MachineError) else 2)
    except KeyboardInterrupt as interrupt:
        return _fail(f"interrupted: {interrupt}" if str(interrupt) else "interrupted", 130)
    except BrokenPipeError:
        # the reader of our output (head, less) has gone, and so has that of what Python flushes on exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        reason = error.strerror or str(error)
        return _fail(f"error: {error.filename}: {reason}" if error.filename else f"error: {reason}", 1)
    except (MemoryError, RuntimeError) as error:
        # torch's error, recognised by name so that torch is not imported for it
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
            raise
        return _fail("error: out of memory; smaller batches need less: training.batch_size, --batch-size", 1)
    return 0


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"{message}\n")
    return status
