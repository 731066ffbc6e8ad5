"""Compile the programs of the convolution for compute capability 9.0, capture its operators: without a GPU.

Called by test_triton_convolution.py in a process of its own: there the programs are compiled functions, not
interpreted.
"""

from __future__ import annotations

import logging
import sys

import torch
from torch._subclasses import FakeTensorMode
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from triton import compile as compile_program
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lsf.models.convolution import ConvolutionPaths
from lsf.models.geometry import Edges
from lsf.models.irreps import parse_irreps
from lsf.models.message_passing.neighborhood import Neighborhood
from lsf.models.message_passing.triton import programs
from lsf.models.message_passing.triton.executor import edge_couplings
from lsf.models.message_passing.triton.operators import receive, shape_of, tables_of

TABLES = {"senders", "receivers", "order", "starts"}
SIZES = {"n_components", "n_rows", "n_entries", "n_paths", "n_channels"}


def compile_all() -> int:
    """Compile the programs of 64x0e + 64x1o, l_max 3, in both precisions; return how many spill nothing."""
    count = 0
    for letter in ("fp32", "fp64"):
        for program in (programs.receive_program, programs.send_program, programs.edges_program):
            constants = {"DEGREES": 3, "MAX_ELL": 3, "BLOCK": 64}
            signature = {}
            for name in program.arg_names:
                size = "i32" if name in SIZES else f"*{letter}"
                signature[name] = "constexpr" if name in constants else "*i64" if name in TABLES else size
            source = ASTSource(fn=program, signature=signature, constexprs=constants)
            compiled = compile_program(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
            count += bool(compiled.asm["cubin"])
    return count


def capture() -> int:
    """Trace messages and their gradients as the compilers do; return how many launches the graph holds."""
    logging.disable(logging.WARNING)  # without a driver torch cannot see what a kernel writes, and warns
    convolution = ConvolutionPaths(parse_irreps("4x0e + 4x1o"), 2)
    matrix = edge_couplings(convolution)
    shape = shape_of(convolution)
    with FakeTensorMode(allow_non_fake_inputs=True):
        features = torch.empty(5, 4, 4, dtype=torch.float64, requires_grad=True)
        harmonics = torch.empty(9, 9, dtype=torch.float64, requires_grad=True)
        radial = torch.empty(9, shape[4] * 4, dtype=torch.float64, requires_grad=True)
        edge_index, slots = torch.empty(2, 9, dtype=torch.int64), torch.empty(5, 3, dtype=torch.int64)

        def gradients(
            features: torch.Tensor,
            harmonics: torch.Tensor,
            radial: torch.Tensor,
            edge_index: torch.Tensor,
            slots: torch.Tensor,
        ) -> tuple[torch.Tensor, ...]:
            tables = tables_of(Neighborhood.of_batch(Edges(edge_index, radial, harmonics, radial), slots))
            messages = receive(features, harmonics @ matrix, radial, tables, shape)
            return torch.autograd.grad(messages.square().sum(), (features, harmonics, radial))

        inputs = (features, harmonics, radial, edge_index, slots)
        graph = make_fx(dispatch_functionalize(gradients), tracing_mode="fake")(*inputs).graph
    return sum(str(node.target) == "triton_kernel_wrapper_functional" for node in graph.nodes)


if __name__ == "__main__":
    sys.stdout.write(f"compiled {compile_all()} captured {capture()}\n")
