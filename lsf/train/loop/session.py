"""A training under way: what is constant, how far it is, and how it is saved and taken up again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
from torch import nn

from lsf.data.graph import AtomGraph
from lsf.recipe.catalog import catalog
from lsf.recipe.schema import Recipe, Stage
from lsf.train.averaging import build_average, weights_in_place
from lsf.train.loop.batching import BatchSource, batch_source
from lsf.train.loop.checkpoint import (
    Position,
    SaveClock,
    fingerprint_of,
    read_checkpoint,
    remove_leftovers,
    write_best,
    write_checkpoint,
)
from lsf.train.loop.distributed import ALONE, World
from lsf.train.loop.epoch import Learner, steps_per_epoch
from lsf.train.objective.evaluation import Evaluate, EvaluationSet, device_of
from lsf.train.optimizer import group_names, set_learning_rates
from lsf.train.progress import MetricsFile, Observer, Record
from lsf.train.schedulers import Scheduler


class Splits(Protocol):
    """The frames of a run; :class:`lsf.data.loader.DataSplits` is one."""

    @property
    def train(self) -> Sequence[AtomGraph]:
        """Frames the weights are fitted to."""

    @property
    def valid(self) -> Sequence[AtomGraph]:
        """Frames the best weights are chosen by; may be empty."""

    @property
    def tests(self) -> Mapping[str, Sequence[AtomGraph]]:
        """Named sets for the final tables."""


class Save(Protocol):
    """Writes the model, as it stands, with a few more strings beside what every model file says."""

    def __call__(self, model: nn.Module, path: Path, extra_metadata: Mapping[str, str], /) -> object:
        """Write the file whole or not at all."""


def build_learner(recipe: Recipe, model: nn.Module, evaluate: Evaluate, world: World = ALONE) -> Learner:
    """Return the model with its optimizer and the average of its weights."""
    settings = recipe.training
    choice = settings.optimizer
    separate = {name for stage in recipe.stages for name in stage.lr_groups}
    optimizer = catalog().entry("optimizers", choice.use).target()(choice.options, model, separate)
    world.same(list(model.parameters()))
    average = build_average(model, optimizer, settings.ema_decay)
    return Learner(model, optimizer, average, evaluate, device_of(model), settings.clip_grad, world)


def build_scheduler(recipe: Recipe) -> Scheduler:
    """Return the scheduler of a stage, as it begins."""
    choice = recipe.training.scheduler
    scheduler: Scheduler = catalog().entry("schedulers", choice.use).target()(choice.options)
    return scheduler


def build_valid(recipe: Recipe, splits: Splits, learner: Learner) -> EvaluationSet | None:
    """Return the validation frames, collated for good; None where there are none."""
    settings = recipe.training
    if not splits.valid:
        return None
    batch_size = settings.valid_batch_size or settings.batch_size
    return EvaluationSet.build(splits.valid, batch_size, learner.device, learner.world)


@attrs.define
class Session:
    """A training under way; only ``position`` and what it says about saving change."""

    recipe: Recipe
    splits: Splits
    learner: Learner
    frames: BatchSource
    valid: EvaluationSet | None
    folder: Path
    log: logging.Logger
    save_model: Save
    fingerprint: str
    scheduler: Scheduler
    observers: Sequence[Observer]
    clock: SaveClock
    position: Position = attrs.field(factory=Position)
    best_written: int = 0

    @classmethod
    def begin(
        cls,
        recipe: Recipe,
        model: nn.Module,
        splits: Splits,
        folder: Path,
        log: logging.Logger,
        save: Save,
        identity: str,
        evaluate: Evaluate,
        observers: Sequence[Observer] = (),
        world: World = ALONE,
        clock: SaveClock | None = None,
    ) -> Session:
        """Return a session that has done nothing yet."""
        learner = build_learner(recipe, model, evaluate, world)
        fingerprint = fingerprint_of(identity, splits.train, splits.valid)
        valid = build_valid(recipe, splits, learner)
        frames = batch_source(splits.train, learner.device)
        scheduler = build_scheduler(recipe)
        session = cls(
            recipe,
            splits,
            learner,
            frames,
            valid,
            folder,
            log,
            save,
            fingerprint,
            scheduler,
            observers,
            clock or SaveClock(),
        )
        session.warn_of_unknown_groups()
        return session

    def warn_of_unknown_groups(self) -> None:
        """Say which learning rates have no effect on this model."""
        known = group_names(self.learner.model)
        for stage in self.recipe.stages:
            for name in stage.lr_groups:
                if name not in known:
                    self.log.warning(
                        "lr_groups.%s of stage %s has no effect: this model has no such weights; it has %s",
                        name,
                        stage.name,
                        ", ".join(known) or "no groups",
                    )

    @property
    def world(self) -> World:
        """The processes that train together."""
        return self.learner.world

    @property
    def stage(self) -> Stage:
        """The stage the run is in."""
        return self.recipe.stages[self.position.stage]

    @property
    def epoch(self) -> int:
        """The number of finished epochs, over all stages."""
        before = self.recipe.stages[: self.position.stage]
        return sum(stage.epochs for stage in before) + self.position.epoch

    @property
    def total_epochs(self) -> int:
        """The number of epochs of all stages."""
        return sum(stage.epochs for stage in self.recipe.stages)

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimizer steps of an epoch."""
        return steps_per_epoch(len(self.splits.train), self.recipe.training.batch_size)

    @property
    def last_file(self) -> Path:
        """The checkpoint to resume from."""
        return self.folder / "checkpoints" / "last.pt"

    @property
    def metrics_file(self) -> MetricsFile:
        """The JSON lines of the run."""
        return MetricsFile(self.folder / "metrics.jsonl")

    def record(self, *records: Record) -> None:
        """Write lines of the run's metrics and tell the observers."""
        if not self.world.main:
            return
        self.position.metrics_bytes = self.metrics_file.append(*records)
        for observer in self.observers:
            for record in records:
                observer(record)

    def where(self) -> str:
        """Return how far the run is, for messages."""
        place = f", step {self.position.step} of the next" if self.position.step else ""
        name = f" ({self.stage.name})" if self.position.stage < len(self.recipe.stages) else ""
        return f"epoch {self.epoch}/{self.total_epochs}{place}{name}"

    @property
    def lr(self) -> float:
        """The learning rate of this epoch."""
        return self.scheduler.rate(self.stage.lr)

    def set_learning_rates(self) -> None:
        """Give the optimizer the learning rates of this epoch."""
        stage = self.stage
        set_learning_rates(self.learner.optimizer, stage.lr, stage.lr_groups, self.scheduler.rate)

    def next_stage(self) -> None:
        """Go on to the beginning of the next stage."""
        position = self.position
        position.stage, position.epoch, position.waited = position.stage + 1, 0, 0
        self.scheduler = build_scheduler(self.recipe)

    def start(self, resume: bool) -> None:
        """Take up the last checkpoint, or begin anew and write the first one."""
        if self.world.agreed(resume and self.last_file.exists()):
            self._take_up()
        elif self.world.main:
            self._begin_anew()
        # nobody writes the next checkpoint while another process still reads this one
        self.world.any(False)

    def _begin_anew(self) -> None:
        shutil.rmtree(self.last_file.parent, ignore_errors=True)
        self.metrics_file.path.unlink(missing_ok=True)
        # written at once, so that an unwritable folder or a full disk shows before any work is done
        self.save()

    def _take_up(self) -> None:
        learner = self.learner
        self.position, content = read_checkpoint(self.last_file, self.fingerprint, learner.device)
        learner.model.load_state_dict(content["model"])
        learner.optimizer.load_state_dict(content["optimizer"])
        learner.average.load_state_dict(content["average"])
        self.scheduler.load_state_dict(content["scheduler"])
        if self.world.main:
            remove_leftovers(self.last_file.parent)
            self.metrics_file.truncate(self.position.metrics_bytes)
        self.log.info("resuming from %s, after %s", self.last_file, self.where())

    def save(self) -> None:
        """Write ``last.pt`` and, where they are new, the best weights of the stage."""
        if not self.world.main:
            return
        learner = self.learner
        states: dict[str, Any] = {
            "model": learner.model.state_dict(),
            "optimizer": learner.optimizer.state_dict(),
            "average": learner.average.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        with self.clock.writing():
            write_checkpoint(self.last_file, self.fingerprint, self.position, states)
            best = self.position.best
            if best is not None and best.epoch != self.best_written:
                names = [name for name, _ in learner.model.named_parameters()]
                path = self.last_file.with_name(f"best_{self.recipe.stages[best.stage].name}.pt")
                write_best(path, self.fingerprint, best, names)
                self.best_written = best.epoch

    def save_best_model(self, path: Path) -> None:
        """Write the stage's best weights as a model file."""
        best, model = self.position.best, self.learner.model
        assert best is not None
        if not self.world.main:
            return
        metadata = {
            "stage": self.recipe.stages[best.stage].name,
            "epoch": str(best.epoch),
            "training_loss" if self.valid is None else "validation_loss": repr(best.loss),
        }
        with weights_in_place(model, best.weights):
            self.save_model(model, path, metadata)
        self.log.info("wrote %s (best epoch %d, loss %.4g)", path, best.epoch, best.loss)

    def stage_file(self, stage: Stage) -> Path:
        """Return the model file of a stage."""
        return self.folder / f"{self.recipe.name}_{stage.name}.safetensors"
