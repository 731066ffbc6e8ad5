"""Writes extended XYZ files with few digits: the bundled data sets stay small and read anywhere.

Atoms' values have six decimals, values of a whole frame eight. A generator rounds what it will store of
positions, cells and fields with :func:`rounded` first and computes the labels there, so that a file can
be recomputed to its last digit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

ATOM_DECIMALS = 6
FRAME_DECIMALS = 8


@attrs.frozen
class Frame:
    """One structure: ``info`` has values of the frame, ``arrays`` one row per atom; ``cell`` may be None."""

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    pbc: tuple[bool, bool, bool]
    cell: NDArray[np.float64] | None
    info: Mapping[str, Any]
    arrays: Mapping[str, NDArray[np.float64]]


def rounded(values: ArrayLike) -> NDArray[np.float64]:
    """Return the values as the file will hold them; adding 0 turns -0 into 0."""
    return np.round(np.asarray(values, dtype=float), ATOM_DECIMALS) + 0.0


def write_frames(path: Path, frames: Iterable[Frame]) -> None:
    """Write the frames, creating the folder and replacing the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(_frame_text(frame) for frame in frames), encoding="utf-8")


def _frame_text(frame: Frame) -> str:
    columns = {"pos": frame.positions, **frame.arrays}
    tables = {name: np.reshape(values, (len(frame.numbers), -1)) for name, values in columns.items()}
    properties = ":".join(["species:S:1", *(f"{name}:R:{table.shape[1]}" for name, table in tables.items())])
    info = {**frame.info, "pbc": " ".join("T" if flag else "F" for flag in frame.pbc)}
    if frame.cell is not None:
        info = {"Lattice": frame.cell, **info}
    header = " ".join(
        [f"Properties={properties}", *(f"{key}={_value(value)}" for key, value in info.items())]
    )
    lines = [str(len(frame.numbers)), header]
    for index, number in enumerate(frame.numbers):
        row = (_number(value, ATOM_DECIMALS) for table in tables.values() for value in table[index])
        lines.append(" ".join([chemical_symbols[number], *row]))
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"' if " " in value else value
    if np.ndim(value) == 0:
        return _number(float(value), FRAME_DECIMALS)
    return '"' + " ".join(_number(item, FRAME_DECIMALS) for item in np.ravel(value)) + '"'


def _number(value: float, decimals: int) -> str:
    """Return the value without trailing zeros, keeping ``1.0`` recognisable as a real number."""
    text = f"{value:.{decimals}f}".rstrip("0")
    text = text + "0" if text.endswith(".") else text
    return text.removeprefix("-") if float(text) == 0.0 else text
