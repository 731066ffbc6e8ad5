"""The older script that plots the terms of the loss over a training."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from rich.console import Console

from lsf.commands.terminal import print_line
from lsf.errors import LsfError

DECAY: Final = 0.9
"""Of the running mean in the lower panel; a point is an epoch, where the older script had one per batch."""

EPOCH: Final = re.compile(r"Epoch\s+(\d+):\s+loss=")
BREAKDOWN: Final = re.compile(r"loss breakdown:\s*(.*)")
TERM: Final = re.compile(r"(\w+):\s*([-+0-9.eE]+)")


@attrs.frozen
class LossPoint:
    """The terms of the loss at one point of a training; ``epoch`` counts from 0."""

    epoch: int
    terms: dict[str, float]


def run(arguments: Sequence[str], console: Console) -> None:
    """Plot as the flags of the older script say."""
    parser = argparse.ArgumentParser(prog="lsf compat plot-losses", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "log_path",
        type=Path,
        metavar="LOG",
        help="metrics.jsonl, a results file, a debug log or a run folder",
    )
    parser.add_argument("--min_epoch", type=int, help="first epoch shown")
    parser.add_argument("--max_epoch", type=int, help="last epoch shown")
    parser.add_argument("--name", type=Path, help="picture to write (default: <name of the fit>.png)")
    chosen = parser.parse_args(arguments)
    picture = _plot_file(chosen)
    print_line(console, str(picture))


def _plot_file(chosen: argparse.Namespace) -> Path:
    """Draw the picture and return its file."""
    path = chosen.log_path / "metrics.jsonl" if chosen.log_path.is_dir() else chosen.log_path
    low, high = chosen.min_epoch, chosen.max_epoch
    points = [
        point
        for point in read_losses(path)
        if (low is None or point.epoch >= low) and (high is None or point.epoch <= high)
    ]
    if not points:
        raise LsfError(
            f"{path}: no terms of the loss in the epochs asked for; expected metrics.jsonl of a run folder, "
            "results/<name>_train.txt, or a debug log with lines «loss breakdown: …»"
        )
    picture = chosen.name or Path(f"{fit_name(path)}.png")
    plot_losses(points, picture, f"{fit_name(path)}: terms of the loss")
    return picture


def fit_name(path: Path) -> str:
    """Return the name of the fit out of the name of its log, or of its run folder."""
    stem = path.resolve().parent.name if path.name == "metrics.jsonl" else path.stem
    return stem.removesuffix("_debug").removesuffix("_train").rpartition("_run-")[0] or stem


def read_losses(path: Path) -> list[LossPoint]:
    """Return the points of a metrics file, a results file or a debug log of either trainer."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise LsfError(f"{path}: cannot be read: {error.strerror}") from error
    if lines and lines[0].startswith("{"):
        return list(_json_points(lines, path))
    return list(_log_points(lines))


def _json_points(lines: Sequence[str], path: Path) -> Iterator[LossPoint]:
    for number, line in enumerate(lines, start=1):
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise LsfError(f"{path}:{number}: not a line of JSON ({error})") from error
        if record.get("kind") == "train":
            yield LossPoint(record["epoch"] - 1, _numbers(record["terms"]))
        elif record.get("mode") == "opt" and record["epoch"] is not None:
            terms = {
                name.removeprefix("loss_"): value
                for name, value in record.items()
                if name.startswith("loss_")
            }
            yield LossPoint(record["epoch"], _numbers(terms or {"loss": record["loss"]}))


def _numbers(terms: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in terms.items() if value is not None}


def _log_points(lines: Sequence[str]) -> Iterator[LossPoint]:
    """Yield the points of a log; those before the line of an epoch belong to it."""
    waiting: list[dict[str, float]] = []
    epoch = 0
    for line in lines:
        end, terms = EPOCH.search(line), BREAKDOWN.search(line)
        if end is not None:
            epoch = int(end.group(1))
            yield from (LossPoint(epoch, item) for item in waiting)
            waiting, epoch = [], epoch + 1
        elif terms is not None:
            waiting.append({name: float(value) for name, value in TERM.findall(terms.group(1))})
    yield from (LossPoint(epoch, item) for item in waiting)


def plot_losses(points: Sequence[LossPoint], picture: Path, title: str) -> None:
    """Draw every term over the points, as it is and as running mean, with a line where an epoch begins."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for name in dict.fromkeys(name for point in points for name in point.terms):
        places = [place for place, point in enumerate(points) if name in point.terms]
        values = [points[place].terms[name] for place in places]
        axes[0].plot(places, values, label=name, linewidth=1.2)
        axes[1].plot(places, running_mean(values), linewidth=1.5)
    for panel, label in zip(axes, ("term of the loss", f"running mean ({DECAY:g})"), strict=True):
        panel.set_yscale("log")
        panel.set_ylabel(label)
        panel.grid(visible=True, alpha=0.25)
    axes[0].set_title(title)
    axes[0].legend(ncols=2)
    several = len({point.epoch for point in points}) < len(points)
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    axes[1].set_xlabel("batch" if several else f"epoch (from {points[0].epoch})")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150)


def running_mean(values: Sequence[float]) -> list[float]:
    """Return the exponentially weighted mean up to every value."""
    means: list[float] = []
    for value in values:
        means.append(value if not means else DECAY * means[-1] + (1.0 - DECAY) * value)
    return means
