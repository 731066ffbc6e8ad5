"""Whether there is what compiled models need."""

from __future__ import annotations

import shutil

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
