"""How kernels become torch operators.

On a GPU an operator is a ``torch.library.triton_op``: ``torch.compile`` and AOTInductor see the launches
inside it, schedule them with the rest of a model and pack the kernels into the compiled file. In Triton's
interpreter there is nothing to pack, so the same function becomes an opaque ``torch.library.custom_op``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from lsf.electrostatics.fourier.pair import kept, raise_and_contract
from lsf.machine.triton import interpreter_requested

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


def close_pair(collect: Any, distribute: Any) -> None:
    """Make two operators each other's derivatives, to any order.

    Both take (fractional, values, tables, sizes, degree). ``collect`` sums over atoms what has the columns
    ``monomials(degree)`` per atom, ``distribute`` is its transpose and returns these columns; a higher degree
    of either is the derivative by ``fractional``.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - torch passes it
        fractional, values, tables, sizes, degree = inputs
        ctx.save_for_backward(fractional, values, *tables)
        ctx.sizes, ctx.degree = sizes, degree

    def collect_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        fractional, moments, *tables = ctx.saved_tensors
        degree, nothing = ctx.degree, ([None] * len(tables), None, None)
        if not ctx.needs_input_grad[0]:
            return None, distribute(fractional, gradient, tables, ctx.sizes, degree), *nothing
        columns = distribute(fractional, gradient, tables, ctx.sizes, degree + 1)
        by_position = raise_and_contract(moments, columns, degree).to(fractional.dtype)
        return by_position, kept(columns, degree), *nothing

    def distribute_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        fractional, values, *tables = ctx.saved_tensors
        by_position = by_value = None
        if ctx.needs_input_grad[0]:
            columns = distribute(fractional, values, tables, ctx.sizes, ctx.degree + 1)
            by_position = raise_and_contract(gradient, columns, ctx.degree).to(fractional.dtype)
        if ctx.needs_input_grad[1]:
            by_value = collect(fractional, gradient, tables, ctx.sizes, ctx.degree)
        return by_position, by_value, [None] * len(tables), None, None

    collect.register_autograd(collect_backward, setup_context=save)
    distribute.register_autograd(distribute_backward, setup_context=save)
