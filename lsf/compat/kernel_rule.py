"""What becomes of the flags that choose an accelerated backend of the message passing."""

from __future__ import annotations

from lsf.compat.arguments import Flags
from lsf.compat.assignments import Assignment, Assignments
from lsf.compat.table import flag_rows

FLAGS = ("enable_cueq", "only_cueq", "enable_oeq")


def kernels(flags: Flags) -> Assignments:
    """Choose the kernels; of two packages the first wins, as it did in the older trainer."""
    asked = [name for name in FLAGS if flags[name]]
    for name in asked[:1]:
        yield Assignment(name, "model.kernels", flag_rows()[name].new_value(True))
    for name in asked[1:]:
        if flag_rows()[name].new_value(True) != flag_rows()[asked[0]].new_value(True):
            flags.note(name, f"no effect with --{asked[0]}")
