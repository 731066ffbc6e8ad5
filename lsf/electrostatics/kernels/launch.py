"""How kernels become torch operators.

On a GPU an operator is a ``torch.library.triton_op``: ``torch.compile`` and AOTInductor see the launches
inside it, schedule them with the rest of a model and pack the kernels into the compiled file. In Triton's
interpreter there is nothing to pack, so the same function becomes an opaque ``torch.library.custom_op``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from lsf.electrostatics.kernels import interpreter_requested

Function = TypeVar("Function", bound=Callable[..., Any])

INTERPRETED = interpreter_requested()
"""Whether the kernels of this process run in Triton's interpreter; fixed when the first one is imported."""


def wrap_triton(kernel: Any) -> Any:
    """Return ``kernel`` in a form that a graph can capture; torch looks for this name in the source."""
    return kernel if INTERPRETED else torch.library.wrap_triton(kernel)


def kernel_operator(name: str, fake: Callable[..., Any]) -> Callable[[Function], Any]:
    """Return a decorator that registers an operator ``lsf::name`` which changes none of its arguments.

    ``fake`` takes the same arguments and returns empty results of the right shape, dtype and device.
    """

    def register(function: Function) -> Any:
        make: Any = torch.library.custom_op if INTERPRETED else torch.library.triton_op
        operator: Any = make(f"lsf::{name}", function, mutates_args=())
        operator.register_fake(fake)
        return operator

    return register
