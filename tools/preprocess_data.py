"""Write the frames of a recipe as shards: ``python tools/preprocess_data.py RECIPE --out FOLDER``.

Every split becomes a folder (``FOLDER/train``, ``FOLDER/valid``, one per test set) that ``data.train``,
``data.valid`` and ``data.test`` may name in place of a file. The index of each holds the elements, the
energies of free atoms fitted to its energies and the average number of neighbours within the model's cutoff.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lsf.cli import exit_status
from lsf.data.atomic_energies import average_energies
from lsf.data.frames import Frame
from lsf.data.neighbors import find_neighbors
from lsf.data.read import read_frames
from lsf.data.shards import write_shards
from lsf.recipe import Recipe
from lsf.resolve import resolve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    parser = argparse.ArgumentParser(description="Write the frames of a recipe as shards.")
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="recipe whose data is to be written")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="gets one folder per split")
    parser.add_argument("--frames-per-shard", type=int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides"
    )
    chosen = parser.parse_args(arguments)
    return exit_status(
        lambda: preprocess(chosen.recipe, chosen.overrides, chosen.out, max(1, chosen.frames_per_shard))
    )


def preprocess(path: Path, overrides: Sequence[str], out: Path, frames_per_shard: int) -> None:
    """Write every split of a recipe's data and say what may stand in the recipe instead."""
    recipe = resolve(path, overrides)
    sys.stdout.write("[data]\n")
    for split, file in files_of(recipe).items():
        frames = read_frames(file, recipe.heads)
        statistics = statistics_of(frames, recipe.model.options.r_max)
        write_shards(frames, out / split, frames_per_shard, {"file": Path(file).name, **statistics})
        key = split if split in ("train", "valid") or isinstance(recipe.data.test, str) else f"test.{split}"
        sys.stdout.write(f'{key} = "{out / split}"  # {len(frames)} frames\n')


def files_of(recipe: Recipe) -> dict[str, str]:
    """Return the file of every split that has one."""
    data = recipe.data
    tests = {"test": data.test} if isinstance(data.test, str) else dict(data.test or {})
    return {"train": data.train, **({} if data.valid is None else {"valid": data.valid}), **tests}


def statistics_of(frames: Sequence[Frame], r_max: float) -> dict[str, Any]:
    """Return what the index says about a split, in plain values."""
    species = sorted({number for frame in frames for number in frame.numbers.tolist()})
    energies = average_energies(frames, species).energies
    edges = sum(
        find_neighbors(frame.positions, frame.cell, frame.pbc, r_max).edge_index.shape[1] for frame in frames
    )
    atoms = sum(len(frame.numbers) for frame in frames)
    return {
        "frames": len(frames),
        "atoms": atoms,
        "species": species,
        "average_atomic_energies": {str(number): energy for number, energy in energies.items()},
        "r_max": r_max,
        "avg_num_neighbors": edges / atoms,
    }


if __name__ == "__main__":
    sys.exit(main())
