"""Neighbour sums as custom operators (``torch.library``), which compilers do not look into.

A traced graph calls them like matrix products. They work block by block in the processor's cache, as
outside of graphs: written out as loops over all edges, they are bound by memory. What the backward pass needs
again is among the results. Once differentiable, by lengths, harmonics and features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from lsf.machine.caches import constant
from lsf.machine.tracing import recording
from lsf.models.message_passing.compiled.executor import CompiledMessageSum
from lsf.models.message_passing.compiled.functions import BlockFunctions
from lsf.models.message_passing.compiled.sums import CompiledElementSum, CompiledInputs, CompiledSum, Geometry
from lsf.models.message_passing.native.autograd import neighbor_sum
from lsf.models.message_passing.native.blocks import Block, EdgeBlocks, EdgeTables, block_limit, blocks_of
from lsf.models.message_passing.native.groups import Group


def compiled_neighbor_sum(sums: CompiledSum, inputs: CompiledInputs) -> tuple[Tensor, ...]:
    """Return the sums, as one custom operator where a graph is being traced."""
    if not recording():
        return neighbor_sum(sums, inputs)
    tables = [*sums.blocks.tables]
    if isinstance(sums, CompiledElementSum):
        tables.append(sums.elements)
    found: list[Tensor] = _sums(_name(sums), tables, list(inputs))
    return tuple(found[: len(sums.shapes(inputs))])


def _name(sums: CompiledSum) -> str:
    """Return what there is to know of sums besides their tensors."""
    if isinstance(sums, CompiledMessageSum):
        return json.dumps({"groups": sums.groups, "n_channels": sums.n_channels})
    return "{}"


@constant
def _groups(name: str) -> tuple[tuple[Group, ...], int] | None:
    values = json.loads(name)
    return (tuple(Group(*group) for group in values["groups"]), values["n_channels"]) if values else None


def _by_name(name: str, tables: Sequence[Tensor], blocks: Sequence[Block] = ()) -> CompiledSum:
    """Return the sums of a name."""
    n_tables = len(EdgeTables._fields)
    in_blocks = EdgeBlocks(EdgeTables(*tables[:n_tables]), [*blocks])
    groups = _groups(name)
    if groups is not None:
        return CompiledMessageSum(in_blocks, *groups)
    return CompiledElementSum(in_blocks, tables[n_tables], tables[0].shape[0])


def _in_blocks(name: str, tables: Sequence[Tensor], inputs: CompiledInputs) -> CompiledSum:
    limit = block_limit(inputs.values.device, inputs.values.element_size())
    return _by_name(name, tables, blocks_of(tables[0].tolist(), limit))


def block_arguments(graph: GraphModule) -> list[tuple[BlockFunctions, dict[str, list[Tensor]]]]:
    """Return what the sums of a recorded graph compute on blocks, once each.

    With it come arguments of its functions by name, of two atoms with two slots.
    """
    found: dict[str, tuple[BlockFunctions, dict[str, list[Tensor]]]] = {}
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.lsf.neighbor_sums.default):
        groups, inputs = _groups(node.args[0]), CompiledInputs(*(value.meta["val"] for value in node.args[2]))
        if groups is None:
            continue
        functions = BlockFunctions(*groups)
        size, y = inputs.last.shape[1], inputs.harmonics
        tails = [(2, size), (2, size), (2, y.shape[1]), (inputs.features.shape[1],), (2,)]
        radial, slopes, *values, senders = [torch.ones((2, *tail), dtype=y.dtype) for tail in tails]
        grad = [torch.ones((2, *functions.sum_shape(group)), dtype=y.dtype) for group in functions.groups]
        arguments = [*values, senders.to(torch.int64)]
        by_function = {"forward": [radial, *arguments], "backward": [radial, slopes, *arguments, *grad]}
        found[node.args[0]] = functions, by_function
    return [*found.values()]


# the schemas are written out: torch 2.6 infers none from list[Tensor]
@torch.library.custom_op(
    "lsf::neighbor_sums", mutates_args=(), schema="(str name, Tensor[] tables, Tensor[] inputs) -> Tensor[]"
)
def _sums(name: str, tables: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the sums, and what is kept for backward passes."""
    values = CompiledInputs(*inputs)
    sums = _in_blocks(name, tables, values)
    return [*sums.values(values), *sums.kept]


@_sums.register_fake
def _(name: str, tables: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    values = CompiledInputs(*inputs)
    out = [values.harmonics.new_empty(shape) for shape in _by_name(name, tables).shapes(values)]
    # row by row: radial weights of messages, the last hidden layer of sums by element
    width, n_rows = values.values.shape
    out.append(values.values.new_empty((n_rows, width if _groups(name) is None else values.last.shape[1])))
    return out


@torch.library.custom_op(
    "lsf::neighbor_sums_backward",
    mutates_args=(),
    schema="(str name, Tensor[] tables, Tensor[] inputs_and_kept, Tensor[] grad) -> Tensor[]",
)
def _sums_backward(
    name: str,
    tables: Sequence[Tensor],
    inputs_and_kept: Sequence[Tensor],
    grad: Sequence[Tensor],
) -> list[Tensor]:
    """Return the gradients of lengths, harmonics and features; what is kept stands behind the inputs."""
    n_inputs = len(CompiledInputs._fields)
    values = CompiledInputs(*inputs_and_kept[:n_inputs])
    sums = _in_blocks(name, tables, values)
    sums.kept = [*inputs_and_kept[n_inputs:]]
    return [*sums.by_geometry(values, [part.contiguous() for part in grad])]


@_sums_backward.register_fake
def _(
    name: str,  # noqa: ARG001
    tables: Sequence[Tensor],  # noqa: ARG001
    inputs_and_kept: Sequence[Tensor],
    *_: Any,
) -> list[Tensor]:
    return [value.new_empty(value.shape) for value in inputs_and_kept[2:5]]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.name, tables, tensors = inputs
    values = CompiledInputs(*tensors)
    n_sums = len(_by_name(ctx.name, tables).shapes(values))
    ctx.sizes, ctx.shapes = (len(tables), len(tensors)), [part.shape for part in output[:n_sums]]
    if any(value.requires_grad for value in (values.values, values.slopes, values.last)):
        raise ValueError("sums over neighbours have no gradients w.r.t. weights in a traced graph")
    ctx.save_for_backward(*tables, *tensors, *output[n_sums:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    saved = iter(ctx.saved_tensors)
    tables, tensors = ([next(saved) for _ in range(size)] for size in ctx.sizes)
    grad = [
        tensors[0].new_zeros(shape) if part is None else part
        for part, shape in zip(grads, ctx.shapes, strict=False)
    ]
    found = Geometry(*_sums_backward(ctx.name, tables, [*tensors, *saved], grad))
    return None, [None] * len(tables), [None, None, *found, None]


_sums.register_autograd(_backward, setup_context=_keep)
