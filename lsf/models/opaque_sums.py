"""Sums over neighbours as operations that compilers do not look into.

A recorded graph calls them like matrix products. They work block by block in the processor's cache, as
outside of graphs: written out as loops over all edges, they are bound by memory. What the backward pass needs
again is among the results. Once differentiable, by all but weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from lsf.electrostatics.backends import recording
from lsf.models.block_functions import BlockFunctions
from lsf.models.blocks import Block, EdgeBlocks, EdgeTables, block_limit, blocks_of
from lsf.models.compiled_blocks import message_moments
from lsf.models.moments import Inputs, Moments, Wanted, summed
from lsf.models.neighbor_sums import ElementMoments, Group, MessageMoments


def neighbor_sums(moments: Moments, inputs: Inputs, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return :func:`lsf.models.moments.summed`, as one operation where a graph is being recorded."""
    if not recording():
        return summed(moments, inputs, weights)
    tables = [*moments.blocks.tables]
    if isinstance(moments, ElementMoments):
        tables.append(moments.elements)
    found: list[Tensor] = _sums(_name(moments), tables, list(inputs), list(weights))
    return tuple(found[: len(moments.shapes(inputs))])


def _name(moments: Moments) -> str:
    """Return what there is to know of sums besides their tensors."""
    if isinstance(moments, MessageMoments):
        return json.dumps({"groups": moments.groups, "n_channels": moments.n_channels})
    return "{}"


@lru_cache
def _groups(name: str) -> tuple[tuple[Group, ...], int] | None:
    values = json.loads(name)
    return (tuple(Group(*group) for group in values["groups"]), values["n_channels"]) if values else None


def _moments(
    name: str, tables: Sequence[Tensor], weights: Sequence[Tensor], blocks: Sequence[Block] = ()
) -> Moments:
    """Return the sums of a name."""
    n_tables = len(EdgeTables._fields)
    in_blocks = EdgeBlocks(EdgeTables(*tables[:n_tables]), [*blocks])
    groups = _groups(name)
    if groups is not None:
        return message_moments(in_blocks, *groups)
    return ElementMoments(in_blocks, tables[n_tables], tables[0].shape[0], weights[-1].shape[1])


def _in_blocks(name: str, tables: Sequence[Tensor], inputs: Inputs, weights: Sequence[Tensor]) -> Moments:
    limit = block_limit(inputs.basis.device, inputs.basis.element_size())
    moments = _moments(name, tables, weights, blocks_of(tables[0].tolist(), limit))
    moments.keep = True
    return moments


def block_arguments(graph: GraphModule) -> list[tuple[BlockFunctions, list[Tensor]]]:
    """Return what the sums of a recorded graph compute on blocks, once each.

    With it come arguments of :meth:`lsf.models.block_functions.BlockFunctions.backward`, of two atoms with
    two slots.
    """
    found: dict[str, list[Tensor]] = {}
    functions = {}
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.lsf.neighbor_sums.default):
        groups, (_, y, features, last) = _groups(node.args[0]), [value.meta["val"] for value in node.args[2]]
        if groups is None:
            continue
        functions[node.args[0]] = of_block = BlockFunctions(*groups)
        tails = [(2, last.shape[1]), (2, y.shape[1]), (features.shape[1],), (2,)]
        tails += [of_block.sum_shape(group) for group in of_block.groups]
        tensors = [torch.ones((2, *tail), dtype=y.dtype) for tail in tails]
        tensors[3] = tensors[3].to(torch.int64)
        found[node.args[0]] = tensors
    return [(functions[name], tensors) for name, tensors in found.items()]


@torch.library.custom_op("lsf::neighbor_sums", mutates_args=())
def _sums(
    name: str, tables: Sequence[Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[Tensor]:
    """Return the sums, and what is kept for backward passes."""
    values = Inputs(*inputs)
    moments = _in_blocks(name, tables, values, weights)
    return [*moments.sums(values, weights), *moments.kept]


@_sums.register_fake
def _(
    name: str, tables: Sequence[Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[Tensor]:
    values = Inputs(*inputs)
    moments = _moments(name, tables, weights)
    basis = values.basis
    hidden = [basis.new_empty((basis.shape[0], weight.shape[1])) for weight in weights for _ in range(2)]
    sums = [basis.new_empty(shape) for shape in moments.shapes(values)]
    return [*sums, *hidden, *moments.kept_memory(values)]


@torch.library.custom_op("lsf::neighbor_sums_backward", mutates_args=())
def _sums_backward(
    name: str,
    tables: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    kept: Sequence[Tensor],
    grad: Sequence[Tensor],
) -> list[Tensor]:
    """Return the gradients of basis, harmonics and features."""
    values = Inputs(*inputs)
    moments = _in_blocks(name, tables, values, weights)
    moments.kept = list(kept)
    grad = [part.contiguous() for part in grad]
    into = moments.gradients(values, weights, grad, Wanted(True, False, False)).inputs
    return [into.basis, into.harmonics, into.features]


@_sums_backward.register_fake
def _(
    name: str,  # noqa: ARG001
    tables: Sequence[Tensor],  # noqa: ARG001
    inputs: Sequence[Tensor],
    *_: Any,
) -> list[Tensor]:
    return [value.new_empty(value.shape) for value in inputs[:3]]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.name, tables, values, weights = inputs
    ctx.sizes = len(tables), len(values), len(weights)
    n_sums = len(_moments(ctx.name, tables, weights).shapes(Inputs(*values)))
    ctx.shapes = [part.shape for part in output[:n_sums]]
    if any(value.requires_grad for value in (values[3], *weights)):
        raise ValueError("sums over neighbours have no gradients by weights in a recorded graph")
    ctx.save_for_backward(*tables, *values, *weights, *output[n_sums:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    saved = iter(ctx.saved_tensors)
    tables, values, weights = ([next(saved) for _ in range(size)] for size in ctx.sizes)
    grad = [
        values[0].new_zeros(shape) if part is None else part
        for part, shape in zip(grads, ctx.shapes, strict=False)
    ]
    found = _sums_backward(ctx.name, tables, values, weights, list(saved), grad)
    return None, [None] * len(tables), [*found, None], [None] * len(weights)


_sums.register_autograd(_backward, setup_context=_keep)
