"""Is a graph being captured? What code asks before it chooses by values or calls ``autograd.Function``.

Three ways of capturing leave Python: TorchScript tracing, recording single operations (``make_fx``, for ONNX
and AOTInductor), and compiling (TorchDynamo). TorchScript itself is called in ``torchscript.py`` beside this.
"""

from __future__ import annotations

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from lsf.machine import torchscript


def scripting() -> bool:
    """Return whether a graph for TorchScript is traced, which takes in no ``autograd.Function``."""
    return torchscript.is_tracing()


def recording() -> bool:
    """Return whether single operations are recorded (``make_fx``): all of them have to be plain ones.

    No ``autograd.Function`` and no choice by a tensor's values may be among them.
    """
    return not torch.compiler.is_compiling() and get_proxy_mode() is not None


def capturing() -> bool:
    """Return whether a graph is being captured, which must serve every input."""
    return bool(torch.compiler.is_compiling()) or scripting() or recording()
