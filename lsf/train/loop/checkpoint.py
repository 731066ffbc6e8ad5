"""Checkpoints: everything a run needs to go on as if it had never stopped, written whole or not at all.

A checkpoint holds tensors and plain data only and is read with ``weights_only=True``: a file from
elsewhere cannot run code. It holds no state of random number generators, since training draws from none:
batches follow from seed and epoch (:func:`lsf.train.loop.epoch.epoch_batches`).
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import torch
from torch import Tensor

from lsf.data.graph import AtomGraph
from lsf.data.lazy import LazyGraphs
from lsf.errors import LsfError
from lsf.machine.files import replacing

STRUCTURE: Final = ("atomic_numbers", "positions", "cell", "formal_charges", "external_field")
"""What tells frames apart besides their labels and weights."""

FORMAT: Final = 2
"""Version of the layout below; a file of another version is refused."""

SHARE_OF_TIME: Final = 0.05
"""Largest share of a run's time that regular checkpoints may take."""

MID_EPOCH_SECONDS: Final = 300.0
"""Within long epochs a checkpoint is written after so many seconds."""


class CheckpointError(LsfError):
    """A checkpoint is damaged, of another format or of another run."""


@attrs.define
class Best:
    """The best weights a stage has seen: validation loss and the (run-wide) epoch they are from."""

    stage: int
    epoch: int
    loss: float
    weights: list[Tensor]


@attrs.define
class Position:
    """How far a run has come: finished stages, finished epochs of this stage, steps of this epoch.

    ``epoch_terms`` (2, n_terms) are the loss sums of this epoch's steps and ``epoch_seconds`` their time,
    ``seconds`` the time of the whole run, ``metrics_bytes`` the length of ``metrics.jsonl``, ``waited`` the
    number of evaluations since the stage's best.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    epoch_terms: Tensor | None = None
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    metrics_bytes: int = 0
    waited: int = 0
    best: Best | None = None


def fingerprint_of(identity: str, *sets: Sequence[AtomGraph]) -> str:
    """Return the SHA-256 of a run's settings and of its frames, which ties a checkpoint to its run."""
    digest = hashlib.sha256(identity.encode())
    for graphs in sets:
        digest.update(len(graphs).to_bytes(8, "big"))
        if isinstance(graphs, LazyGraphs):
            digest.update(graphs.fingerprint())
            continue
        for graph in graphs:
            for name, value in sorted(graph.to_dict().items()):
                if name in STRUCTURE or name.startswith(("target_", "weight_")):
                    digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def write_checkpoint(path: Path, fingerprint: str, position: Position, states: Mapping[str, Any]) -> None:
    """Write a checkpoint in place of the older one of that name.

    Raises :class:`lsf.errors.LsfError` when it cannot be written (a full disk); the older one is then
    unchanged.
    """
    content = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "position": attrs.asdict(position),
        **states,
    }
    write_tensors(path, content)


def write_best(path: Path, fingerprint: str, best: Best, names: Sequence[str]) -> None:
    """Write the best weights of a stage, by parameter name, for use without the rest of a checkpoint."""
    values = {"stage": best.stage, "epoch": best.epoch, "loss": best.loss}
    weights = dict(zip(names, best.weights, strict=True))
    write_tensors(path, {"format": FORMAT, "fingerprint": fingerprint, **values, "weights": weights})


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain data whole or not at all."""
    # torch.save to a path reports a full disk as an internal error of its zip writer; plain bytes say why
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_checkpoint(path: Path, fingerprint: str, device: torch.device) -> tuple[Position, dict[str, Any]]:
    """Return position and states of a checkpoint, tensors on ``device``.

    Raises :class:`CheckpointError` when the file is damaged, of another format, or was written by a run
    with another recipe or other frames.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        version, stored = content["format"], content["fingerprint"]
    except Exception as error:  # torch raises many types for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({reason}); delete it to start this run anew"
        ) from error
    if version != FORMAT:
        raise CheckpointError(f"{path} has checkpoint format {version}; this version of lsf reads {FORMAT}")
    if stored != fingerprint:
        raise CheckpointError(
            f"{path} belongs to a run with another recipe or other data; write to another folder "
            f"(--out DIR), or delete {path.parent} to start anew"
        )
    values = content["position"]
    if values["best"] is not None:
        values["best"] = Best(**values["best"])
    return Position(**values), content


def remove_leftovers(folder: Path) -> None:
    """Remove the half-written files of a run that was killed while writing."""
    for path in folder.glob(".*.pt"):
        path.unlink(missing_ok=True)


class SaveClock:
    """Decides when the next checkpoint is due, so that fast epochs are not spent on writing.

    ``now`` returns a time in seconds that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.written = now()
        self.cost = 0.0

    def since_written(self) -> float:
        """Return the seconds since the last write ended."""
        return self.now() - self.written

    def due(self) -> bool:
        """Return whether the last write was long enough ago for the next one to be cheap."""
        return self.since_written() >= self.cost / SHARE_OF_TIME

    def due_within_epoch(self) -> bool:
        """Return whether so much would be lost that a checkpoint is worth it before the epoch ends."""
        return self.since_written() > MID_EPOCH_SECONDS

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Measure what a write takes, and note when it ends."""
        started = self.now()
        yield
        self.written = self.now()
        self.cost = self.written - started
