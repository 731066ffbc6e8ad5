"""Write frames as shards: ``python tools/preprocess_data.py RECIPE --out FOLDER``, or with the old flags.

Every split becomes a folder that ``data.train``, ``data.valid`` and ``data.test`` may name instead of a file:
``FOLDER/train``, ``FOLDER/valid`` and one per test set of a recipe. The index of each holds the elements, the
energies of free atoms fitted to its energies and the average number of neighbours within the model's cutoff.
``--train_file train.xyz --h5_prefix processed/ …`` is the older command line; see docs/migration.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lsf.cli import exit_status
from lsf.compat.preprocess import main as with_old_flags
from lsf.compat.preprocess import usage
from lsf.data.readers.extxyz import read_frames
from lsf.data.readers.shard_statistics import statistics_of
from lsf.data.readers.shards import write_shards
from lsf.recipe.rules import resolve
from lsf.recipe.schema import Recipe


def main(arguments: Sequence[str]) -> int:
    """Run the script and return its exit status."""
    if "--help" in arguments or "-h" in arguments or not arguments:
        sys.stdout.write(usage())
        return 0
    if arguments[0].startswith("--") and not {"--out", "--frames-per-shard"} & set(arguments):
        return with_old_flags(arguments)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
