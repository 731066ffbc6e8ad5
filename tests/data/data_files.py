"""Small extended XYZ files and recipes for the tests of the data stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np

from lsf.data.frames import Frame
from lsf.recipe.catalog import Component
from lsf.recipe.quantities import LABELS
from lsf.recipe.schema import Checks, DataOptions, Electrostatics, Head, LossTerm, Recipe, Stage

HEAD = Head(
    info_keys={"energy": "REF_energy", "dipole": "REF_dipole", "total_charge": "total_charge"},
    arrays_keys={"forces": "REF_forces"},
)
HEADS = {"default": HEAD}
WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
ALL_LABELS = (
    'REF_energy=-14.2 REF_dipole="0.1 0.2 0.3" config_dipole_weight="1 1 1" total_charge=0 pbc="F F F"'
)


def frame_text(
    symbols: str = "O H H",
    positions: Any = WATER,
    info: str = ALL_LABELS,
    columns: str = "REF_forces:R:3",
    rows: Any = None,
) -> str:
    """Return one frame; ``rows`` (n_atoms, n_columns) are the numbers behind the positions."""
    names = symbols.split()
    if columns and rows is None:
        rows = np.zeros((len(names), 3))
    header = "Properties=species:S:1:pos:R:3" + (f":{columns}" if columns else "")
    lines = [str(len(names)), f"{header} {info}"]
    for place, (name, position) in enumerate(zip(names, positions, strict=True)):
        extra = "" if rows is None else " ".join(map(str, np.ravel(rows[place])))
        lines.append(f"{name} {' '.join(map(repr, map(float, position)))} {extra}")
    return "\n".join(lines) + "\n"


def write(path: Path, *frames: str) -> Path:
    path.write_text("".join(frames), encoding="utf-8")
    return path


def waters(n: int, seed: int = 0, info: str = "") -> list[str]:
    """Return ``n`` different water molecules with all labels of ``HEAD``."""
    rng = np.random.default_rng(seed)
    return [
        frame_text(
            positions=WATER + rng.normal(0.0, 0.05, (3, 3)),
            rows=rng.normal(0.0, 0.3, (3, 3)),
            info=f"REF_energy={-14.2 + 0.1 * rng.normal()} total_charge=0 "
            f'REF_dipole="0.1 0.2 0.3" config_dipole_weight="1 1 1" {info} pbc="F F F"',
        )
        for _ in range(n)
    ]


@attrs.frozen
class Plain:
    """Options of a model without formal charges."""

    r_max: float = 3.0


@attrs.frozen
class Charged:
    """Options of a model with formal charges."""

    r_max: float = 3.0
    formal_charges: Any = None


def recipe(
    train: Path,
    *,
    options: Any = None,
    checks: Checks | None = None,
    heads: dict[str, Head] | None = None,
    electrostatics: Electrostatics | None = None,
    seed: int = 3,
    **data: Any,
) -> Recipe:
    data = {key: str(value) if isinstance(value, Path) else value for key, value in data.items()}
    if "valid" not in data and "valid_fraction" not in data:
        data["valid_fraction"] = 0.25
    return Recipe(
        schema=1,
        name="small",
        seed=seed,
        data=DataOptions(train=str(train), checks=checks or Checks(), **data),
        heads=heads or HEADS,
        model=Component(use="any", options=options or Plain()),
        electrostatics=electrostatics or Electrostatics(boundary="auto", multipoles_max_l=1),
        training=None,  # the registry is none of the data stage's business
        stages=(Stage(name="one", epochs=1, lr=0.01, loss={"forces": LossTerm(weight=1.0)}),),
    )


def frame(numbers=(8, 1, 1), positions=None, cell=None, pbc="FFF", index=0, given=True, **values) -> Frame:
    """Return a frame made without a file; it has the values given, each with weight 1."""
    numbers = np.array(numbers)
    if positions is None:
        positions = np.arange(3.0 * len(numbers)).reshape(-1, 3)
    values = {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
    weights = {name: np.ones(3 if name == "dipole" else ()) * (name in values) for name in LABELS}
    return Frame(
        numbers=numbers,
        positions=np.asarray(positions, dtype=np.float64),
        cell=np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64),
        pbc=np.array([flag == "T" for flag in pbc]),
        values=values,
        weights=weights,
        config_type="Default",
        head="default",
        source="a.xyz",
        index=index,
        has_dipole_weight=given,
    )
