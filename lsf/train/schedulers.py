"""Learning rates that change inside a stage. A scheduler begins anew with every stage.

Builders take their options; the registry entries stand in ``registry/schedulers``. The state of a scheduler
is part of a checkpoint, so that a resumed run goes on with the same rates.
"""

from __future__ import annotations

from typing import Any, Protocol

import attrs

from lsf.options import NoOptions, at_least, between, option


class Scheduler(Protocol):
    """Decides how the learning rates of a stage change."""

    def rate(self, lr: float) -> float:
        """Return the learning rate of the next epoch where the stage asks for ``lr``."""

    def epoch_ended(self) -> None:
        """Note that one epoch is over."""

    def evaluated(self, loss: float) -> None:
        """Note the validation loss of an evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: plain numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's state."""


class Constant:
    """The learning rate of the stage throughout."""

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def rate(self, lr: float) -> float:
        """Return ``lr``."""
        return lr

    def epoch_ended(self) -> None:
        """Do nothing."""

    def evaluated(self, loss: float) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


@attrs.frozen
class ExponentialOptions:
    """Options of the exponential schedule."""

    gamma: float = option(
        "Factor of the learning rate from one epoch to the next. 0.9993 halves it in about 1000 epochs.",
        default=0.9993,
        validator=between(0.0, 1.0, open_ends=True),
    )


class Exponential(Constant):
    """``lr · gamma^n`` after n epochs of the stage."""

    def __init__(self, options: ExponentialOptions) -> None:
        self.gamma = options.gamma
        self.epochs = 0

    def rate(self, lr: float) -> float:
        """Return the decayed rate."""
        return lr * self.gamma**self.epochs

    def epoch_ended(self) -> None:
        """Count the epoch."""
        self.epochs += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the number of epochs."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the number of epochs."""
        self.epochs = state["epochs"]


@attrs.frozen
class PlateauOptions:
    """Options of the schedule that waits for the validation loss."""

    factor: float = option(
        "Factor of the learning rate when the validation loss no longer falls. Smaller steps down faster.",
        default=0.8,
        validator=between(0.0, 1.0, open_ends=True),
    )
    patience: int = option(
        "Number of evaluations without a better validation loss that are put up with; the next one lowers "
        "the rate. Evaluations are eval_interval epochs apart.",
        default=50,
        validator=at_least(0),
    )
    threshold: float = option(
        "Part of the best loss by which a lower one must be below it to count as better. It keeps "
        "vanishing gains from holding the rate up.",
        default=1e-4,
        validator=between(0.0, 1.0),
    )
    min_lr: float = option(
        "Learning rate below which none is lowered. 0 sets no bound.", default=0.0, validator=at_least(0.0)
    )


class Plateau(Constant):
    """``lr · factor^n`` after n waits of more than ``patience`` evaluations, as torch's ReduceLROnPlateau."""

    def __init__(self, options: PlateauOptions) -> None:
        self.settings = options
        self.best: float | None = None
        self.waited = 0
        self.reductions = 0

    def rate(self, lr: float) -> float:
        """Return the rate after all reductions so far, not below ``min_lr`` unless ``lr`` is."""
        lowest = min(lr, self.settings.min_lr)
        return max(lowest, lr * self.settings.factor**self.reductions)

    def evaluated(self, loss: float) -> None:
        """Count evaluations without a better loss and lower the rate after too many."""
        if self.best is None or loss < self.best * (1.0 - self.settings.threshold):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self.settings.patience:
            self.reductions, self.waited = self.reductions + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return best loss, evaluations since, and reductions."""
        return {"best": self.best, "waited": self.waited, "reductions": self.reductions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over best loss, evaluations since, and reductions."""
        self.best, self.waited, self.reductions = state["best"], state["waited"], state["reductions"]
