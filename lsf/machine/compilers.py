"""What compiled models need: a compiler, and code of it that is right."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lsf.errors import LsfError


def require_compiler(what: str) -> None:
    """Raise :class:`lsf.errors.LsfError` where there is no C++ compiler, naming ``what`` needs it."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        found = shutil.which(get_cpp_compiler())
    except (InvalidCxxCompiler, FileNotFoundError):
        found = None
    if found is None:
        raise LsfError(
            f"{what} needs a C++ compiler and found none: install g++ or clang, or name one in the "
            "environment variable CXX"
        )


@contextmanager
def sums_by_torch() -> Iterator[None]:
    """Have torch's own operations do sums into rows that indices name, in what is compiled within.

    TorchInductor's C++ does them by atomic additions, which are slower, and in loops tiled along two axes
    write outside of their array (pytorch issue 191837, torch 2.13). It calls torch instead in deterministic
    mode, of which compiled code keeps nothing else.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    setting: Any = torch.utils.deterministic  # a module with a property that type checkers do not know
    filled = setting.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    setting.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        setting.fill_uninitialized_memory = filled
