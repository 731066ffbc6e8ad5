"""From a recorded graph to an ONNX model."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Final

import onnx
import sympy
import torch
from onnx import helper
from torch.fx import Node

from lsf.errors import ExportError
from lsf.formats.graph import FlatGraph
from lsf.formats.onnx.convert.arithmetic import ARITHMETIC, IN_PLACE
from lsf.formats.onnx.convert.builder import OPSET, TYPES, Builder, plain
from lsf.formats.onnx.convert.call import Call, Table
from lsf.formats.onnx.convert.shapes import SHAPES

IR_VERSION = 10
"""Of files; read by onnxruntime from 1.18 on."""


OPS: Final = Table({**ARITHMETIC, **SHAPES})


def converted(graph: FlatGraph, input_names: Sequence[str]) -> onnx.ModelProto:
    """Return the ONNX model of a graph, with names of its own for the inputs.

    Raises :class:`lsf.errors.ExportError` naming the operations that have no counterpart.
    """
    nodes = list(graph.module.graph.nodes)
    missing = sorted({str(node.target) for node in nodes if _unknown(node)})
    if missing:
        raise ExportError(
            f"the model uses operations that lsf cannot write as ONNX: {', '.join(missing)}; "
            "TorchScript files can hold it: --format torchscript"
        )
    build, values = Builder(), dict[Node, Any]()
    named = zip(input_names, graph.sizes.values(), strict=True)
    inputs, outputs = [], []
    for node in nodes:
        if node.op == "placeholder":
            values[node], sizes = next(named)
            inputs.append(_input(build, values[node], node, sizes))
        elif node.op == "get_attr":
            values[node] = build.constant(_attribute(graph.module, node.target).detach().numpy())
        elif node.op == "call_function" and not _is_size(node):
            values[node] = _converted(build, node, values)
        elif node.op == "output":
            for name, item in zip(graph.outputs, node.args[0], strict=True):
                build.nodes.append(helper.make_node("Identity", [values[item]], [name]))
                outputs.append(helper.make_tensor_value_info(name, TYPES[item.meta["val"].dtype], None))
    made = helper.make_graph(build.nodes, "lsf", inputs, outputs, build.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="lsf")
    model.ir_version = IR_VERSION
    return model


def _is_size(node: Node) -> bool:
    """Return whether a node is a size: those are made from the inputs where they are needed."""
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymBool | torch.SymFloat | int | bool)


def _unknown(node: Node) -> bool:
    known = node.op != "call_function" or _is_size(node) or node.target is operator.getitem
    return not known and node.target not in OPS


def _converted(build: Builder, node: Node, values: dict[Node, Any]) -> Any:
    if node.target is operator.getitem:
        return values[node.args[0]][node.args[1]]  # type: ignore[index]
    try:
        found = OPS[node.target](Call(build, node, values))
    except NotImplementedError as error:
        raise ExportError(f"lsf cannot write {node.target} as ONNX: {error}") from error
    if node.target in IN_PLACE:
        values[node.args[0]] = found  # type: ignore[index]
    return found


def _input(build: Builder, name: str, node: Node, sizes: tuple[str | int, ...]) -> onnx.ValueInfoProto:
    found = node.meta["val"]
    for dimension, size in enumerate(map(plain, found.shape)):
        if isinstance(size, sympy.Symbol):
            build.symbols.setdefault(str(size), (name, dimension))
    return helper.make_tensor_value_info(name, TYPES[found.dtype], list(sizes))


def _attribute(module: torch.nn.Module, path: Any) -> torch.Tensor:
    *parents, name = str(path).split(".")
    for parent in parents:
        module = getattr(module, parent)
    found: torch.Tensor = getattr(module, name)
    return found
