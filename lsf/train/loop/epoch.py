"""One optimizer step, one epoch: the inner part of training, and its guard against bad numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer

from lsf.data.graph import AtomGraph
from lsf.errors import LsfError
from lsf.train.averaging import Average
from lsf.train.loop.batching import BatchSource
from lsf.train.loop.distributed import ALONE, World
from lsf.train.objective.evaluation import Evaluate
from lsf.train.objective.losses import StageLoss


class TrainingError(LsfError):
    """Training cannot go on: a loss or gradient is not a finite number, or nothing can be learned."""


@attrs.frozen
class Learner:
    """A model with what changes its weights."""

    model: nn.Module
    optimizer: Optimizer
    average: Average
    evaluate: Evaluate
    device: torch.device
    clip_grad: float | None
    world: World = ALONE

    def gradient(self, loss: StageLoss, frames: BatchSource, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Set the gradients of a batch; return its loss sums (2, n_terms) and whether all is finite.

        Of several processes each differentiates its share; sums and gradients are those of the whole batch.
        Gradients are scaled down to the norm ``clip_grad`` where they are longer.
        """
        self.optimizer.zero_grad(set_to_none=True)
        share = self.world.share(indices)
        terms = torch.zeros((2, len(loss.names)), dtype=torch.float64, device=self.device)
        if share:
            batch = frames.batch(share)
            predictions = self.evaluate(self.model, batch, loss.compute, create_graph=True)
            terms = loss.terms(predictions, batch)
            if not terms.requires_grad:
                raise TrainingError(
                    f"the losses {', '.join(loss.names)} do not depend on any trainable weight of this model"
                )
        totals = self.world.sum(terms.detach())
        value = loss.combine(totals)
        if share:
            # the share's squares over the counts of the whole batch: these parts add up to its loss
            loss.combine(torch.stack((terms[0], totals[1]))).backward()
        self.world.sum_gradients(list(self.model.parameters()))
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.clip_grad is None:
            norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        else:
            norm = clip_grad_norm_(parameters, self.clip_grad)
        return totals, torch.isfinite(value + norm)

    def step(self) -> None:
        """Move the weights along the gradients at hand."""
        self.optimizer.step()
        self.average.update()


def epoch_batches(n_frames: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the frames of every batch of an epoch, in an order that depends on seed and epoch alone.

    A resumed run therefore finds the same batches without any stored state. Sizes differ by one at most,
    so that no frame gets an optimizer step of its own for being left over.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n_frames)
    return [part.tolist() for part in np.array_split(order, steps_per_epoch(n_frames, batch_size))]


def steps_per_epoch(n_frames: int, batch_size: int) -> int:
    """Return the number of batches of an epoch."""
    return max(1, math.ceil(n_frames / batch_size))


@attrs.define
class EpochSums:
    """What an epoch adds up over its steps: loss sums (2, n_terms) and time."""

    terms: Tensor | None = None
    seconds: float = 0.0


def run_epoch(
    learner: Learner,
    loss: StageLoss,
    frames: BatchSource,
    batches: Sequence[Sequence[int]],
    sums: EpochSums,
    after_step: Callable[[], None],
    on_bad_numbers: Callable[[Sequence[int]], None],
) -> None:
    """Take one optimizer step per batch, adding to ``sums``.

    A batch whose loss or gradient is not finite changes no weight: it goes to ``on_bad_numbers``, which
    must raise.
    """
    for indices in batches:
        started = time.perf_counter()
        terms, finite = learner.gradient(loss, frames, indices)
        if not finite:
            on_bad_numbers(indices)
        learner.step()
        sums.terms = terms if sums.terms is None else sums.terms + terms
        sums.seconds += time.perf_counter() - started
        after_step()


def frames_with_bad_numbers(
    learner: Learner, loss: StageLoss, frames: BatchSource, indices: Sequence[int]
) -> list[AtomGraph]:
    """Return the frames that give a loss or gradient that is not finite on their own; all if none does."""
    bad = [index for index in indices if not learner.gradient(loss, frames, [index])[1]]
    learner.optimizer.zero_grad(set_to_none=True)
    return [frames.graphs[index] for index in bad or indices]


def frame_names(graphs: Sequence[AtomGraph], source: str, limit: int = 10) -> str:
    """Return where the frames stand: file, position in it, config type."""
    names = [
        f"{source}, frame {int(graph.frame_index)} ({graph.config_type}, {graph.num_nodes} atoms)"
        for graph in graphs[:limit]
    ]
    rest = len(graphs) - limit
    return "\n".join(["", *names, *([f"and {rest} more"] if rest > 0 else [])]).replace("\n", "\n  - ")
