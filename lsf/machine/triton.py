"""Whether Triton's kernels can run here; asking imports neither Triton nor a kernel."""

from __future__ import annotations

import importlib.util
import os

import torch


def triton_installed() -> bool:
    """Return whether the package Triton can be imported; does not import it."""
    return importlib.util.find_spec("triton") is not None


def interpreter_requested() -> bool:
    """Return whether the environment asks for Triton's interpreter (``TRITON_INTERPRET=1``).

    Triton reads the variable when a kernel's module is imported: set it before the first kernel is used.
    """
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def kernels_run(device: torch.device) -> bool:
    """Return whether Triton kernels can run on tensors of ``device``."""
    return triton_installed() and (device.type == "cuda" or interpreter_requested())
