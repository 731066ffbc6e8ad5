"""Shards: frames as arrays in safetensors files beside a JSON index, read without parsing any text.

A folder holds ``index.json`` and ``shard-00000.safetensors``, …. Properties stand under their own names, so a
recipe's heads only choose which of them are used. Nothing in a shard is code; every file is checked
against the index.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lsf.data.frames import Floats, Frame
from lsf.data.keys import LABELS, PROPERTIES
from lsf.data.read import Reading, shown_path
from lsf.errors import DataError, LsfError, Problem, did_you_mean
from lsf.files import replacing

if TYPE_CHECKING:
    from lsf.recipe import Head

INDEX: Final = "index.json"
FORMAT_VERSION: Final = 1

Arrays = dict[str, NDArray[Any]]


def is_shard_folder(path: str | Path) -> bool:
    """Tell whether a path is a folder of shards."""
    return (Path(path) / INDEX).is_file()


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


def shard_frames(folder: str | Path) -> Iterator[Frame]:
    """Yield the frames of a folder of shards; one shard at a time is in memory.

    Raises :class:`lsf.errors.DataError` when a shard is missing or is not the one of the index.
    """
    folder = Path(folder)
    for shard in read_index(folder)["shards"]:
        path = folder / shard["file"]
        problem = _shard_problem(path, shard["sha256"])
        if problem is not None:
            raise DataError("the shards cannot be used", [problem])
        with safe_open(str(path), framework="numpy") as file:
            texts = json.loads(file.metadata()["texts"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        yield from _frames_of(arrays, texts)


def _shard_problem(path: Path, checksum: str) -> Problem | None:
    expected = "the shard of this name that the index describes"
    hint = "write the shards anew with tools/preprocess_data.py"
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return Problem(shown_path(path), "", f"no readable file ({error.strerror})", expected, hint)
    if found != checksum:
        return Problem(shown_path(path), "", "a file with another checksum", expected, hint)
    try:
        with safe_open(str(path), framework="numpy"):
            return None
    except SafetensorError as error:
        return Problem(shown_path(path), "", f"no safetensors file ({error})", expected, hint)


def _frames_of(arrays: Arrays, texts: Mapping[str, Sequence[str]]) -> Iterator[Frame]:
    ends = np.cumsum(arrays["n_atoms"])
    rows: Counter[str] = Counter()
    for place, (end, count) in enumerate(zip(ends, arrays["n_atoms"], strict=True)):
        atoms = slice(int(end - count), int(end))
        values, weights = {}, {}
        for name, item in PROPERTIES.items():
            if item.label:
                zero = np.zeros(3 if name == "dipole" else ())
                weights[name] = (
                    np.asarray(arrays[f"weight.{name}"][place]) if f"weight.{name}" in arrays else zero
                )
            columns = int(arrays[f"columns.{name}"][place]) if f"columns.{name}" in arrays else -1
            if columns < 0:
                continue
            n_rows = int(count) if item.level == "atom" else 1
            table = arrays[f"value.{name}"][rows[name] : rows[name] + n_rows, :columns]
            rows[name] += n_rows
            shape = (columns,) if item.shape == (-1,) else item.shape
            values[name] = table.reshape((*([n_rows] if item.level == "atom" else []), *shape)).copy()
        yield Frame(
            numbers=arrays["numbers"][atoms].copy(),
            positions=arrays["positions"][atoms].copy(),
            cell=arrays["cell"][place].copy(),
            pbc=arrays["pbc"][place].astype(np.bool_),
            values=values,
            weights=weights,
            config_type=texts["config_type"][place],
            head=texts["head"][place],
            source=texts["source"][place],
            index=int(arrays["index"][place]),
            has_dipole_weight=bool(arrays["has_dipole_weight"][place]),
        )


def read_shards(
    folder: str | Path, heads: Mapping[str, Head], config_type_weights: Mapping[str, float] | None = None
) -> Reading:
    """Return the frames of a folder of shards with the properties the heads map, and what is wrong.

    The keys of a mapping say nothing here: shards hold properties under their own names.
    """
    source = shown_path(Path(folder))
    frames: list[Frame] = []
    problems: list[Problem] = []
    found: dict[str, set[str]] = {name: set() for name in heads}
    for frame in shard_frames(folder):
        if frame.head not in heads:
            expected = f"one of the recipe's heads: {', '.join(heads)}"
            hint = did_you_mean(frame.head, heads)
            problems.append(Problem(frame.where, "head", repr(frame.head), expected, hint))
            continue
        head = heads[frame.head]
        mapped = {*head.info_keys, *head.arrays_keys}
        found[frame.head] |= set(frame.values)
        factor = (config_type_weights or {}).get(frame.config_type, 1.0)
        weights = {name: factor * weight for name, weight in frame.weights.items()}
        weighed = attrs.evolve(frame, weights=weights)
        frames.append(weighed.without(name for name in (*LABELS, *frame.values) if name not in mapped))
    return Reading(source, tuple(frames), tuple(problems), tuple(_absent(source, heads, frames, found)), ())


def _absent(
    source: str, heads: Mapping[str, Head], frames: Sequence[Frame], found: Mapping[str, set[str]]
) -> list[Problem]:
    """Return a problem for every mapped property that no frame of the shards has."""
    problems = []
    for head in dict.fromkeys(frame.head for frame in frames):
        for table, mapping in (
            ("info_keys", heads[head].info_keys),
            ("arrays_keys", heads[head].arrays_keys),
        ):
            for name in mapping:
                if name == "head" or name in found[head]:
                    continue
                hint = f"properties in the shards: {', '.join(sorted(found[head])) or 'none'}"
                key = f"heads.{head}.{table}.{name}"
                problems.append(
                    Problem(source, key, f"no {name} in any frame", "a property of the shards", hint)
                )
    return problems
