"""Trackers: programs that draw the metrics of runs while they train. Their packages are optional.

A tracker is told every line of ``metrics.jsonl``. Builders take the tracker's options, the recipe and the run
folder; the registry entries stand in ``registry/trackers``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import attrs
from torch import nn

from lsf.errors import MissingExtraError
from lsf.options import at_least, option
from lsf.recipe.catalog import catalog
from lsf.recipe.read import as_table
from lsf.recipe.schema import Recipe
from lsf.train.loop.distributed import is_main_process
from lsf.train.progress import Record

EXTRA: Final = "trackers"
"""The extra that installs the packages."""


class RunTracker(Protocol):
    """Is told what happens in a run."""

    def begin(self, model: nn.Module) -> None:
        """Note that the training of a model begins."""

    def __call__(self, record: Record) -> None:
        """Take in one line of the metrics."""

    def close(self) -> None:
        """Note that the run is over, whether it was finished or not."""


@contextmanager
def tracking(recipe: Recipe, folder: Path) -> Iterator[list[RunTracker]]:
    """Yield the trackers of a recipe and close them in the end; of several processes one tracks.

    Raises :class:`lsf.errors.MissingExtraError` when the package of one is not installed.
    """
    with ExitStack() as stack:
        trackers: list[RunTracker] = []
        for name, chosen in recipe.trackers.items() if is_main_process() else ():
            tracker = catalog().entry("trackers", name).target()(chosen.options, recipe, folder)
            stack.callback(tracker.close)
            trackers.append(tracker)
        yield trackers


def numbers_of(record: Record) -> dict[str, float]:
    """Return the numbers of a line of the metrics by name: ``train/loss``, ``valid/rmse/forces``, ….

    What is not finite or not there (no label) is left out.
    """
    if record["kind"] == "train":
        named = {"loss": record["loss"], "lr": record["lr"], **_prefixed("term", record["terms"])}
        return _finite("train", named)
    if record["kind"] in ("eval", "final"):
        errors = _prefixed("rmse", record["rmse"]) | _prefixed("mae", record["mae"])
        place = record["split"] if record["kind"] == "eval" else f"final/{record['split']}"
        return _finite(place, {"loss": record["loss"], **_prefixed("term", record["terms"]), **errors})
    return {}


def _prefixed(prefix: str, values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _finite(prefix: str, values: Mapping[str, float | None]) -> dict[str, float]:
    return {
        f"{prefix}/{name}": value
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    }


@attrs.frozen
class TensorBoardOptions:
    """Options of TensorBoard."""

    folder: str | None = option(
        "Folder of the event files; tensorboard in the run folder where not given. Point TensorBoard at the "
        "folder above to see several runs side by side.",
        default=None,
    )


class TensorBoardTracker:
    """Writes event files for TensorBoard."""

    def __init__(self, options: TensorBoardOptions, _recipe: Recipe, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", EXTRA, "the tracker tensorboard") from error
        self.open = SummaryWriter
        self.folder = folder / "tensorboard" if options.folder is None else Path(options.folder)
        self.writer: Any = None

    def begin(self, model: nn.Module) -> None:
        """Do nothing: the file is opened by the first number."""

    def __call__(self, record: Record) -> None:
        """Write the numbers of one line, at its epoch."""
        numbers = numbers_of(record)
        if numbers and self.writer is None:
            # what an interrupted run wrote from this epoch on is gone through again
            self.writer = self.open(str(self.folder), purge_step=record["epoch"])
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, record["epoch"])

    def close(self) -> None:
        """Write everything to the disk."""
        if self.writer is not None:
            self.writer.close()


@attrs.frozen
class WandbOptions:
    """Options of Weights & Biases."""

    project: str | None = option(
        "Project the run belongs to. Without it the run goes where wandb is set up to put it.", default=None
    )
    entity: str | None = option(
        "User or team the project belongs to. Without it that of the login.", default=None
    )
    name: str | None = option("Name of the run; the recipe's name where not given.", default=None)
    folder: str | None = option(
        "Folder of wandb's own files; the run folder where not given. WANDB_MODE=offline keeps everything "
        "there.",
        default=None,
    )
    watch: Literal["off", "gradients", "parameters", "all"] = option(
        "Histograms of the model to send. They take time and space.", default="off"
    )
    watch_log_freq: int = option(
        "Number of forward passes from one histogram to the next. Fewer take more time.",
        default=50,
        validator=at_least(1),
    )


class WandbTracker:
    """Sends metrics and the whole recipe to Weights & Biases."""

    def __init__(self, options: WandbOptions, recipe: Recipe, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("wandb", EXTRA, "the tracker wandb") from error
        self.wandb: Any = wandb
        self.options = options
        self.recipe = recipe
        self.folder = folder
        self.run: Any = None

    def begin(self, model: nn.Module) -> None:
        """Start the run, and watch the model where that is asked for."""
        options = self.options
        self.run = self.wandb.init(
            project=options.project,
            entity=options.entity,
            name=options.name or self.recipe.name,
            dir=str(self.folder) if options.folder is None else options.folder,
            config=as_table(self.recipe),
        )
        if options.watch != "off":
            self.run.watch(model, log=options.watch, log_freq=options.watch_log_freq)

    def __call__(self, record: Record) -> None:
        """Send the numbers of one line, at its epoch; the final errors become the run's summary."""
        numbers = numbers_of(record)
        if record["kind"] == "final":
            # their epoch is that of the best weights, and wandb takes no step back
            self.run.summary.update(numbers)
        elif numbers:
            self.run.log(numbers, step=record["epoch"])

    def close(self) -> None:
        """Send what is left."""
        if self.run is not None:
            self.run.finish()
