"""What becomes of the flags that choose an accelerated backend of the message passing."""

from __future__ import annotations

from lsf.compat.arguments import Flags
from lsf.compat.assignments import Assignment, Assignments
from lsf.compat.table import flag_rows

FLAGS = ("enable_cueq", "only_cueq")


def kernels(flags: Flags) -> Assignments:
    """Choose the kernels; either flag of the older trainer asks for those of cuequivariance."""
    for name in [name for name in FLAGS if flags[name]][:1]:
        yield Assignment(name, "model.kernels", flag_rows()[name].new_value(True))
