"""Traces whose tensors are made where their inputs are.

A trace writes down the device of every tensor it makes. Here these constants are replaced with the device of
an argument, so that a file loaded onto another device computes there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from lsf.errors import ExportError


def follow_inputs(traced: Any) -> None:
    """Replace all devices written down in a traced module with those of its arguments.

    Raises :class:`lsf.errors.ExportError` where a part without arguments makes a tensor.
    """
    for name, part in traced.named_modules():
        for method in part._c._method_names():
            _follow(part._c._get_method(method).graph, name or "the model")


def devices_written_down(module: Any) -> list[str]:
    """Return the parts of a traced module that hold a device as a constant."""
    return [
        name
        for name, part in module.named_modules()
        for method in part._c._method_names()
        if any(True for _ in _device_constants(part._c._get_method(method).graph))
    ]


def _follow(graph: Any, name: str) -> None:
    constants = list(_device_constants(graph))
    if not constants:
        return
    tensors = [value for value in graph.inputs() if value.type().kind() == "TensorType"]
    if not tensors:
        raise ExportError(f"{name} makes tensors and has no argument whose device they could have")
    device = graph.create("prim::device", [tensors[0]], 1)
    device.output().setType(torch._C.DeviceObjType.get())
    graph.prependNode(device)
    for constant in constants:
        constant.output().replaceAllUsesWith(device.output())
        constant.destroy()


def _device_constants(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        if node.kind() == "prim::Constant" and node.output().type().kind() == "DeviceObjType":
            yield node
        for inner in node.blocks():
            yield from _device_constants(inner)
