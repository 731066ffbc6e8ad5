"""Compile every Triton program for compute capability 9.0, capture every operator in a graph: without a GPU.

Called by test_kernels.py in a process of its own: there the programs are compiled functions, not interpreted.
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

from lsf.electrostatics.gpu import fourier, mesh, pairs
from lsf.electrostatics.gpu.programs import fourier as fourier_programs
from lsf.electrostatics.gpu.programs import mesh as mesh_programs
from lsf.electrostatics.gpu.programs import pairs as pair_programs

POINTERS_OF_INTEGERS = {"triplets", "order", "blocks", "bases"}


def compile_all() -> int:
    """Compile the programs of dipoles' forces in both precisions; return their number."""
    count = 0
    for kind in (torch.float32, torch.float64):
        sums = {"DEGREE": 2, "BLOCK": fourier.BLOCK[kind], "CHUNK": fourier.CHUNK}
        cases = [
            (fourier_programs.sum_program, sums, 1),
            (fourier_programs.gather_program, sums, 1),
            (mesh_programs.spread_program, {"DEGREE": 2, "ORDER": 8}, mesh.WARPS[kind]),
            (mesh_programs.interpolate_program, {"DEGREE": 2, "ORDER": 8}, mesh.WARPS[kind]),
            (pair_programs.potential_program, {"SOURCE": 1, "TARGET": 2, "TERMS": 29, "BLOCK": 32}, 1),
        ]
        for program, constants, warps in cases:
            signature = {name: _type(name, kind, constants) for name in program.arg_names}
            source = ASTSource(fn=program, signature=signature, constexprs=constants)
            compiled = compile_program(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
            count += bool(compiled.asm["cubin"])
    return count


def _type(name: str, kind: torch.dtype, constants: dict[str, int]) -> str:
    letter = "fp32" if kind == torch.float32 else "fp64"
    if name in constants:
        return "constexpr"
    if name in POINTERS_OF_INTEGERS:
        return "*i32"
    if name == "turns":
        return "*i32" if kind == torch.float32 else "*fp64"
    if name == "positions":
        return "*fp64"
    return "i32" if name in ("parts", "n_atoms", "n_k", "n_x", "n_y", "n_z") else f"*{letter}"


def capture_all() -> int:
    """Trace every operator as the compilers do; return how many kernel launches the graphs hold."""
    logging.disable(logging.WARNING)  # without a driver torch cannot see what a kernel writes, and warns
    with FakeTensorMode():
        atoms, moments = torch.empty(6, 3, dtype=torch.float64), torch.empty(6, 4, dtype=torch.float64)
        batch, k_batch = torch.empty(6, dtype=torch.int64), torch.empty(9, dtype=torch.int64)
        triplets, values = torch.empty(9, 3, dtype=torch.int64), torch.empty(9, 2, dtype=torch.float64)
        splines, points = torch.empty(6, 8, 8, dtype=torch.float64), torch.empty(8, 8, 8, dtype=torch.float64)

        def everything(*inputs: torch.Tensor) -> list[torch.Tensor]:
            atoms, moments, batch, k_batch, triplets, values, splines, points = inputs
            grid = fourier.kernel_grid(batch, triplets, k_batch, 2, torch.float64)
            transfer = mesh.KernelTransfer(atoms, (8, 8, 8), 6, splines)
            return [
                fourier.fourier_sum(atoms, moments, grid, 1),
                fourier.fourier_gather(atoms, values, grid, 1),
                transfer.spread(moments, 1),
                transfer.interpolate(points, 1),
                pairs.open_energy(moments, atoms, pairs.pair_grid(batch, batch[:2] > 0), batch, 1.0),
            ]

        inputs = (atoms, moments, batch, k_batch, triplets, values, splines, points)
        graph = make_fx(dispatch_functionalize(everything), tracing_mode="fake")(*inputs).graph
    return sum(str(node.target) == "triton_kernel_wrapper_functional" for node in graph.nodes)


if __name__ == "__main__":
    sys.stdout.write(f"compiled {compile_all()} captured {capture_all()}\n")
