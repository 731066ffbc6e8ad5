"""Optimizers a recipe can choose, with the learning rate set by the stages.

A builder takes its options and the model; the registry entries stand in ``registry/optimizers``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Protocol, runtime_checkable

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from lsf.options import above, at_least, between, each, option

ParameterGroups = list[dict[str, Any]]

DECAYING: Final = ("interactions_decay", "products")
"""Groups of a model's weights that weight decay acts on, as in MACE."""


@runtime_checkable
class HasParameterGroups(Protocol):
    """Models that sort their weights into the groups of :data:`lsf.recipe.schema.PARAMETER_GROUPS`."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters, each once, by the name of their group."""


@attrs.frozen
class MomentOptions:
    """Options of all optimizers that average gradients and their squares."""

    betas: tuple[float, float] = option(
        "Decay of the running means of gradient and squared gradient; of schedulefree the first one is the "
        "weight of the average in the point where gradients are taken. Closer to 1 averages over more steps.",
        default=(0.9, 0.999),
        validator=each(between(0.0, 1.0)),
    )
    eps: float = option(
        "Added to the root of the squared gradient. It bounds the step where gradients vanish.",
        default=1e-8,
        validator=above(0.0),
    )
    weight_decay: float = option(
        "Pull of the weights of the groups interactions_decay and products towards zero; all others are left "
        "alone. A little keeps weights from drifting.",
        default=0.0,
        validator=at_least(0.0),
    )


@attrs.frozen
class AdamOptions(MomentOptions):
    """Options of Adam and AdamW."""

    amsgrad: bool = option(
        "Divide by the largest squared gradient seen, not the current mean. It is steadier late in training.",
        default=True,
    )


@attrs.frozen
class ScheduleFreeOptions(MomentOptions):
    """Options of schedule-free AdamW."""

    warmup_steps: int = option(
        "Number of steps over which the learning rate rises from zero. Some keep the first steps from "
        "diverging.",
        default=0,
        validator=at_least(0),
    )


def parameter_groups(
    model: nn.Module, weight_decay: float, separate: Collection[str] = ()
) -> ParameterGroups:
    """Return the trainable parameters, in as few groups as decay and learning rates allow.

    Groups named in ``separate`` stay apart and keep their ``name``, since a stage may give them a learning
    rate of their own; all others have the name "". Decay acts on :data:`DECAYING`. Of a model that does not
    sort its weights it acts on those of two and more dimensions: biases and scalars carry offsets and scales
    of the data, which a pull towards zero would falsify.
    """
    groups: dict[tuple[str, float], list[Tensor]] = {}
    for name, decays, parameter in _sorted_parameters(model):
        key = (name if name in separate else "", weight_decay if decays else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "name": name}
        for (name, decay), parameters in groups.items()
    ]


def _sorted_parameters(model: nn.Module) -> list[tuple[str, bool, Tensor]]:
    """Return (group, whether it decays, parameter) of all trainable parameters."""
    if isinstance(model, HasParameterGroups):
        named = [
            (name, name in DECAYING, p) for name, group in model.parameter_groups().items() for p in group
        ]
    else:
        named = [("", parameter.ndim >= 2, parameter) for parameter in model.parameters()]
    return [item for item in named if item[2].requires_grad]


def group_names(model: nn.Module) -> tuple[str, ...]:
    """Return the groups of weights a model has; none for a model that does not sort them."""
    groups = model.parameter_groups() if isinstance(model, HasParameterGroups) else {}
    return tuple(name for name, parameters in groups.items() if parameters)


def adam(options: AdamOptions, model: nn.Module, separate: Collection[str] = ()) -> Optimizer:
    """Return Adam (Kingma and Ba, arXiv:1412.6980); weight decay is added to the gradient."""
    return Adam(parameter_groups(model, options.weight_decay, separate), **_adam_arguments(options))


def adamw(options: AdamOptions, model: nn.Module, separate: Collection[str] = ()) -> Optimizer:
    """Return AdamW (Loshchilov and Hutter, arXiv:1711.05101); weights decay apart from the gradient."""
    return AdamW(parameter_groups(model, options.weight_decay, separate), **_adam_arguments(options))


def _adam_arguments(options: AdamOptions) -> dict[str, Any]:
    """Return the keyword arguments Adam and AdamW share; one fused kernel steps all parameters."""
    return {"betas": options.betas, "eps": options.eps, "amsgrad": options.amsgrad, "fused": True}


def schedule_free(
    options: ScheduleFreeOptions, model: nn.Module, separate: Collection[str] = ()
) -> Optimizer:
    """Return schedule-free AdamW."""
    return ScheduleFreeAdamW(parameter_groups(model, options.weight_decay, separate), options)


def set_learning_rates(
    optimizer: Optimizer, lr: float, lr_groups: Mapping[str, float], rate: Callable[[float], float]
) -> None:
    """Set ``rate(lr)`` for all parameters, with a group's own ``lr`` where it has one.

    The optimizer's other state stays.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate(lr_groups.get(group["name"], lr))


class ScheduleFreeAdamW(Optimizer):
    r"""AdamW without a learning-rate schedule: an average of the iterates takes its place.

    With base sequence z, average x and the point y where the gradient g is taken (the parameters):

    .. math:: y_t = (1 - \beta_1) z_t + \beta_1 x_t, \quad
        z_{t+1} = z_t - \gamma_t \left(g_t / (\sqrt{\hat v_t} + \epsilon) + \lambda y_t\right), \quad
        x_{t+1} = (1 - c_{t+1}) x_t + c_{t+1} z_{t+1}

    with :math:`c_{t+1} = \gamma_t^2 / \sum_{i \le t} \gamma_i^2`. All three sequences are kept, so that
    looking at the average (:meth:`averaged`) never touches the parameters and a restart is exact.

    References
    ----------
    Defazio et al., The Road Less Scheduled (2024), algorithm 1. arXiv:2405.15682
    """

    def __init__(self, groups: ParameterGroups, options: ScheduleFreeOptions) -> None:
        super().__init__(groups, {"lr": 0.0, "steps": 0, "weight_sum": 0.0})
        self.options = options

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients at hand; parameters without a gradient stay."""
        if closure is not None:
            raise NotImplementedError("schedule-free AdamW takes no closure")
        for group in self.param_groups:
            self._step_group(group)

    def _step_group(self, group: dict[str, Any]) -> None:
        active = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not active:
            return
        group["steps"] += 1
        steps, (beta_1, beta_2) = group["steps"], self.options.betas
        lr = group["lr"] * min(1.0, steps / max(1, self.options.warmup_steps))
        group["weight_sum"] += lr**2
        share = lr**2 / group["weight_sum"] if group["weight_sum"] else 0.0

        states = [self._state_of(parameter) for parameter in active]
        bases, averages, squares = ([state[key] for state in states] for key in ("base", "average", "square"))
        gradients = [parameter.grad for parameter in active]
        torch._foreach_mul_(squares, beta_2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - beta_2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, math.sqrt(1.0 - beta_2**steps))
        torch._foreach_add_(roots, self.options.eps)
        torch._foreach_addcdiv_(bases, gradients, roots, -lr)
        if group["weight_decay"]:
            torch._foreach_add_(bases, active, alpha=-lr * group["weight_decay"])
        torch._foreach_lerp_(averages, bases, share)
        torch._foreach_copy_(active, torch._foreach_lerp(bases, averages, beta_1))

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["base"] = parameter.detach().clone()
            state["average"] = parameter.detach().clone()
            state["square"] = torch.zeros_like(parameter)
        return state

    def averaged(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        """Return the averaged weights; a parameter that never had a gradient stands for itself."""
        return [
            self.state[parameter]["average"] if parameter in self.state else parameter.detach()
            for parameter in parameters
        ]
