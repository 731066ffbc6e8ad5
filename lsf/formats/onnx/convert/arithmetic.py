"""Arithmetic, sums and products of recorded graphs in ONNX.

Only operations that models of lsf are made of, decomposed as :data:`lsf.formats.graph.DECOMPOSED` says.
Numbers keep all their digits: converters made for networks in single precision round them to that.
"""

from __future__ import annotations

from typing import Final

import torch
from torch.fx import Node

from lsf.formats.onnx.convert.call import Call, Convert, Table

aten: Final = torch.ops.aten

ARITHMETIC: Final = Table()

IN_PLACE: Final = {aten.masked_fill_.Scalar, aten.logical_and_.default}
"""Operations whose result takes the place of their first argument."""


def _unary(kind: str) -> Convert:
    return lambda call: call.op(kind, call.value(0))


def _binary(kind: str) -> Convert:
    def convert(call: Call) -> str:
        dtype = call.example.dtype
        second = call.typed(1, dtype)
        alpha = call.argument(2, 1, "alpha")
        if alpha != 1:
            second = call.op("Mul", second, call.build.number(alpha, dtype))
        return call.op(kind, call.typed(0, dtype), second)

    return convert


def _comparison(kind: str, negated: bool = False) -> Convert:
    def convert(call: Call) -> str:
        dtype = call.like(0).dtype
        if isinstance(call.args[1], Node) and isinstance(call.like(1), torch.Tensor):
            dtype = torch.promote_types(dtype, call.like(1).dtype)
        found = call.op(kind, call.typed(0, dtype), call.typed(1, dtype))
        return call.op("Not", found) if negated else found

    return convert


for _kind, _targets in {
    "Neg": (aten.neg.default,),
    "Abs": (aten.abs.default,),
    "Exp": (aten.exp.default,),
    "Log": (aten.log.default,),
    "Sqrt": (aten.sqrt.default,),
    "Sin": (aten.sin.default,),
    "Cos": (aten.cos.default,),
    "Tanh": (aten.tanh.default,),
    "Sigmoid": (aten.sigmoid.default,),
    "Sign": (aten.sgn.default, aten.sign.default),
    "Round": (aten.round.default,),
    "Reciprocal": (aten.reciprocal.default,),
    "Not": (aten.logical_not.default, aten.bitwise_not.default),
}.items():
    ARITHMETIC.update(dict.fromkeys(_targets, _unary(_kind)))

for _kind, _packet in {"Add": aten.add, "Sub": aten.sub, "Mul": aten.mul, "Div": aten.div}.items():
    ARITHMETIC.update(dict.fromkeys((_packet.Tensor, _packet.Scalar), _binary(_kind)))

for _kind, _targets in {
    "And": (aten.bitwise_and.Tensor, aten.logical_and.default, aten.logical_and_.default),
    "Or": (aten.bitwise_or.Tensor, aten.logical_or.default),
}.items():
    ARITHMETIC.update(dict.fromkeys(_targets, _binary(_kind)))

for _kind, _packet in {
    "Less": aten.lt,
    "LessOrEqual": aten.le,
    "Greater": aten.gt,
    "GreaterOrEqual": aten.ge,
    "Equal": aten.eq,
}.items():
    ARITHMETIC.update(dict.fromkeys((_packet.Tensor, _packet.Scalar), _comparison(_kind)))
ARITHMETIC.update(dict.fromkeys((aten.ne.Tensor, aten.ne.Scalar), _comparison("Equal", negated=True)))


@ARITHMETIC.entry(aten.silu.default)
def _silu(call: Call) -> str:
    return call.op("Mul", call.value(0), call.op("Sigmoid", call.value(0)))


@ARITHMETIC.entry(aten.expm1.default)
def _expm1(call: Call) -> str:
    # 2 t / (1 - t) with t = tanh(x / 2) keeps the digits of small numbers
    build, dtype, x = call.build, call.example.dtype, call.value(0)
    one, two = build.number(1.0, dtype), build.number(2.0, dtype)
    t = call.op("Tanh", call.op("Div", x, two))
    small = call.op("Div", call.op("Mul", two, t), call.op("Sub", one, t))
    large = call.op("Sub", call.op("Exp", x), one)
    return call.op("Where", call.op("Less", call.op("Abs", x), one), small, large)


@ARITHMETIC.entry(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar)
def _pow(call: Call) -> str:
    dtype = call.example.dtype
    base = call.typed(0, dtype)
    if call.args[1] in (1, 2, 3) and not isinstance(call.args[1], Node):
        result = base
        for _ in range(int(call.args[1]) - 1):  # type: ignore[arg-type]
            result = call.op("Mul", result, base)
        return result
    return call.op("Pow", base, call.typed(1, dtype))


@ARITHMETIC.entry(aten.clamp.default)
def _clamp(call: Call) -> str:
    dtype = call.example.dtype
    bounds = [call.argument(1, None, "min"), call.argument(2, None, "max")]
    return call.op("Clip", call.value(0), *("" if b is None else call.build.number(b, dtype) for b in bounds))


@ARITHMETIC.entry(aten.remainder.Scalar)
def _remainder(call: Call) -> str:
    # of the sign of the divisor, as in Python
    return call.op("Mod", call.value(0), call.build.number(call.args[1], call.example.dtype))  # type: ignore[arg-type]


@ARITHMETIC.entry(aten.where.self)
def _where(call: Call) -> str:
    dtype = call.example.dtype
    return call.op("Where", call.value(0), call.typed(1, dtype), call.typed(2, dtype))


@ARITHMETIC.entry(aten.masked_fill.Scalar, aten.masked_fill_.Scalar)
def _masked_fill(call: Call) -> str:
    return call.op("Where", call.value(1), call.typed(2, call.example.dtype), call.value(0))


@ARITHMETIC.entry(aten._to_copy.default)
def _to_copy(call: Call) -> str:
    return call.build.cast(call.value(0), call.like(0).dtype, call.example.dtype)


@ARITHMETIC.entry(
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.lift_fresh.default,
)
def _same(call: Call) -> str:
    return call.value(0)


# ---------------------------------------------------------------------------------------------------
# sums and products


@ARITHMETIC.entry(aten.sum.dim_IntList, aten.sum.default)
def _sum(call: Call) -> str:
    value = call.build.cast(call.value(0), call.like(0).dtype, call.example.dtype)
    axes = call.argument(1, [], "dim")
    keep = int(call.argument(2, False, "keepdim"))
    return call.op("ReduceSum", value, *([call.integers(*axes)] if axes else []), keepdims=keep)


@ARITHMETIC.entry(aten.linalg_vector_norm.default)
def _norm(call: Call) -> str:
    if call.argument(1, 2, "ord") != 2:
        raise NotImplementedError("a norm other than the Euclidean one")
    square = call.op("Mul", call.value(0), call.value(0))
    axes, keep = call.argument(2, [], "dim"), int(call.argument(3, False, "keepdim"))
    return call.op("Sqrt", call.op("ReduceSum", square, call.integers(*axes), keepdims=keep))


@ARITHMETIC.entry(aten.mm.default, aten.bmm.default, aten.mv.default, aten.matmul.default)
def _matmul(call: Call) -> str:
    return call.op("MatMul", call.value(0), call.value(1))


@ARITHMETIC.entry(aten.linalg_cross.default)
def _cross(call: Call) -> str:
    axis = call.argument(2, -1, "dim")
    turned = [
        [
            call.op("Gather", call.value(i), call.integers(*order), axis=axis)
            for order in ((1, 2, 0), (2, 0, 1))
        ]
        for i in (0, 1)
    ]
    (a1, a2), (b1, b2) = turned
    return call.op("Sub", call.op("Mul", a1, b2), call.op("Mul", a2, b1))
