"""The choice among the other kernels, by the device that features are on."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from lsf.models.convolution import Convolution, Messages, Neighborhood, Radial
from lsf.models.message_passing.executors import Kernel, kernel_class

ORDER: Final[dict[str, tuple[str, ...]]] = {"cpu": ("native",), "cuda": ("native",)}
"""Which kernels are tried first by kind of device; native runs on any. Others stand here once measured."""


def chosen(device: torch.device) -> str:
    """Return the name of the kernels for a device: the first that can run."""
    order = ORDER.get(device.type, ORDER["cpu"])
    return next(name for name in order if kernel_class(name).missing(device) is None)


class AutoKernel(Kernel):
    """Kernels that are made when the first features come, and anew when these come from another device."""

    sums_by_element = True

    def __init__(self, convolution: Convolution) -> None:
        super().__init__(convolution)
        self.name = "native"
        self.kernel = kernel_class(self.name)(convolution)

    def forward(self, features: Tensor, neighborhood: Neighborhood, radial: Radial) -> Messages:
        """Return the messages of all atoms."""
        name = chosen(features.device)
        if name != self.name:
            self.name = name
            self.kernel = kernel_class(name)(self.convolution).to(features.device)
        self.kernel.recompute = self.recompute
        messages: Messages = self.kernel(features, neighborhood, radial)
        return messages
