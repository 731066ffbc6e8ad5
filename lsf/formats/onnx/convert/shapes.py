"""Shapes, new tensors, picking and placing of recorded graphs in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from onnx import helper
from torch.fx import Node

from lsf.formats.onnx.convert.builder import LAST, TYPES, Builder, Size, numpy_type, plain
from lsf.formats.onnx.convert.call import Call, Table, example

aten: Final = torch.ops.aten

SHAPES: Final = Table()


@SHAPES.entry(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _reshape(call: Call) -> str:
    # a size of zero is one, not a wish to keep the former size
    return call.op("Reshape", call.value(0), call.shape(), allowzero=1)


@SHAPES.entry(aten.unsqueeze.default)
def _unsqueeze(call: Call) -> str:
    return call.op("Unsqueeze", call.value(0), call.integers(call.argument(1)))


@SHAPES.entry(aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(call: Call) -> str:
    axes = call.argument(1)
    axes = axes if isinstance(axes, list) else [axes]
    gone = [axis for axis in axes if plain(call.like(0).shape[axis]) == 1]
    return call.op("Squeeze", call.value(0), call.integers(*gone)) if gone else call.value(0)


@SHAPES.entry(aten.transpose.int, aten.permute.default, aten.t.default)
def _permute(call: Call) -> str:
    rank = call.example.dim()
    if call.node.target is aten.permute.default:
        order = [axis % rank for axis in call.argument(1)]
    else:
        first, second = (call.argument(i, i - 1) % rank for i in (1, 2))
        order = list(range(rank))
        order[first], order[second] = order[second], order[first]
    return call.op("Transpose", call.value(0), perm=order)


@SHAPES.entry(aten.expand.default)
def _expand(call: Call) -> str:
    return call.op("Expand", call.value(0), call.shape())


@SHAPES.entry(aten.cat.default)
def _cat(call: Call) -> str:
    return call.op("Concat", *call.tensors(0), axis=call.argument(1, 0, "dim"))


@SHAPES.entry(aten.stack.default)
def _stack(call: Call) -> str:
    axis = call.argument(1, 0, "dim")
    wide = [call.op("Unsqueeze", item, call.integers(axis)) for item in call.tensors(0)]
    return call.op("Concat", *wide, axis=axis)


@SHAPES.entry(aten.split_with_sizes.default)
def _split(call: Call) -> list[str]:
    axis, ends = call.argument(2, 0, "dim"), np.cumsum(call.argument(1)).tolist()
    return [
        slice_of(call.build, call.value(0), axis, start, end)
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


@SHAPES.entry(aten.unbind.int)
def _unbind(call: Call) -> list[str]:
    axis = call.argument(1, 0, "dim")
    return [
        call.op("Gather", call.value(0), call.build.number(i, torch.int64), axis=axis)
        for i in range(len(call.example))
    ]


@SHAPES.entry(aten.slice.Tensor)
def _slice(call: Call) -> str:
    axis, start, end, step = (call.argument(i, d) for i, d in ((1, 0), (2, None), (3, None), (4, 1)))
    start, end = start or 0, LAST if end is None else end
    if isinstance(start, int) and start == 0 and isinstance(end, int) and end == LAST and step == 1:
        return call.value(0)
    return slice_of(call.build, call.value(0), axis, start, end, step)


def slice_of(build: Builder, value: str, axis: int, start: Size, end: Size, step: int = 1) -> str:
    """Return a slice along one axis."""
    bounds = [build.size(start), build.size(end), build.integers([axis]), build.integers([step])]
    return build.op("Slice", value, *bounds)


@SHAPES.entry(aten.slice_scatter.default)
def _slice_scatter(call: Call) -> str:
    axis, start, end, step = (call.argument(i, d) for i, d in ((2, 0), (3, None), (4, None), (5, 1)))
    if step != 1:
        raise NotImplementedError("a scattered slice with steps")
    return _replaced(call, axis, start or 0, LAST if end is None else end, call.value(1))


@SHAPES.entry(aten.select_scatter.default)
def _select_scatter(call: Call) -> str:
    axis, index = call.argument(2), call.argument(3)
    if index < 0:
        index += plain(call.example.shape[axis])
    part = call.op("Unsqueeze", call.value(1), call.integers(axis))
    return _replaced(call, axis, index, index + 1, part)


def _replaced(call: Call, axis: int, start: Size, end: Size, part: str) -> str:
    """Return the first argument with the slice from ``start`` to ``end`` replaced."""
    size = plain(call.example.shape[axis])
    start, end = plain(start), plain(end)
    if isinstance(size, int):
        start, end = slice(start, end).indices(size)[:2]
    parts = [part]
    if start != 0:
        parts.insert(0, slice_of(call.build, call.value(0), axis, 0, start))
    if end not in (LAST, size):
        parts.append(slice_of(call.build, call.value(0), axis, end, LAST))
    return call.op("Concat", *parts, axis=axis) if len(parts) > 1 else part


@SHAPES.entry(aten.roll.default)
def _roll(call: Call) -> str:
    result = call.value(0)
    for shift, axis in zip(call.argument(1), call.argument(2, []), strict=True):
        size = int(call.example.shape[axis])
        order = [(i - shift) % size for i in range(size)]
        result = call.op("Gather", result, call.integers(*order), axis=axis)
    return result


@SHAPES.entry(aten.constant_pad_nd.default)
def _pad(call: Call) -> str:
    pads, rank = call.argument(1), call.example.dim()
    before, after = [0] * rank, [0] * rank
    for i in range(len(pads) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = pads[2 * i], pads[2 * i + 1]
    fill = call.build.number(call.argument(2, 0.0), call.example.dtype)
    return call.op("Pad", call.value(0), call.integers(*before, *after), fill)


@SHAPES.entry(aten.diag_embed.default)
def _diag_embed(call: Call) -> str:
    eye = np.eye(int(call.example.shape[-1]), dtype=numpy_type(call.example.dtype))
    return call.op("Mul", call.op("Unsqueeze", call.value(0), call.integers(-1)), call.build.constant(eye))


# ---------------------------------------------------------------------------------------------------
# new tensors


def _filled(call: Call, value: Any) -> str:
    dtype = call.example.dtype
    if isinstance(value, Node):
        return call.op("Expand", call.typed(call.args.index(value), dtype), call.shape())
    if not call.example.dim():
        return call.build.number(value, dtype)
    fill = helper.make_tensor("value", TYPES[dtype], [1], [value])
    return call.op("ConstantOfShape", call.shape(), value=fill)


for _target in (aten.new_zeros.default, aten.zeros_like.default, aten.zeros.default):
    SHAPES[_target] = lambda call: _filled(call, 0)
for _target in (aten.new_ones.default, aten.ones_like.default, aten.ones.default):
    SHAPES[_target] = lambda call: _filled(call, 1)
SHAPES[aten.new_full.default] = lambda call: _filled(call, call.args[2])
for _target in (aten.full.default, aten.full_like.default):
    SHAPES[_target] = lambda call: _filled(call, call.args[1])  # type: ignore[arg-type]
SHAPES[aten.scalar_tensor.default] = lambda call: _filled(call, call.args[0])  # type: ignore[arg-type]


@SHAPES.entry(aten.eye.default)
def _eye(call: Call) -> str:
    size = int(call.example.shape[0])
    return call.build.constant(np.eye(size, dtype=numpy_type(call.example.dtype)))


@SHAPES.entry(aten.arange.default, aten.arange.start)
def _arange(call: Call) -> str:
    bounds = [call.argument(i) for i in range(len(call.args))]
    start, end = bounds if len(bounds) == 2 else (0, bounds[0])
    scalars = [call.op("Squeeze", call.build.size(bound)) for bound in (start, end, 1)]
    return call.build.cast(call.op("Range", *scalars), torch.int64, call.example.dtype)


# ---------------------------------------------------------------------------------------------------
# picking and placing


@SHAPES.entry(aten.select.int)
def _select(call: Call) -> str:
    index = call.build.number(call.argument(2), torch.int64)
    return call.op("Gather", call.value(0), index, axis=call.argument(1))


@SHAPES.entry(aten.index_select.default)
def _index_select(call: Call) -> str:
    return call.op("Gather", call.value(0), call.value(2), axis=call.argument(1))


@SHAPES.entry(aten.embedding.default)
def _embedding(call: Call) -> str:
    return call.op("Gather", call.value(0), call.value(1), axis=0)


@SHAPES.entry(aten.gather.default)
def _gather(call: Call) -> str:
    return call.op("GatherElements", call.value(0), call.value(2), axis=call.argument(1))


@SHAPES.entry(aten.scatter_add.default)
def _scatter_add(call: Call) -> str:
    return _scattered(call, "add")


@SHAPES.entry(aten.scatter_reduce.two)
def _scatter_reduce(call: Call) -> str:
    if not call.argument(5, True, "include_self"):
        raise NotImplementedError("a reduction that leaves out what it starts from")
    return _scattered(call, {"amax": "max", "amin": "min", "sum": "add"}[call.argument(4)])


def _scattered(call: Call, reduction: str) -> str:
    values = call.value(0), call.value(2), call.value(3)
    return call.op("ScatterElements", *values, axis=call.argument(1), reduction=reduction)


@SHAPES.entry(aten.index.Tensor)
def _index(call: Call) -> str:
    axes, indices = _indices(call)
    if len(axes) == 1:
        return call.op("Gather", call.value(0), indices[0], axis=axes[0])
    if axes != list(range(len(axes))):
        raise NotImplementedError("several indices that do not come first")
    return call.op("GatherND", call.value(0), _stacked(call, indices))


def _indices(call: Call, place: int = 1) -> tuple[list[int], list[str]]:
    """Return the axes that an index stands for, and the indices."""
    items: Sequence[Any] = call.args[place]  # type: ignore[assignment]
    axes = [axis for axis, item in enumerate(items) if item is not None]
    return axes, [call.values[items[axis]] for axis in axes]


def _stacked(call: Call, indices: list[str]) -> str:
    """Return indices as the last axis of one tensor; all of one shape."""
    wide = [call.op("Unsqueeze", index, call.integers(-1)) for index in indices]
    return call.op("Concat", *wide, axis=-1) if len(wide) > 1 else wide[0]


@SHAPES.entry(aten.index_add.default)
def _index_add(call: Call) -> str:
    if call.argument(1) != 0 or call.argument(4, 1, "alpha") != 1:
        raise NotImplementedError("adding along an axis other than the first")
    index = call.op("Unsqueeze", call.value(2), call.integers(-1))
    return call.op("ScatterND", call.value(0), index, call.value(3), reduction="add")


@SHAPES.entry(aten.index_put.default, aten._index_put_impl_.default)
def _index_put(call: Call) -> str:
    reduction = "add" if call.argument(3, False, "accumulate") else "none"
    return _put(call, 1, call.value(2), call.like(2), reduction)


@SHAPES.entry(aten._unsafe_masked_index_put_accumulate.default)
def _masked_put(call: Call) -> str:
    like = call.like(3)
    mask = call.value(1)
    zero = call.build.number(0, like.dtype)
    return _put(call, 2, call.op("Where", mask, call.value(3), zero), like, "add")


def _put(call: Call, place: int, values: str, like: torch.Tensor, reduction: str) -> str:
    """Return the first argument with values put where indices say."""
    axes, indices = _indices(call, place)
    rank = call.example.dim()
    items: Sequence[Any] = call.args[place]  # type: ignore[assignment]
    index_shape = example(items[axes[0]]).shape
    target, order = call.value(0), list(range(rank))
    if axes != list(range(len(axes))):
        if len(axes) > 1:
            raise NotImplementedError("several indices that do not come first")
        # the indexed axis first; the values have those of the index in its place
        (axis,), n = axes, len(index_shape)
        order = [axis, *(i for i in range(rank) if i != axis)]
        target = call.op("Transpose", target, perm=order)
        wide = rank - 1 + n
        moved = [*range(axis, axis + n), *(i for i in range(wide) if not axis <= i < axis + n)]
        values = call.op("Transpose", values, perm=moved)
    else:
        full = [*index_shape, *call.example.shape[len(axes) :]]
        if [plain(size) for size in like.shape] != [plain(size) for size in full]:
            values = call.op("Expand", values, call.build.shape(full))
    found = call.op("ScatterND", target, _stacked(call, indices), values, reduction=reduction)
    back = [order.index(i) for i in range(rank)]
    return found if back == list(range(rank)) else call.op("Transpose", found, perm=back)
