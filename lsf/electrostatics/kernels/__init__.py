"""Triton kernels of the electrostatics: the direct Fourier pair, the mesh pair and the open pair sum.

Importing this package imports neither Triton nor a kernel; :func:`require_kernels` says whether kernels can
run where the tensors are. The modules ``fourier``, ``mesh`` and ``pairs`` hold the operators, ``programs``
what runs on the GPU.
"""

from __future__ import annotations

import importlib.util
import os

import torch

from lsf.errors import LsfError


class KernelError(LsfError):
    """The kernel backend cannot run on a device."""


def triton_installed() -> bool:
    """Return whether the package Triton can be imported; does not import it."""
    return importlib.util.find_spec("triton") is not None


def interpreter_requested() -> bool:
    """Return whether the environment asks for Triton's interpreter (``TRITON_INTERPRET=1``).

    Triton reads the variable when a kernel's module is imported: set it before the first kernel is used.
    """
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def require_kernels(device: torch.device) -> None:
    """Raise :class:`KernelError` unless Triton kernels can run on tensors of ``device``."""
    installed = triton_installed()
    if installed and (device.type == "cuda" or interpreter_requested()):
        return
    problems = [] if installed else ["the package 'triton' is not installed (pip install 'lsf[gpu]', Linux)"]
    if device.type != "cuda" and not interpreter_requested():
        problems.append(f"the tensors are on {device.type!r}, not on a CUDA device")
    raise KernelError(
        f"electrostatics backend 'kernel' cannot be used: {' and '.join(problems)}. It needs the extra 'gpu' "
        "and a CUDA device (TRITON_INTERPRET=1 runs it slowly on a CPU, for tests); "
        "backend = 'direct' and 'mesh' run on any device, 'auto' chooses"
    )
