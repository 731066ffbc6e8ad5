"""One recorded operation on its way to ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from lsf.formats.onnx.convert.builder import Builder


class Call:
    """One recorded operation: its arguments as ONNX values, and the tensor it returned as an example."""

    def __init__(self, build: Builder, node: Node, values: dict[Node, Any]) -> None:
        self.build, self.node, self.values = build, node, values
        self.args, self.kwargs = node.args, node.kwargs
        self.example: Any = node.meta.get("val")

    def value(self, index: int) -> str:
        """Return the tensor that is argument ``index``."""
        found: str = self.values[self.args[index]]  # type: ignore[index]
        return found

    def like(self, index: int) -> torch.Tensor:
        """Return the example of the tensor that is argument ``index``."""
        return example(self.args[index])

    def argument(self, index: int, default: Any = None, name: str = "") -> Any:
        """Return an argument that is no tensor; sizes as they were recorded."""
        found = self.args[index] if index < len(self.args) else self.kwargs.get(name, default)
        return _sized(found)

    def typed(self, index: int, dtype: torch.dtype) -> str:
        """Return the argument, a tensor or number, as a value of a type."""
        found = self.args[index]
        if isinstance(found, Node) and isinstance(example(found), torch.SymInt):
            size = self.op("Squeeze", self.build.size(found.meta["val"]))
            return self.build.cast(size, torch.int64, dtype)
        if isinstance(found, Node):
            return self.build.cast(self.values[found], example(found).dtype, dtype)
        return self.build.number(found, dtype)  # type: ignore[arg-type]

    def tensors(self, index: int) -> list[str]:
        """Return the list of tensors that is argument ``index``, of the type of the result."""
        items: Any = self.args[index]
        dtype = self.example.dtype
        return [self.build.cast(self.values[item], example(item).dtype, dtype) for item in items]

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node."""
        return self.build.op(kind, *inputs, **attributes)

    def integers(self, *values: int) -> str:
        """Return a list of integers."""
        return self.build.integers(values)

    def shape(self) -> str:
        """Return the shape of the result."""
        return self.build.shape(self.example.shape)


def example(item: Any) -> torch.Tensor:
    """Return the example of a recorded tensor."""
    found: torch.Tensor = item.meta["val"]
    return found


def _sized(found: Any) -> Any:
    if isinstance(found, Node):
        return found.meta["val"]
    return [_sized(item) for item in found] if isinstance(found, list | tuple) else found


Convert = Callable[[Call], Any]
"""Adds the nodes of a call and returns its value: a name, or a list of names for several."""


class Table(dict[Any, Convert]):
    """What converts an operation, by operation."""

    def entry(self, *targets: Any) -> Callable[[Convert], Convert]:
        """Return a decorator that enters a function for some operations."""

        def add(convert: Convert) -> Convert:
            self.update(dict.fromkeys(targets, convert))
            return convert

        return add
