"""Averaged weights: what is evaluated and saved, while training goes on from the latest ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lsf.train.optimizer import ScheduleFreeAdamW


class Average(Protocol):
    """Weights to evaluate with, kept beside those that are trained."""

    def update(self) -> None:
        """Take in the weights after an optimizer step."""

    def weights(self) -> list[Tensor]:
        """Return the averaged weights, one tensor per parameter of the model."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold (the optimizer's own state excepted)."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's state."""


class Latest:
    """No average: the trained weights themselves."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters

    def update(self) -> None:
        """Do nothing."""

    def weights(self) -> list[Tensor]:
        """Return the trained weights."""
        return [parameter.detach() for parameter in self.parameters]

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the model's state holds all."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


class OptimizerAverage(Latest):
    """The average a schedule-free optimizer keeps as part of its method."""

    def __init__(self, parameters: Sequence[Tensor], optimizer: ScheduleFreeAdamW) -> None:
        super().__init__(parameters)
        self.optimizer = optimizer

    def weights(self) -> list[Tensor]:
        """Return the optimizer's averaged weights."""
        return self.optimizer.averaged(self.parameters)


class ExponentialAverage:
    """Exponential moving average of the weights.

    The decay starts low, ``min(decay, (1 + n) / (10 + n))`` after n steps, so that the random initial
    weights are forgotten soon also in short runs.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.steps = 0
        self.averages = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights."""
        self.steps += 1
        decay = min(self.decay, (1.0 + self.steps) / (10.0 + self.steps))
        torch._foreach_lerp_(self.averages, list(self.parameters), 1.0 - decay)

    def weights(self) -> list[Tensor]:
        """Return the averaged weights."""
        return self.averages

    def state_dict(self) -> dict[str, Any]:
        """Return averages and step count."""
        return {"steps": self.steps, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over averages and step count."""
        self.steps = state["steps"]
        for average, stored in zip(self.averages, state["averages"], strict=True):
            average.copy_(stored)


def build_average(model: nn.Module, optimizer: Optimizer, decay: float | None) -> Average:
    """Return the average to evaluate with: the optimizer's own, an exponential one, or none."""
    parameters = list(model.parameters())
    if isinstance(optimizer, ScheduleFreeAdamW):
        return OptimizerAverage(parameters, optimizer)
    return Latest(parameters) if decay is None else ExponentialAverage(parameters, decay)


@contextmanager
def weights_in_place(model: nn.Module, weights: Sequence[Tensor]) -> Iterator[None]:
    """Let the model hold the given weights, untrainable, and give it back its own at the end.

    Storage is exchanged, not copied, so the trained weights come back to the last bit. Without gradients
    of the weights an evaluation keeps less in memory.
    """
    parameters = list(model.parameters())
    own = [(parameter.data, parameter.requires_grad) for parameter in parameters]
    try:
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.requires_grad_(False)
            parameter.data = weight
        yield
    finally:
        for parameter, (data, trainable) in zip(parameters, own, strict=True):
            parameter.data = data
            parameter.requires_grad_(trainable)


def copy_weights(model: nn.Module, weights: Sequence[Tensor]) -> None:
    """Write the given weights into the model for good."""
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(weight)
