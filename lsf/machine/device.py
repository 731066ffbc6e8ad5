"""Which device a setting means, and whether it is there."""

from __future__ import annotations

from lsf.errors import LsfError, Problem
from lsf.options import device_name


def pick_device(name: str) -> str:
    """Return the torch device a recipe or command line means; LsfError when it is not there."""
    rule = device_name()
    if not rule.holds(name):
        raise LsfError(f"device {name!r}: expected {rule.expected}")
    problem = device_problem(name)
    if problem is not None:
        raise LsfError(f"device {problem.found}; {problem.hint}")
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_problem(name: str) -> Problem | None:
    """Return what is wrong with a device that is not there, under the recipe's key ``device``."""
    if not name.startswith("cuda"):
        return None
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = int(name.partition(":")[2] or 0)
    if number < count:
        return None
    there = f"{count} CUDA device{'s' if count != 1 else ''}" if count else "no CUDA device"
    hint = 'to run on the CPU: --set device=cpu (or device = "cpu" in the recipe; --device cpu in lsf eval)'
    return Problem(
        "", "device", f'"{name}" on a machine with {there}', '"auto", "cpu" or a device that is there', hint
    )
