"""Every call of ``torch.jit``: TorchScript is deprecated, and what replaces it will be called from here.

torch warns of that at every call (by ``DeprecationWarning`` up to 2.13, from 2.14 on by ``FutureWarning``,
which everybody sees). A user of lsf can do nothing about it, so the calls are made without these warnings.
LAMMPS and other programs in C++ read nothing else without code of their own.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, TypeVar, cast

import torch
from torch import nn

Function = TypeVar("Function", bound=Callable[..., Any])

# raised when a script fails as it runs
ScriptError: Final[type[Exception]] = torch.jit.Error


@contextmanager
def without_deprecation_warnings() -> Iterator[None]:
    """Leave out that TorchScript is deprecated, in torch or in a package that calls it."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", message=r".*torch\.jit", category=category)
        yield


def is_tracing() -> bool:
    """Return whether a graph for TorchScript is traced."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined]


def trace(module: nn.Module, examples: tuple[Any, ...]) -> Any:
    """Return the traced module; what it computes is not compared.

    A trace holds the values of its examples where code takes them out of tensors. torch's warnings of that
    are left out: who traces compares with inputs that the trace has not seen.
    """
    with without_deprecation_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        return torch.jit.trace(module, examples, check_trace=False, strict=False)


def script(module: nn.Module) -> Any:
    """Return a module compiled from its source."""
    with without_deprecation_warnings():
        return torch.jit.script(module)


def script_if_tracing(function: Function) -> Function:
    """Decorate a function that is compiled from its source when a trace meets it, and is Python otherwise."""
    return cast("Function", torch.jit.script_if_tracing(function))


def archive(module: Any, extra_files: Mapping[str, str]) -> bytes:
    """Return the content of a TorchScript file."""
    content = io.BytesIO()
    with without_deprecation_warnings():
        torch.jit.save(module, content, _extra_files=dict(extra_files))
    return content.getvalue()


def load(source: str | io.BytesIO, device: torch.device, extra_file: str) -> tuple[Any, bytes]:
    """Return the module of a TorchScript file and one of its extra files, empty where there is none."""
    extra: dict[str, Any] = {extra_file: b""}
    with without_deprecation_warnings():
        module = torch.jit.load(source, map_location=device, _extra_files=extra)
    return module, extra[extra_file]  # torch has put it there


def without_optimizing_executor() -> AbstractContextManager[None]:
    """Run scripts as they are: the optimising executor compiles anew for every size, which takes seconds."""
    return cast(
        "AbstractContextManager[None]",
        torch.jit.optimized_execution(False),  # type: ignore[attr-defined]
    )
