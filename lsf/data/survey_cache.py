"""The outcome of the checks and statistics of lazy frames, kept beside them: they are gone through once.

It holds for one set of files, one version of lsf, and the parts of a recipe that the data stage reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

import lsf
from lsf.data.frames import Frame
from lsf.data.potentials import trains_on_potentials
from lsf.data.readers.base import LazyFrames
from lsf.data.readers.choose import checksum_of
from lsf.data.statistics import Summary
from lsf.errors import LsfError
from lsf.machine.caches import enabled
from lsf.machine.files import replacing
from lsf.recipe.data_files import DataFile
from lsf.recipe.quantities import LABELS

if TYPE_CHECKING:
    from lsf.recipe.schema import Recipe

PATHS: Final = ("train", "valid", "test")
"""Settings of the data that are compared by content."""


@attrs.frozen
class Known:
    """What a pass over all splits has found; frames of ``isolated`` places are free atoms."""

    energies: dict[int, float]
    summaries: dict[str, Summary]
    boxed: int
    isolated: list[int]
    warnings: list[str]


@attrs.frozen
class SurveyCache:
    """The file for one recipe's data beside its training frames; without a path nothing is kept."""

    path: Path | None
    key: str = ""

    @classmethod
    def of(
        cls, recipe: Recipe, paths: Mapping[str, str], frames: Mapping[str, Sequence[Frame]]
    ) -> SurveyCache:
        """Return the file for a recipe; nothing is kept of splits that are in memory."""
        if not enabled() or not all(isinstance(split_frames, LazyFrames) for split_frames in frames.values()):
            return cls(None)
        from lsf.recipe.read import as_table

        data = {name: value for name, value in as_table(recipe.data).items() if name not in PATHS}
        options = recipe.model.options
        parts = {
            "lsf": lsf.__version__,
            "labels": list(LABELS),
            "data": data,
            "energies": _file_content(recipe.data.atomic_energies),
            "heads": as_table(recipe.heads),
            "electrostatics": as_table(recipe.electrostatics),
            "r_max": options.r_max,
            "formal_charges": as_table(getattr(options, "formal_charges", None)),
            "potentials": trains_on_potentials(recipe),
            "seed": recipe.seed,
            "splits": {
                split: [str(DataFile.of(path).selection), checksum_of(path, recipe.data.reader)]
                for split, path in paths.items()
            },
        }
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        train = DataFile.of(paths["train"]).path
        return cls((train if train.is_dir() else train.parent) / f"checked-{key[:16]}.json", key)

    def read(self) -> Known | None:
        """Return what is known; None where the frames are still to be gone through."""
        if self.path is None:
            return None
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["key"] != self.key:
                return None
            return Known(
                {int(number): energy for number, energy in content["energies"].items()},
                {split: Summary.from_table(table) for split, table in content["summaries"].items()},
                content["boxed"],
                content["isolated"],
                content["warnings"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, known: Known) -> None:
        """Keep what was found; in a folder that cannot be written nothing is."""
        if self.path is None:
            return
        content = {"key": self.key, **attrs.asdict(known)}
        with contextlib.suppress(LsfError), replacing(self.path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")


def _file_content(energies: object) -> str:
    """Return the text of a file of atomic energies, nothing where they are given otherwise."""
    path = Path(energies) if isinstance(energies, str) else None
    return path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""
