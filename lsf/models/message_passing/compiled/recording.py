"""Tracing of functions of tensors into graphs (``make_fx``): derivatives written out, sizes as symbols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch._dynamo.source import ConstantSource
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from lsf.data.graph import GraphTensors
from lsf.errors import LsfError
from lsf.models.message_passing.native.blocks import EdgeTables, edge_blocks

Function = Callable[..., tuple[Tensor, ...]]
Sizes = tuple[str | int, ...]

_aten = torch.ops.aten
DECOMPOSED: Final = (
    _aten.silu_backward,
    _aten.tanh_backward,
    _aten.sigmoid_backward,
    _aten.embedding_dense_backward,
    _aten.slice_backward,
    _aten.select_backward,
    _aten.detach,
)
"""Operations written out in more basic ones."""


class Recorded(NamedTuple):
    """A traced graph, and fake tensors of its inputs, whose shapes hold symbols."""

    module: GraphModule
    inputs: list[Tensor]


def recorded_inputs(graph: GraphTensors, names: Sequence[str], itemsize: int = 8) -> tuple[Tensor, ...]:
    """Return the tensors of these names, of a batch or of its blocks for numbers of ``itemsize`` bytes."""
    tensors = graph._asdict()
    if set(names) & set(EdgeTables._fields):
        blocks = edge_blocks(graph.edge_index, graph.neighbor_slots, graph.unit_shifts, itemsize)
        tensors |= blocks.tables._asdict()
    return tuple(tensors[name] for name in names)


def record(
    function: Function,
    constants: Sequence[Tensor],
    tensors: Sequence[Tensor],
    sizes: Sequence[Sizes],
    what: str,
) -> Recorded:
    """Return the graph of a function of constants, whose sizes never change, and of tensors.

    ``sizes`` are those of the tensors: numbers, and names of those that vary. Equal names share a symbol, and
    different names must have different sizes of at least 2 in these examples: symbols are told apart by
    their values. Raises :class:`lsf.errors.LsfError`, naming ``what``, where a size was recorded as a number.
    """
    shape_env = ShapeEnv(duck_shape=True)
    mode = FakeTensorMode(shape_env=shape_env, allow_non_fake_inputs=True)
    inputs: list[Tensor] = [mode.from_tensor(value, static_shapes=True) for value in constants]
    for index, (value, names) in enumerate(zip(tensors, sizes, strict=True)):
        dynamic = [DimDynamic.DUCK if isinstance(name, str) else DimDynamic.STATIC for name in names]
        inputs.append(
            mode.from_tensor(
                value,
                symbolic_context=StatelessSymbolicContext(dynamic_sizes=dynamic),
                source=ConstantSource(f"tensor{index}"),
            )
        )
    table = torch._decomp.get_decompositions(DECOMPOSED)
    with torch.enable_grad():
        recorder = make_fx(
            function,
            decomposition_table=table,  # type: ignore[arg-type]
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
        )
        module = recorder(*inputs)
    _check(inputs[len(constants) :], sizes, what)
    return Recorded(module, inputs)


def _check(inputs: Sequence[Tensor], sizes: Sequence[Sizes], what: str) -> None:
    """Compare symbols with names."""
    symbols: dict[str, str] = {}
    for value, names in zip(inputs, sizes, strict=True):
        for name, found in zip(names, value.shape, strict=True):
            if isinstance(name, int):
                continue
            symbol = str(found)
            if symbol.isdecimal() or symbols.setdefault(name, symbol) != symbol:
                raise LsfError(f"{what}: {name} was recorded as {symbol}: the graph would serve no other")
    if len(set(symbols.values())) < len(symbols):
        raise LsfError(f"{what}: sizes that differ were recorded as one: {symbols}")
