"""What a run says while it trains: log lines, a progress bar with the time left, ``metrics.jsonl``."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lsf.errors import LsfError
from lsf.recipe.quantities import measures
from lsf.report.tables import format_cell
from lsf.train.objective.metrics import SplitMetrics

LINE_INTERVAL: Final = 5.0
"""Seconds between two epoch lines at level INFO; those in between are of level DEBUG."""

Record = dict[str, Any]

Observer = Callable[[Record], None]
"""Is told every line of ``metrics.jsonl`` as it is written: trackers, logs in another format."""


class MetricsFile:
    """A file of JSON lines; what cannot be a JSON number (NaN) is written as null."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def truncate(self, size: int) -> None:
        """Drop the lines after the first ``size`` bytes: epochs that a resumed run goes through again."""
        if self.path.exists() and self.path.stat().st_size > size:
            with self.path.open("rb+") as file:
                file.truncate(size)

    def append(self, *records: Record) -> int:
        """Append records and return the file's length; LsfError when it cannot be written."""
        text = "".join(json.dumps(_finite(record), ensure_ascii=False) + "\n" for record in records)
        try:
            with self.path.open("ab") as file:
                file.write(text.encode())
                return file.tell()
        except OSError as error:
            raise LsfError(f"cannot write {self.path}: {error.strerror}; checkpoints are intact") from error

    def read(self) -> list[Record]:
        """Return all records; none where there is no file yet."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]


def _finite(value: Any) -> Any:
    """Return the value with NaN and infinities, which JSON does not know, as None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def history_of(records: list[Record]) -> list[Record]:
    """Return one flat record per epoch out of the lines of a run.

    Keys: ``epoch``, ``stage``, ``lr``, ``train_loss``, ``seconds``; after epochs with an evaluation also
    ``valid_loss``, ``rmse_<quantity>`` and ``mae_<quantity>``.
    """
    history: dict[int, Record] = {}
    for record in records:
        if record["kind"] == "train":
            history[record["epoch"]] = {
                "epoch": record["epoch"],
                "stage": record["stage"],
                "lr": record["lr"],
                "train_loss": record["loss"],
                "seconds": record["seconds"],
            }
        elif record["kind"] == "eval":
            history[record["epoch"]] |= {
                "valid_loss": record["loss"],
                **{f"rmse_{name}": value for name, value in record["rmse"].items()},
                **{f"mae_{name}": value for name, value in record["mae"].items()},
            }
    return list(history.values())


def error_text(metrics: SplitMetrics) -> str:
    """Return the errors as ``E=3.2 meV/atom, F=61.0 meV/Å, …``."""
    shown = [
        f"{measure.symbol}={format_cell(measure.factor * metrics.errors[name].rmse)} {measure.shown_unit}"
        for name, (_, measure) in measures().items()
        if measure.in_progress and name in metrics.errors
    ]
    return ", ".join(shown)


def duration_text(seconds: float) -> str:
    """Return a duration as a person would say it: ``40 s``, ``3 min``, ``2 h 05 min``."""
    if seconds < 90.0:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60.0)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Reporter:
    """Shows how far a run is: a bar on a terminal, and in any case epoch lines in the log."""

    def __init__(
        self, total_steps: int, done_steps: int, log: logging.Logger, console: Console | None
    ) -> None:
        self.log = log
        self.total = total_steps
        self.done = self.first = done_steps
        self.started = time.monotonic()
        self.last_line = -math.inf
        self.bar: Progress | None = None
        if console is not None and console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=console,
                transient=True,
                # the mean speed is taken over this many seconds, to bridge evaluations
                speed_estimate_period=120.0,
            )
            self.task = self.bar.add_task("training", total=total_steps, completed=done_steps)

    def __enter__(self) -> Reporter:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self) -> None:
        """Note that one optimizer step is done."""
        self.done += 1
        if self.bar is not None:
            self.bar.advance(self.task)

    def skip(self, steps: int) -> None:
        """Note that so many steps will not be taken."""
        self.done += steps
        self.first += steps
        if self.bar is not None:
            self.bar.advance(self.task, steps)

    def describe(self, text: str) -> None:
        """Show a text beside the bar."""
        if self.bar is not None:
            self.bar.update(self.task, description=text)

    def line(self, text: str, *, always: bool = False) -> None:
        """Log an epoch line with the time left, at level INFO unless the last one is just a moment ago."""
        now = time.monotonic()
        due = always or now - self.last_line >= LINE_INTERVAL
        self.last_line = now if due else self.last_line
        level = logging.INFO if due else logging.DEBUG
        self.log.log(level, "%s; %s left", text, duration_text(self.seconds_left(now)))

    def seconds_left(self, now: float) -> float:
        """Return the time the remaining steps will take at the mean speed so far."""
        done = self.done - self.first
        return (now - self.started) / max(1, done) * (self.total - self.done)
