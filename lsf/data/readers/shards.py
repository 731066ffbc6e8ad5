"""Shards: frames as arrays in safetensors files beside a JSON index, read without parsing any text.

A folder holds ``index.json`` and ``shard-00000.safetensors``, …. Properties stand under their own names, so a
recipe's heads only choose which of them are used. Nothing in a shard is code; every file is checked
against the index. :mod:`lsf.data.readers.shard_frames` reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from lsf.data.frames import Floats, Frame
from lsf.errors import LsfError
from lsf.machine.files import replacing
from lsf.recipe.quantities import PROPERTIES

INDEX: Final = "index.json"
FORMAT_VERSION: Final = 1

Arrays = dict[str, NDArray[Any]]


# ---------------------------------------------------------------------------------------------------
# writing


def write_shards(
    frames: Sequence[Frame], folder: Path, frames_per_shard: int, statistics: Mapping[str, Any]
) -> Path:
    """Write frames as shards and return the index; ``statistics`` are plain values stored in it.

    Weights are stored as the frames hold them: read the frames without ``config_type_weights``, which are
    applied when shards are read. Raises :class:`lsf.errors.LsfError` when a file cannot be written.
    """
    shards = []
    for number, start in enumerate(range(0, len(frames), frames_per_shard)):
        chunk = frames[start : start + frames_per_shard]
        arrays, texts = _arrays_of(chunk)
        content = save(arrays, metadata={"texts": json.dumps(texts)})
        name = f"shard-{number:05d}.safetensors"
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
        checksum = hashlib.sha256(content).hexdigest()
        shards.append({"file": name, "frames": len(chunk), "sha256": checksum})
    index = {"format_version": FORMAT_VERSION, "shards": shards, "statistics": dict(statistics)}
    with replacing(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")
    return folder / INDEX


def _arrays_of(frames: Sequence[Frame]) -> tuple[Arrays, dict[str, list[str]]]:
    """Return the arrays of a shard, frames joined along the first axis, and its texts, one per frame."""
    arrays: Arrays = {
        "n_atoms": np.array([len(frame.numbers) for frame in frames], dtype=np.int64),
        "numbers": np.concatenate([frame.numbers for frame in frames]),
        "positions": np.concatenate([frame.positions for frame in frames]),
        "cell": np.stack([frame.cell for frame in frames]),
        "pbc": np.stack([frame.pbc for frame in frames]).astype(np.uint8),
        "index": np.array([frame.index for frame in frames], dtype=np.int64),
        "has_dipole_weight": np.array([frame.has_dipole_weight for frame in frames], dtype=np.uint8),
    }
    for name, item in PROPERTIES.items():
        # columns of a value's table: multipoles may differ from frame to frame, -1 stands for no value
        tables = [_table(frame, name) for frame in frames]
        columns = np.array([-1 if table is None else table.shape[1] for table in tables], dtype=np.int64)
        if (columns < 0).all():
            continue
        width = int(columns.max())
        padded = [
            np.pad(table, ((0, 0), (0, width - table.shape[1]))) for table in tables if table is not None
        ]
        arrays[f"columns.{name}"] = columns
        arrays[f"value.{name}"] = np.concatenate(padded)
        if item.label:
            arrays[f"weight.{name}"] = np.stack([frame.weights[name] for frame in frames])
    texts = {
        "config_type": [frame.config_type for frame in frames],
        "head": [frame.head for frame in frames],
        "source": [frame.source for frame in frames],
    }
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}, texts


def _table(frame: Frame, name: str) -> Floats | None:
    """Return a value as (1 or n_atoms, n_columns)."""
    if name not in frame.values:
        return None
    rows = len(frame.numbers) if PROPERTIES[name].level == "atom" else 1
    return frame.values[name].reshape(rows, -1)


# ---------------------------------------------------------------------------------------------------
# reading


def read_index(folder: str | Path) -> dict[str, Any]:
    """Return the index of a folder of shards.

    Raises :class:`lsf.errors.LsfError` when it is damaged or was written by a newer lsf.
    """
    path = Path(folder) / INDEX
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = index["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LsfError(f"{path}: not an index of shards ({error}); write the shards anew") from error
    if version > FORMAT_VERSION:
        raise LsfError(
            f"{path}: written in format {version}; this lsf reads formats up to {FORMAT_VERSION}: update lsf"
        )
    return index
