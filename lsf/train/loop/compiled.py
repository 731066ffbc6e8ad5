"""Training steps with compiled blocks: ``[training] compile = true``.

What is computed on a block of edges, with its first and second derivatives, is most of a training step. Each
of these functions is compiled when it is first called; everything between the blocks stays as it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor, nn

from lsf.errors import LsfError
from lsf.machine.compilers import require_compiler
from lsf.models.message_passing.compiled.executor import block_graph, compiled_blocks
from lsf.models.message_passing.compiled.functions import BlockFunction, BlockFunctions
from lsf.train.objective.evaluation import Evaluate, model_evaluate

if TYPE_CHECKING:
    from lsf.machine.geometric import Batch
    from lsf.models.local_source import LocalSourceModel

TOLERANCES: Final = {torch.float64: 1.0e-8, torch.float32: 2.0e-3}
"""Largest difference to the native kernels, relative to the largest number of its kind; gradients of float32
networks carry the rounding of two differentiations."""

WHAT: Final = "[training] compile = true"
NATIVE: Final = ("auto", "native")
"""Kernels that work in blocks."""


class CompiledSteps:
    """Evaluates batches with compiled blocks.

    The first training step is compared with the native kernels, gradients of all weights included. What a
    batch needs that no batch before it did is compiled then: batches of any size run the same code.

    Raises
    ------
    LsfError
        when there is no C++ compiler, the model's kernels are not the native ones, a function cannot be
        compiled, or what compiled blocks give differs from the native kernels.
    """

    def __init__(self, log: logging.Logger, eager: Evaluate = model_evaluate) -> None:
        require_compiler(WHAT)
        self.log, self.eager = log, eager
        self._compiled: dict[Any, BlockFunction] = {}
        self._checked = False

    def __call__(
        self, model: nn.Module, batch: Batch, compute: Collection[str], create_graph: bool = False
    ) -> Mapping[str, Tensor | None]:
        """Return the model's outputs as :class:`lsf.train.objective.evaluation.Evaluate` says."""
        if create_graph and not self._checked:
            self._check(cast("LocalSourceModel", model), batch, compute)
            self._checked = True
        return self._evaluate(model, batch, compute, create_graph)

    def _evaluate(
        self, model: nn.Module, batch: Batch, compute: Collection[str], create_graph: bool
    ) -> Mapping[str, Tensor | None]:
        with compiled_blocks(self._find):
            return self.eager(model, batch, compute, create_graph)

    def _find(self, functions: BlockFunctions, name: str, like: Sequence[Tensor]) -> BlockFunction:
        """Return a compiled function."""
        key = functions.groups, functions.n_channels, name, like[0].dtype, like[0].device
        if key not in self._compiled:
            self._compiled[key] = _compiled(functions, name, like)
        return self._compiled[key]

    def _check(self, model: LocalSourceModel, batch: Batch, compute: Collection[str]) -> None:
        """Compare outputs, and gradients of a random sum of them, with the native kernels."""
        if model.backbone.kernels not in NATIVE:
            raise LsfError(
                f'{WHAT} compiles the native kernels, and model.kernels is "{model.backbone.kernels}"; '
                'expected "auto" or "native"'
            )
        self.log.info("compiling what is computed on edges: this takes a minute or two, once per run …")
        started = time.monotonic()
        parameters = [value for value in model.parameters() if value.requires_grad]
        sides = {
            "native": self.eager(model, batch, compute, True),
            "compiled": self._evaluate(model, batch, compute, True),
        }
        tolerance = TOLERANCES[model.dtype]
        generator = torch.Generator().manual_seed(0)
        total = {side: torch.zeros((), dtype=torch.float64) for side in sides}
        for name, expected in sides["native"].items():
            found = sides["compiled"][name]
            if expected is None or found is None:
                continue
            _compare(name, found, expected, 1.0, tolerance)
            weights = torch.randn(expected.shape, dtype=torch.float64, generator=generator).to(expected)
            for side, value in (("native", expected), ("compiled", found)):
                total[side] = total[side] + (weights * value).sum().cpu()
        native, compiled = (
            torch.autograd.grad(total[side], parameters, allow_unused=True, materialize_grads=True)
            for side in ("native", "compiled")
        )
        scale = 1e-3 * max(float(value.abs().max()) for value in native)
        names = [name for name, value in model.named_parameters() if value.requires_grad]
        for name, value, other in zip(names, native, compiled, strict=True):
            _compare(f"the gradient of {name}", other, value, scale, tolerance)
        if not self._compiled:
            self.log.info("there is nothing to compile: the model's one layer sums by element")
            return
        seconds = time.monotonic() - started
        self.log.info("compiled in %.0f s; outputs and gradients agree with the native kernels", seconds)


def _compiled(functions: BlockFunctions, name: str, like: Sequence[Tensor]) -> BlockFunction:
    """Return a function of blocks, compiled for any number of atoms and slots."""
    from torch._inductor.compile_fx import compile_fx

    recorded = block_graph(functions, name, like, WHAT).recorded
    try:
        with torch.no_grad():
            return cast("BlockFunction", compile_fx(recorded.module, recorded.inputs))
    except Exception as error:  # torch raises of every kind
        said = (str(error).splitlines() or ["nothing more"])[0]
        raise LsfError(
            f"{WHAT}: {name} of a block cannot be compiled ({type(error).__name__}: {said}); "
            "train without compile"
        ) from error


def _compare(name: str, found: Tensor, expected: Tensor, least: float, tolerance: float) -> None:
    if not expected.numel():
        return
    scale = max(least, float(expected.detach().abs().max()))
    difference = float((found - expected).detach().abs().max()) / scale
    if not difference <= tolerance:
        raise LsfError(
            f"[training] compile = true: {name} of the compiled network differs from the native kernels by "
            f"{difference:.1e} of its size; expected at most {tolerance:.0e}. Train without compile"
        )
