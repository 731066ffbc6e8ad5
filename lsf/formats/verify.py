"""Structures on which an exported file must agree with the model it was made from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from lsf.data.build import build_graphs
from lsf.data.frames import frame_from_atoms
from lsf.data.graph import collate
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import DataError, ExportError
from lsf.formats.model_file.file import LoadedModel
from lsf.models.derivatives import evaluate
from lsf.models.local_source import LocalSourceModel
from lsf.recipe.schema import Head

TOLERANCES: Final = {torch.float64: 1.0e-9, torch.float32: 2.0e-5}
"""Largest difference relative to the largest number of its kind (at least 1). Sums are made in another order,
which costs float64 some 1e-14 of its numbers and float32 some 1e-6."""

FIELD_KEY: Final = "external_field"
CHARGES_KEY: Final = "formal_charges"
HEAD: Final = Head(
    {"external_field": FIELD_KEY, "total_charge": "total_charge", "total_spin": "total_spin"},
    {"charges": CHARGES_KEY},
)

EvaluateFile = Callable[[Sequence[Atoms]], Mapping[str, Tensor]]


def structures(loaded: LoadedModel, sorts: Sequence[tuple[int, bool]], seed: int = 0) -> list[list[Atoms]]:
    """Return batches of random structures of the elements and sorts that a model treats.

    ``sorts`` as in :func:`lsf.electrostatics.boundary.structure_sorts`. Every batch but the first holds one
    structure.
    """
    rng = np.random.default_rng(seed)
    first = [structure(loaded, sort, size, rng) for size, sort in zip((7, 5, 6, 4), sorts, strict=False)]
    if len(first) == 1:
        first.append(structure(loaded, sorts[0], 5, rng))
    singles = [[structure(loaded, sort, size, rng)] for sort in sorts for size in (1, 3, 13, 34)]
    return [first, *singles]


def structure(loaded: LoadedModel, sort: tuple[int, bool], size: int, rng: np.random.Generator) -> Atoms:
    """Return ``size`` atoms some 2.2 Å apart in a skewed cell, or without one.

    ``sort`` is the number of directions that are periodic, the first ones, and whether there is a cell.
    """
    periodic, has_cell = sort
    spacing = 2.2
    side = int(np.ceil(size ** (1.0 / 3.0)))
    grid = np.array([(x, y, z) for x in range(side) for y in range(side) for z in range(side)], dtype=float)
    positions = grid[rng.permutation(len(grid))[:size]] * spacing + rng.normal(scale=0.15, size=(size, 3))
    numbers = rng.choice(loaded.facts.species, size=size)
    cell = np.eye(3) * (side * spacing + 0.6)
    if periodic == 3:
        cell = cell + rng.normal(scale=0.05, size=(3, 3)) * cell[0, 0]
    elif periodic == 2:
        cell[:2, :2] += rng.normal(scale=0.05, size=(2, 2)) * cell[0, 0]
        cell[2, 2] += 12.0
    elif periodic == 0:
        cell = np.eye(3) * (side * spacing + 25.0) * has_cell
    atoms = Atoms(numbers, positions, cell=cell, pbc=np.arange(3) < periodic)
    atoms.info["total_charge"], atoms.info["total_spin"] = (
        float(rng.integers(-1, 2)),
        float(rng.integers(0, 3)),
    )
    atoms.info[FIELD_KEY] = rng.normal(scale=0.01, size=3)
    atoms.set_array(CHARGES_KEY, _charges(loaded, atoms, rng))
    return atoms


def _charges(loaded: LoadedModel, atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    low, high = getattr(loaded.recipe.model.options, "oxidation_range", (-1.0, 1.0))
    return np.clip(rng.normal(scale=1.0, size=len(atoms)), low, high)


def batch_of(loaded: LoadedModel, atoms: Sequence[Atoms], settings: Electrostatics) -> Any:
    """Return the collated graphs of structures, for the model in Python."""
    frames, problems = [], []
    for index, item in enumerate(atoms):
        frame, found = frame_from_atoms(item, {"default": HEAD}, source="structure", index=index)
        problems += found
        frames += [] if frame is None else [frame]
    if problems:
        raise DataError(f"{loaded.path.name} cannot evaluate these structures", problems)
    rule = loaded.recipe.model.options.formal_charge_rule()
    return collate(build_graphs(frames, loaded.model.r_max, settings, rule))


def reference_model(loaded: LoadedModel, dtype: torch.dtype) -> LocalSourceModel:
    """Return the model in Python that a file of this precision must agree with."""
    return copy.deepcopy(loaded.model).cpu().eval().set_dtype(dtype)


def verified(
    loaded: LoadedModel,
    model: LocalSourceModel,
    batches: Sequence[Sequence[Atoms]],
    evaluate_file: EvaluateFile,
    tolerance: float,
    backend: str = "direct",
) -> dict[str, Any]:
    """Return what metadata say of a verification: how many structures, the largest difference by output.

    ``evaluate_file`` returns a file's outputs of structures, ``backend`` is that of its Coulomb sums. Raises
    :class:`lsf.errors.ExportError` where one differs from ``model``'s by more than ``tolerance``.
    """
    largest: dict[str, float] = {}
    settings = attrs.evolve(loaded.recipe.electrostatics, backend=backend)
    for atoms in batches:
        batch = batch_of(loaded, atoms, settings)
        expected = evaluate(model, batch, ("forces", "virial", "stress", "potential"))
        what = f"verification on {sum(map(len, atoms))} atoms, pbc = {atoms[0].pbc.tolist()}"
        for name, error in compare(expected, evaluate_file(atoms), tolerance, what).items():
            largest[name] = max(error, largest.get(name, 0.0))
    return {"structures": sum(map(len, batches)), "largest_relative_difference": largest}


def both(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return what metadata say of two verifications together."""
    errors, more = (one["largest_relative_difference"] for one in (first, second))
    largest = {name: max(error, more.get(name, 0.0)) for name, error in errors.items()}
    structures = first["structures"] + second["structures"]
    return {"structures": structures, "largest_relative_difference": largest}


def compare(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], tolerance: float, what: str
) -> dict[str, float]:
    """Return the largest difference of every output relative to its largest number, at least 1.

    Raises :class:`lsf.errors.ExportError` where one is above ``tolerance``.
    """
    errors = {}
    for name, value in expected.items():
        if name not in found:
            continue
        scale = max(1.0, float(value.abs().max())) if value.numel() else 1.0
        other = found[name].to(value)
        if value.shape != other.shape:
            raise ExportError(
                f"{what}: {name} has the shape {tuple(other.shape)} in the file and {tuple(value.shape)} in "
                "the model: nothing was written"
            )
        difference = float((value - other).abs().max()) / scale if value.numel() else 0.0
        errors[name] = difference
        if not difference <= tolerance:
            raise ExportError(
                f"{what}: {name} of the file and of the model differ by {difference:.1e} of its size; "
                f"expected at most {tolerance:.0e}: nothing was written"
            )
    return errors


def agreement(verified: dict[str, Any]) -> str:
    """Return one line about a verification."""
    name, error = max(verified["largest_relative_difference"].items(), key=lambda item: item[1])
    return f"agrees with the model on {verified['structures']} structures to {error:.0e} ({name})"
