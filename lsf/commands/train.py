"""A whole run: recipe → data → model → training → report, and the folder it leaves."""

from __future__ import annotations

import logging
import logging.handlers
import math
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import torch
from rich.console import Console
from rich.markup import escape

import lsf
from lsf.data.graph import AtomGraph
from lsf.data.lazy import LazyGraphs
from lsf.data.loader import DataSplits, load_data
from lsf.data.statistics import count_table
from lsf.errors import LsfError
from lsf.formats.model_file.file import load_model, save_model
from lsf.formats.model_file.start import read_start
from lsf.formats.write import exporter, write_formats
from lsf.machine.device import pick_device
from lsf.machine.files import replacing
from lsf.machine.threads import threads_for
from lsf.models.build import build_model
from lsf.models.inputs import check_charge_range
from lsf.recipe.quantities import measures
from lsf.recipe.read import resolved_toml
from lsf.recipe.rules import resolve
from lsf.recipe.run_identity import differences, identity_of
from lsf.recipe.schema import Recipe
from lsf.report.page import write_report
from lsf.report.plots import Panel
from lsf.report.tables import rich_table
from lsf.train.loop.distributed import device_of_process, is_main_process, world_of
from lsf.train.loop.interrupt import TrainingInterrupted
from lsf.train.loop.stages import TrainResult, check_labels, train
from lsf.train.objective.error_tables import brief_table
from lsf.train.objective.evaluation import labelled_pairs
from lsf.train.progress import Observer, Record
from lsf.train.trackers import tracking
from lsf.train.warm_start import start_from_file

if TYPE_CHECKING:
    from lsf.models.local_source import LocalSourceModel

RUNS: Final = Path("runs")
RESOLVED: Final = "recipe.resolved.toml"
REPORT: Final = "report"
PARITY_FRAMES: Final = 2000
"""Frames of a set that parity plots show at most; of larger sets every second, third, … one."""

LOG_LINES: Final = 10_000
"""Lines kept until the run folder exists."""


@attrs.frozen
class RunResult:
    """What a run leaves in its folder."""

    folder: Path
    model_file: Path
    report: Path
    training: TrainResult


def resolved_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a TOML file, ready to run, completed by the model file it may start from.

    Raises :class:`lsf.errors.RecipeError` with everything that is wrong.
    """
    return resolve(path, overrides, read_start=read_start)


def check_recipe(path: str | Path, overrides: Sequence[str], console: Console) -> None:
    """Validate a recipe, read and check its data, build its model, and print what would be trained.

    Raises :class:`lsf.errors.LsfError` with everything that is wrong.
    """
    recipe = resolved_recipe(path, overrides)
    with _logging(console) as log:
        splits = load_data(recipe, log)
        model = _prepare(recipe, splits, log)
    _print_plan(recipe, splits, model, console)
    console.print("The recipe and its data are fine; nothing was trained.", highlight=False)


def run_recipe(
    path: str | Path,
    overrides: Sequence[str],
    out: str | Path | None,
    fresh: bool,
    console: Console,
    observers: Sequence[Observer] = (),
    handlers: Sequence[logging.Handler] | None = None,
    remarks: Sequence[str] = (),
) -> RunResult:
    """Train a model as a recipe says and return what was left in the run folder.

    A run folder with checkpoints of the same recipe is taken up where it stopped. ``observers`` are told
    how much data there is (kind "data"), then every line of ``metrics.jsonl``; ``handlers`` take the log's
    messages in place of the console; ``remarks`` go into the log. Of several processes started by torchrun
    only the first one writes files and speaks. Raises :class:`lsf.errors.LsfError` on bad input, and when the
    folder holds a run of another recipe.
    """
    recipe = resolved_recipe(path, overrides)
    for name in recipe.export.formats:
        exporter(name)
    if not is_main_process():
        console, handlers, observers = Console(quiet=True), (), ()
    folder = Path(out) if out is not None else RUNS / recipe.name
    _claim(folder, recipe, fresh)
    with _logging(console, handlers) as log, tracking(recipe, folder) as trackers:
        splits = load_data(recipe, log)
        for observer in observers:
            observer(_data_record(splits))
        model = _prepare(recipe, splits, log)
        _print_plan(recipe, splits, model, console)
        if is_main_process():
            with replacing(folder / RESOLVED) as temporary:
                temporary.write_text(resolved_toml(recipe), encoding="utf-8")
            _log_to(log, folder / "log.txt", fresh)
        for remark in remarks:
            log.info("%s", remark)
        for tracker in trackers:
            tracker.begin(model)
        with _resumable(folder), threads_for(_atoms_per_batch(recipe, splits), log):
            told: list[Observer] = [*observers, *trackers]
            result = _train(recipe, splits, model, folder, log, console, fresh, told)
            report = folder / REPORT
            if is_main_process():
                report = _report(recipe, splits, folder, result, console)
                write_formats(result.model_file, recipe.export.formats, console)
    return RunResult(folder, result.model_file, report, result)


def _train(
    recipe: Recipe,
    splits: DataSplits,
    model: LocalSourceModel,
    folder: Path,
    log: logging.Logger,
    console: Console,
    fresh: bool,
    observers: Sequence[Observer],
) -> TrainResult:
    """Train on this process's device, together with the others torchrun has started."""

    def save(trained: Any, file: Path, extra: Mapping[str, str]) -> None:
        save_model(trained, file, recipe, splits.facts, extra)

    device = device_of_process(torch.device(pick_device(recipe.device)))
    with world_of(device) as world:
        return train(
            recipe,
            model.to(device),
            splits,
            folder,
            log,
            save=save,
            identity=identity_of(recipe),
            console=console,
            resume=not fresh,
            observers=observers,
            world=world,
        )


def _atoms_per_batch(recipe: Recipe, splits: DataSplits) -> float:
    train = splits.counts[0]
    return train.atoms / train.frames * recipe.training.batch_size


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Let an interrupt that nobody was prepared for say that the run can be taken up again."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if str(interrupt) or not (folder / "checkpoints").is_dir():
            raise
        raise TrainingInterrupted(
            f"everything up to the last checkpoint is saved in {folder}: run the same command again to resume"
        ) from None


def _data_record(splits: DataSplits) -> Record:
    """Return how much there is: frames, atoms, labelled numbers and frames that have a label, by split."""
    counts = {count.split: attrs.asdict(count) for count in splits.counts}
    for count in counts.values():
        del count["split"]
    return {"kind": "data", "splits": counts}


def other_settings(folder: Path, recipe: Recipe) -> list[str]:
    """Return how the recipe of the run in a folder differs from this one; empty where no run is there."""
    stored = folder / RESOLVED
    return differences(stored.read_text(encoding="utf-8"), recipe) if stored.is_file() else []


def _claim(folder: Path, recipe: Recipe, fresh: bool) -> None:
    """Refuse a folder that holds a run of another recipe."""
    found = [] if fresh else other_settings(folder, recipe)
    if found:
        listed = "".join(f"\n  - {item}" for item in found)
        raise LsfError(
            f"{folder} holds a run of another recipe: give another folder with --out, "
            f"or start anew there with --fresh, which overwrites it{listed}"
        )


def _prepare(recipe: Recipe, splits: DataSplits, log: logging.Logger) -> LocalSourceModel:
    check_labels(recipe, splits.train)
    model = start_from_file(build_model(recipe, splits.facts), recipe, splits.facts, log, load_model)
    for graphs in (splits.train, splits.valid, *splits.tests.values()):
        check_charge_range(
            recipe.model.options, graphs.extremes() if isinstance(graphs, LazyGraphs) else graphs
        )
    size = sum(parameter.numel() for parameter in model.parameters())
    log.info("%s with %d parameters, %s", recipe.model.use, size, recipe.dtype)
    return model


def _report(recipe: Recipe, splits: DataSplits, folder: Path, result: TrainResult, console: Console) -> Path:
    """Print the errors, write the report and return its page."""
    brief = brief_table(recipe.training.error_table, result.metrics, splits.tests, result.table.title)
    console.print(rich_table(brief))
    tables = [brief, count_table(splits.counts)]
    if len(brief.rows) < len(result.table.rows):
        tables.append(attrs.evolve(result.table, title=f"{result.table.title} by config type"))
        console.print("The report has the errors of every config type.", highlight=False)
    batch_size = recipe.training.valid_batch_size or recipe.training.batch_size
    parity = {
        name: _panels(result.model, graphs, batch_size)
        for name, graphs in (("valid", splits.valid), *splits.tests.items())
        if graphs
    }
    versions = {"lsf": lsf.__version__, "torch": str(torch.__version__), "python": platform.python_version()}
    text = resolved_toml(recipe)
    report = write_report(folder / REPORT, recipe.name, result.history, parity, tables, text, versions)
    _print_files(result, report, console)
    return report


def _panels(model: Any, graphs: Sequence[AtomGraph], batch_size: int) -> list[Panel]:
    """Return the panels of a parity plot for a set of frames."""
    shown = graphs[:: math.ceil(len(graphs) / PARITY_FRAMES)]
    known = {name: measure for name, (_, measure) in measures().items() if measure.panel}
    return [
        Panel(
            known[name].panel,
            known[name].unit,
            known[name].shown_unit,
            known[name].factor,
            pair.target.numpy(),
            pair.predicted.numpy(),
        )
        for name, pair in labelled_pairs(model, shown, batch_size, tuple(known)).items()
    ]


def _print_plan(recipe: Recipe, splits: DataSplits, model: LocalSourceModel, console: Console) -> None:
    console.print(rich_table(count_table(splits.counts)))
    epochs = ", ".join(f"{stage.name} {stage.epochs} epochs" for stage in recipe.stages)
    console.print(
        f"[bold]{escape(recipe.name)}[/bold]: {recipe.model.use}, boundary "
        f"{recipe.electrostatics.boundary}, {sum(p.numel() for p in model.parameters())} parameters; "
        f"{escape(epochs)}",
        highlight=False,
    )


def _print_files(result: TrainResult, report: Path, console: Console) -> None:
    for label, file in (
        ("model", result.model_file),
        ("picture", report.parent / "losses.png"),
        ("report", report),
    ):
        console.print(f"{label:8} {escape(str(file))}", highlight=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------------------
# log


class _ConsoleHandler(logging.Handler):
    """Prints messages of level INFO and above above the progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        style = "yellow" if record.levelno >= logging.WARNING else ""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        self.console.print(f"{prefix}{record.getMessage()}", style=style, markup=False, highlight=False)


@contextmanager
def _logging(console: Console, handlers: Sequence[logging.Handler] | None = None) -> Iterator[logging.Logger]:
    """Yield a logger of this run: on the console now, in a file once :func:`_log_to` names one.

    ``handlers`` replace the console; all handlers are closed in the end.
    """
    log = logging.Logger("lsf.run", logging.DEBUG)
    for handler in (_ConsoleHandler(console),) if handlers is None else handlers:
        log.addHandler(handler)
    log.addHandler(logging.handlers.MemoryHandler(LOG_LINES, flushLevel=logging.CRITICAL + 1))
    try:
        yield log
    finally:
        for handler in list(log.handlers):
            log.removeHandler(handler)
            # what a full disk did not take was reported when it was logged
            with suppress(OSError):
                handler.close()


class _LogFile(logging.FileHandler):
    """A log file; where it can no longer be written, the run goes on without it."""

    def __init__(self, log: logging.Logger, path: Path, fresh: bool) -> None:
        super().__init__(path, mode="w" if fresh else "a", encoding="utf-8")
        self.log = log

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (its name in logging)
        """Say once that the file is given up; a mistake of ours is shown as always."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        with suppress(OSError):
            self.close()
        if self in self.log.handlers:
            self.log.removeHandler(self)
            self.log.warning("cannot write %s: %s; going on without it", self.baseFilename, error.strerror)


def _log_to(log: logging.Logger, path: Path, fresh: bool) -> None:
    """Write what was logged so far, and everything from now on, to a file."""
    file = _LogFile(log, path, fresh)
    log.addHandler(file)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for handler in list(log.handlers):
        if isinstance(handler, logging.handlers.MemoryHandler):
            log.removeHandler(handler)
            handler.setTarget(file)
            handler.close()
