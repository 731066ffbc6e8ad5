"""Writes ONNX nodes one by one: values, constants, and sizes that follow from those of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
import sympy
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET: Final = 18
TYPES: Final = {
    torch.float64: TensorProto.DOUBLE,
    torch.float32: TensorProto.FLOAT,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}
LAST: Final = np.iinfo(np.int64).max
"""Stands for the end of a dimension in slices."""

Size = int | torch.SymInt


class Builder:
    """A growing ONNX graph; every method returns the name of a value.

    ``symbols`` tells by the symbol of a recorded size which input and dimension it is read from.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.symbols: dict[str, tuple[str, int]] = {}
        self._known: dict[Any, str] = {}
        self._count = 0

    def name(self, hint: str) -> str:
        """Return a name that no value has."""
        self._count += 1
        return f"{hint}_{self._count}"

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        output = self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, values: NDArray[Any]) -> str:
        """Return an array's value; equal ones are stored once."""
        values = np.asarray(values)  # not made contiguous: that would give numbers a dimension
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._known:
            self._known[key] = self.name("c")
            self.constants.append(numpy_helper.from_array(values, self._known[key]))
        return self._known[key]

    def number(self, value: float, dtype: torch.dtype) -> str:
        """Return a number without dimensions, exactly."""
        return self.constant(np.array(value, dtype=numpy_type(dtype)))

    def integers(self, values: Sequence[int]) -> str:
        """Return a list of integers."""
        return self.constant(np.array(values, dtype=np.int64))

    def cast(self, value: str, found: torch.dtype, wanted: torch.dtype) -> str:
        """Return a value as another type."""
        return value if found == wanted else self.op("Cast", value, to=TYPES[wanted])

    # --- sizes

    def shape(self, sizes: Sequence[Size]) -> str:
        """Return sizes as a list of integers."""
        known = [plain(size) for size in sizes]
        numbers = [size for size in known if isinstance(size, int)]
        if len(numbers) == len(known):
            return self.integers(numbers)
        key = ("shape", tuple(map(str, known)))
        if key not in self._known:
            parts = [self._size(size) for size in known]
            self._known[key] = self.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
        return self._known[key]

    def size(self, size: Size) -> str:
        """Return one size, as a list of one integer."""
        return self._size(plain(size))

    def _size(self, size: int | sympy.Expr) -> str:
        if isinstance(size, int):
            return self.integers([size])
        key = ("size", str(size))
        if key not in self._known:
            self._known[key] = self._expression(size)
        return self._known[key]

    def _expression(self, size: sympy.Expr) -> str:
        if isinstance(size, sympy.Symbol):
            name, dimension = self.symbols[str(size)]
            return self.op("Shape", name, start=dimension, end=dimension + 1)
        kinds = {sympy.Add: "Add", sympy.Mul: "Mul"}
        if type(size) in kinds:
            first, *others = (self._size(plain(part)) for part in size.args)
            for other in others:
                first = self.op(kinds[type(size)], first, other)
            return first
        # torch's own classes of sympy functions
        if type(size).__name__ in ("FloorDiv", "CleanDiv"):
            return self.op("Div", *(self._size(plain(part)) for part in size.args))
        raise NotImplementedError(f"a size of the form {size}")


def plain(size: Any) -> int | sympy.Expr:
    """Return a size as a number, or as an expression of symbols of inputs."""
    if isinstance(size, torch.SymInt):
        node = size.node
        size = node.shape_env.simplify(node.expr)
    return int(size) if isinstance(size, int | sympy.Integer) else size


def numpy_type(dtype: torch.dtype) -> Any:
    """Return the numpy type of a torch type."""
    return torch.zeros((), dtype=dtype).numpy().dtype
