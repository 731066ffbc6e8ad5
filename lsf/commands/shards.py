"""``lsf shards``: the data of a recipe as folders of shards, which are read batch by batch in training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lsf.commands.terminal import print_line
from lsf.commands.train import resolved_recipe
from lsf.data.readers.choose import read_frames
from lsf.data.readers.shard_statistics import statistics_of
from lsf.data.readers.shards import write_shards
from lsf.recipe.schema import DataOptions


def write_recipe_data(
    path: Path, overrides: Sequence[str], out: Path, frames_per_shard: int, console: Console
) -> None:
    """Write every split of a recipe's data and print what may stand in the recipe instead.

    Every split becomes a folder of ``out``: ``train``, ``valid`` and one per test set. Its index holds the
    elements, the energies of free atoms fitted to its energies and the average number of neighbours within
    the model's cutoff.
    """
    recipe = resolved_recipe(path, overrides)
    lines = ["[data]"]
    for split, file in files_of(recipe.data).items():
        frames = read_frames(file, recipe.heads)
        statistics = statistics_of(frames, recipe.model.options.r_max)
        write_shards(frames, out / split, frames_per_shard, {"file": Path(file).name, **statistics})
        key = split if split in ("train", "valid") or isinstance(recipe.data.test, str) else f"test.{split}"
        lines.append(f'{key} = "{out / split}"  # {len(frames)} frames')
    print_line(console, "\n".join(lines))


def files_of(data: DataOptions) -> dict[str, str]:
    """Return the file of every split that has one."""
    tests = {"test": data.test} if isinstance(data.test, str) else dict(data.test or {})
    return {"train": data.train, **({} if data.valid is None else {"valid": data.valid}), **tests}
