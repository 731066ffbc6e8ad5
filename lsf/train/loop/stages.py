"""Training from a recipe: stage after stage, with evaluations, best weights, checkpoints and tables.

A stage has its own losses and learning rate; weights, their average and the optimizer's state go on from
one stage to the next. The best weights are chosen within a stage, by the validation loss of that stage,
and written as ``<name>_<stage>.safetensors``; those of the last stage are the final model.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from torch import Tensor, nn

from lsf.data.graph import AtomGraph
from lsf.errors import DataError, Problem
from lsf.recipe.schema import Recipe
from lsf.report.tables import Table
from lsf.train.averaging import copy_weights
from lsf.train.loop.checkpoint import Best, SaveClock
from lsf.train.loop.distributed import ALONE, World
from lsf.train.loop.epoch import (
    EpochSums,
    TrainingError,
    epoch_batches,
    frame_names,
    frames_with_bad_numbers,
    run_epoch,
)
from lsf.train.loop.interrupt import StopRequest, TrainingInterrupted
from lsf.train.loop.session import Save, Session, Splits
from lsf.train.objective.error_tables import build_error_table
from lsf.train.objective.evaluation import Evaluate, evaluate_splits, model_evaluate
from lsf.train.objective.labels import missing_labels
from lsf.train.objective.losses import StageLoss, build_stage_loss
from lsf.train.objective.metrics import SplitMetrics
from lsf.train.progress import Observer, Record, Reporter, error_text, history_of


@attrs.frozen
class TrainResult:
    """What a training leaves: ``model`` holds the best weights of the last stage.

    ``history`` has one record per epoch (see :func:`lsf.train.progress.history_of`), ``metrics`` the errors
    by split (train, valid, and each test set by its name), ``table`` the same as the recipe wants it shown.
    """

    model: nn.Module
    history: list[Record]
    model_file: Path
    stage_files: dict[str, Path]
    metrics: dict[str, SplitMetrics]
    table: Table
    best_epoch: int
    best_loss: float
    seconds: float


def train(
    recipe: Recipe,
    model: nn.Module,
    splits: Splits,
    folder: Path,
    log: logging.Logger,
    *,
    save: Save,
    identity: str,
    console: Console | None = None,
    resume: bool = True,
    evaluate: Evaluate = model_evaluate,
    observers: Sequence[Observer] = (),
    world: World = ALONE,
    clock: SaveClock | None = None,
) -> TrainResult:
    """Train a model as the recipe says, leaving everything in ``folder``.

    Parameters
    ----------
    recipe : stages, losses, optimizer and all other settings
    model : on the device to train on
    splits : frames to train on, to validate and to test
    folder : run folder; gets checkpoints, ``metrics.jsonl`` and model files
    log : gets the epoch lines, the frequent ones at level DEBUG
    save : writes a model file; called at the end of every stage and of the run
    identity : the settings of the run as text; a checkpoint is taken up only by a run with the same
    console : shows a progress bar where it is a terminal
    resume : go on from ``folder/checkpoints/last.pt`` where there is one; else start anew
    evaluate : computes a model's outputs
    observers : are told every line of ``metrics.jsonl``
    world : processes that train together; only the main one writes files
    clock : says when a checkpoint is due; by default as the time they take allows

    Returns
    -------
    TrainResult, with the errors on all splits

    Raises
    ------
    lsf.errors.DataError
        when a loss has no label among the training frames
    lsf.train.loop.checkpoint.CheckpointError
        when the checkpoint found is damaged or of another run
    lsf.train.loop.epoch.TrainingError
        when a loss or gradient is not finite; names the frames
    lsf.train.loop.interrupt.TrainingInterrupted
        on Ctrl-C or SIGTERM, after a checkpoint was written; says how to resume
    """
    losses = check_labels(recipe, splits.train)
    if recipe.training.compile:
        from lsf.train.loop.compiled import CompiledSteps

        evaluate = CompiledSteps(log, evaluate)
    session = Session.begin(
        recipe, model, splits, folder, log, save, identity, evaluate, observers, world, clock
    )
    if session.valid is None:
        log.warning("no validation frames: the best weights are chosen by the training loss")
    session.start(resume)
    if session.position.stage == len(recipe.stages):
        log.info("all epochs are done: nothing is left to train")
    steps = session.steps_per_epoch
    done = session.epoch * steps + session.position.step
    with StopRequest() as stop, Reporter(session.total_epochs * steps, done, log, console) as reporter:
        while session.position.stage < len(recipe.stages):
            _StageRun(session, losses[session.position.stage], stop, reporter).run()
    return _finish(session)


def check_labels(recipe: Recipe, graphs: Sequence[AtomGraph]) -> list[StageLoss]:
    """Return the loss of every stage; DataError where a training set has none of the labels it needs."""
    losses = [build_stage_loss(stage.loss, recipe.electrostatics) for stage in recipe.stages]
    problems: list[Problem] = []
    for stage, loss in zip(recipe.stages, losses, strict=True):
        problems += missing_labels(loss.needs, graphs, recipe.data.train, stage.name)
    if problems:
        raise DataError("the training frames lack labels that losses need", problems)
    return losses


@attrs.frozen
class _StageRun:
    """One stage of a session, from where it stands to its end."""

    session: Session
    loss: StageLoss
    stop: StopRequest
    reporter: Reporter

    def run(self) -> None:
        """Run the rest of the stage and write its best model."""
        session = self.session
        stage, position = session.stage, session.position
        if position.best is not None and position.best.stage != position.stage:
            position.best = None
        self.reporter.describe(stage.name)
        while not self.is_over():
            session.set_learning_rates()
            self.run_epoch()
            self.stop_if_asked()
            if not self.is_over() and session.clock.due():
                session.save()
        self.skip_rest()
        session.save_best_model(session.stage_file(stage))
        session.next_stage()
        session.save()
        self.stop_if_asked()

    def is_over(self) -> bool:
        """Return whether the stage has had all its epochs or has waited for a better loss long enough."""
        position, patience = self.session.position, self.session.recipe.training.patience
        out_of_patience = patience is not None and position.waited >= patience
        return position.epoch >= self.session.stage.epochs or out_of_patience

    def skip_rest(self) -> None:
        """Leave out the epochs of a stage that ended early."""
        session, position, stage = self.session, self.session.position, self.session.stage
        rest = stage.epochs - position.epoch
        if rest == 0:
            return
        session.log.info(
            "stage %s ends after %d of %d epochs: no better validation loss in %d evaluations",
            stage.name,
            position.epoch,
            stage.epochs,
            position.waited,
        )
        self.reporter.skip(rest * session.steps_per_epoch)

    def run_epoch(self) -> None:
        """Take the remaining steps of an epoch, evaluate where it is due, and write down how it went."""
        session, position = self.session, self.session.position
        recipe, frames = session.recipe, session.frames
        batches = epoch_batches(len(frames.graphs), recipe.training.batch_size, recipe.seed, session.epoch)
        sums = EpochSums(position.epoch_terms, position.epoch_seconds)

        def after_step() -> None:
            position.step += 1
            position.epoch_terms, position.epoch_seconds = sums.terms, sums.seconds
            self.reporter.step()
            self.stop_if_asked()
            if session.clock.due_within_epoch():
                session.save()

        rest = batches[position.step :]
        run_epoch(session.learner, self.loss, frames, rest, sums, after_step, self.on_bad_numbers)
        position.epoch, position.step = position.epoch + 1, 0
        position.epoch_terms, position.epoch_seconds = None, 0.0
        assert sums.terms is not None
        self.record_epoch(sums.terms, sums.seconds)

    def stop_if_asked(self) -> None:
        """Save and stop when Ctrl-C was pressed or the process was asked to end."""
        session = self.session
        if not session.world.any(self.stop.received is not None):
            return
        session.save()
        raise TrainingInterrupted(
            f"stopped by {self.stop.received or 'another process'} after {session.where()}; everything is "
            f"saved in {session.last_file}: run the same command again to resume"
        )

    def on_bad_numbers(self, indices: Sequence[int]) -> None:
        """Save the weights, which the bad batch has not touched, and raise with the frames' names."""
        session = self.session
        session.save()
        bad = frames_with_bad_numbers(session.learner, self.loss, session.frames, indices)
        raise TrainingError(
            f"training stopped after {session.where()}: the loss or its gradient is not a finite number in"
            f"{frame_names(bad, session.recipe.data.train)}\n"
            f"look at these frames, or lower stages.{session.position.stage}.lr = {session.stage.lr:g}; the "
            f"weights from before this step are saved in {session.last_file}"
        )

    def record_epoch(self, terms: Tensor, seconds: float) -> None:
        """Evaluate where it is due, keep the best weights, and write the lines of the epoch."""
        session, position, stage = self.session, self.session.position, self.session.stage
        common = {"epoch": session.epoch, "stage": stage.name, "lr": session.lr}
        session.scheduler.epoch_ended()
        score = self.loss.combine(terms).item()
        named = self.loss.named(terms)
        records: list[Record] = [
            {"kind": "train", **common, "loss": score, "terms": named, "seconds": seconds}
        ]
        position.seconds += seconds
        last = position.epoch == stage.epochs
        if last or position.epoch % session.recipe.training.eval_interval == 0:
            started = time.perf_counter()
            valid = self.validate()
            errors = ""
            if valid is not None:
                elapsed = time.perf_counter() - started
                position.seconds += elapsed
                records.append(_eval_record("eval", "valid", valid, common, elapsed))
                score, errors = valid.loss, f", {error_text(valid)}"
            self.keep_if_best(score)
            session.scheduler.evaluated(score)
            place = f"Epoch {session.epoch}/{session.total_epochs} {stage.name}"
            self.reporter.line(f"{place}: loss={score:.4g}{errors}", always=last)
        session.record(*records)

    def validate(self) -> SplitMetrics | None:
        """Return errors and loss of the averaged weights on the validation frames, if there are any."""
        session, learner = self.session, self.session.learner
        if session.valid is None:
            return None
        metrics = session.valid.metrics(learner.model, learner.average.weights(), self.loss, learner.evaluate)
        if not math.isfinite(metrics.loss):
            raise TrainingError(
                f"training stopped after {session.where()}: the validation loss is not a finite number; "
                f"lower stages.{session.position.stage}.lr = {session.stage.lr:g}, or look at the validation "
                f"frames; the last good weights are in {session.last_file}"
            )
        return metrics

    def keep_if_best(self, score: float) -> None:
        """Keep a copy of the averaged weights when their loss is the lowest of the stage."""
        session, position = self.session, self.session.position
        if position.best is None or score < position.best.loss:
            weights = [weight.clone() for weight in session.learner.average.weights()]
            position.best = Best(position.stage, session.epoch, score, weights)
            position.waited = 0
        else:
            position.waited += 1


def _finish(session: Session) -> TrainResult:
    """Write the final model, then evaluate it on all frames: nothing is lost if that fails."""
    recipe, model, best = session.recipe, session.learner.model, session.position.best
    assert best is not None
    model_file = session.folder / f"{recipe.name}.safetensors"
    session.save_best_model(model_file)
    copy_weights(model, best.weights)
    splits = {"train": session.splits.train, "valid": session.splits.valid, **session.splits.tests}
    batch_size = recipe.training.valid_batch_size or recipe.training.batch_size
    metrics = evaluate_splits(model, splits, batch_size, session.learner.evaluate, session.world)
    common = {"epoch": best.epoch, "stage": recipe.stages[best.stage].name, "lr": None}
    records = [_eval_record("final", name, split, common, None) for name, split in metrics.items()]
    session.record(*records)
    session.world.any(False)  # all lines are written before anyone reads them
    return TrainResult(
        model=model,
        history=history_of(session.metrics_file.read()),
        model_file=model_file,
        stage_files={stage.name: session.stage_file(stage) for stage in recipe.stages},
        metrics=metrics,
        table=build_error_table(recipe.training.error_table)(metrics, f"Errors of {recipe.name}"),
        best_epoch=best.epoch,
        best_loss=best.loss,
        seconds=session.position.seconds,
    )


def _eval_record(
    kind: str, split: str, metrics: SplitMetrics, common: Mapping[str, Any], seconds: float | None
) -> Record:
    """Return the line of ``metrics.jsonl`` for the errors on one set of frames."""
    return {
        "kind": kind,
        "split": split,
        **common,
        "loss": metrics.loss,
        "terms": dict(metrics.terms),
        "rmse": metrics.rmse(),
        "mae": metrics.mae(),
        "seconds": seconds,
    }
