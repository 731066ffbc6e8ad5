"""What executors of the sum over neighbours have in common, and their choice by name: ``registry/kernels``.

All give the numbers of :class:`lsf.models.convolution.Convolution` from the same weights, which belong to the
layer: an executor holds constants alone, and none of them is written to model files.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lsf.errors import LsfError
from lsf.models.convolution import ConvolutionPaths, RadialWeights
from lsf.models.message_passing.neighborhood import Neighborhood
from lsf.recipe.catalog import catalog


class KernelsError(LsfError):
    """The kernels of the message passing cannot run where they are asked to."""


class Messages(NamedTuple):
    """Messages summed over neighbours.

    ``by_degree`` holds per degree those of its paths, ``(n_atoms, 2l + 1, n_channels)`` each. ``place``
    (n_atoms,) says which row is whose where rows are sorted in another way than atoms.
    """

    by_degree: list[list[Tensor]]
    place: Tensor | None = None


class Executor(nn.Module, ABC):
    """The sum over neighbours of one layer, in the place of :class:`lsf.models.convolution.Convolution`.

    ``sums_by_element`` says whether a first layer may sum over its neighbours by element before anything else
    (:mod:`lsf.models.message_passing.native.by_element`). With ``recompute`` a backward pass computes again
    what it can, for executors that can.
    """

    sums_by_element = False
    recompute = False

    def __init__(self, convolution: ConvolutionPaths) -> None:
        super().__init__()
        self.convolution = convolution

    @classmethod
    def missing(cls, device: torch.device) -> str | None:  # noqa: ARG003 - for executors that need more
        """Return what is missing to run on a device, as a sentence, or None."""
        return None

    @abstractmethod
    def forward(self, features: Tensor, neighborhood: Neighborhood, radial: RadialWeights) -> Messages:
        """Return the messages of all atoms; ``features`` are ``(n_atoms, n_components, n_channels)``."""

    def of_rows(self, messages: Tensor) -> Messages:
        """Return messages ``(n_atoms, Σ_paths (2 l3 + 1), n_channels)`` as :class:`Messages`."""
        return Messages(self.sorted_by_degree(list(messages.split(self.convolution.rows, dim=1))))

    def sorted_by_degree(self, by_path: list[Tensor]) -> list[list[Tensor]]:
        """Return messages of all paths, in their order, by degree."""
        paths = self.convolution.paths
        return [
            [message for path, message in zip(paths, by_path, strict=True) if path[2] == degree]
            for degree in range(self.convolution.max_ell + 1)
        ]


def executor_class(name: str) -> type[Executor]:
    """Return the executor of a name; CatalogError with the nearest name when there are none."""
    found: type[Executor] = catalog().entry("kernels", name).target()
    return found


def require_kernels(name: str, device: torch.device) -> None:
    """Raise :class:`KernelsError` unless the kernels of a name can run on a device."""
    problem = executor_class(name).missing(device)
    if problem is None:
        return
    raise KernelsError(
        f'model.kernels = "{name}" cannot be used: {problem}; '
        f"kernels that run on {device.type!r}: {', '.join(runnable(device))}"
    )


def runnable(device: torch.device) -> list[str]:
    """Return the names of all kernels that can run on a device."""
    return [name for name in catalog().names("kernels") if executor_class(name).missing(device) is None]


def kernels_for_any_device(name: str) -> str:
    """Return ``name`` if these kernels need nothing, otherwise "auto"."""
    return "auto" if catalog().entry("kernels", name).requires else name


def installed(package: str) -> bool:
    """Return whether a package can be imported; does not import it."""
    return importlib.util.find_spec(package) is not None


def not_on_gpu(device: torch.device) -> str | None:
    """Return what is missing where kernels need a CUDA device."""
    return None if device.type == "cuda" else f"they run on a CUDA device, not on {device.type!r}"
