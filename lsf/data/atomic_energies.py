"""Energies of free atoms (E0): fitted, taken from isolated-atom frames, or given. All in eV."""

from __future__ import annotations

import json
import tomllib
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from lsf.data.frames import Frame
from lsf.data.readers.base import shown_path
from lsf.errors import Problem, did_you_mean

ISOLATED_ATOM: Final = "IsolatedAtom"
"""config_type of the frames that hold one free atom."""

SAME_ENERGY: Final = 1.0e-4
"""Largest difference between two energies of the same free atom, in eV."""

KEY: Final = "data.atomic_energies"


class AtomicEnergies(NamedTuple):
    """E0 by atomic number, what is wrong with them, and what the user should know."""

    energies: dict[int, float]
    problems: list[Problem]
    warnings: list[str]


def is_isolated_atom(frame: Frame) -> bool:
    """Return whether the frame is marked as a free atom."""
    return frame.config_type.lower() == ISOLATED_ATOM.lower()


def average_energies(frames: Sequence[Frame], species: Sequence[int]) -> AtomicEnergies:
    """Return the E0s whose sums come closest to the energies, least squares over frames with an energy.

    Where the compositions do not fix every E0 (all frames are H₂O, say) the solution of smallest norm is
    taken, and a warning names the elements.
    """
    counts, energies = _compositions(frames, species)
    if not len(energies):
        warning = "no training frame has an energy: all atomic energies are 0"
        return AtomicEnergies(dict.fromkeys(species, 0.0), [], [warning])
    solution, _, rank, _ = np.linalg.lstsq(counts, energies, rcond=None)
    warnings = []
    if rank < len(species):
        free = ", ".join(chemical_symbols[species[place]] for place in _undetermined(counts))
        warnings.append(
            f"the compositions of the {len(energies)} frames with an energy do not fix the atomic "
            f"energies of {free}: the solution of smallest norm is taken, which is right for these "
            "compositions only"
        )
    return AtomicEnergies(dict(zip(species, map(float, solution), strict=True)), [], warnings)


def robust_energies(frames: Sequence[Frame], species: Sequence[int], rounds: int = 30) -> dict[int, float]:
    """Return E0s fitted by least absolute deviation, which a few absurd energies cannot pull away.

    Iteratively reweighted least squares on energies per atom; only for judging energies.
    """
    counts, energies = _compositions(frames, species)
    if not len(energies):
        return dict.fromkeys(species, 0.0)
    n_atoms = counts.sum(axis=1)
    rows, targets = counts / n_atoms[:, None], energies / n_atoms
    weights = np.ones(len(targets))
    solution = np.zeros(len(species))
    for _ in range(rounds):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(rows * root[:, None], targets * root, rcond=None)[0]
        # deviations below 1 meV per atom count as fitted
        weights = 1.0 / np.maximum(np.abs(rows @ solution - targets), 1.0e-3)
    return dict(zip(species, map(float, solution), strict=True))


def isolated_energies(isolated: Sequence[Frame], species: Sequence[int], source: str) -> AtomicEnergies:
    """Return the energies of the frames marked IsolatedAtom, one for every element."""
    energies: dict[int, float] = {}
    origin: dict[int, Frame] = {}
    problems = []
    for frame in isolated:
        if len(frame.numbers) != 1:
            found = f"{len(frame.numbers)} atoms in a frame marked {ISOLATED_ATOM}"
            problems.append(Problem(frame.where, "config_type", found, "one atom"))
            continue
        number = int(frame.numbers[0])
        symbol = chemical_symbols[number]
        if "energy" not in frame.values or not np.isfinite(frame.values["energy"]):
            problems.append(Problem(frame.where, "energy", f"a free {symbol} without energy", "its energy"))
            continue
        energy = float(frame.values["energy"])
        if number in energies and abs(energies[number] - energy) > SAME_ENERGY:
            found = f"{energy:.6f} eV for {symbol}"
            expected = f"{energies[number]:.6f} eV as in {origin[number].where}"
            problems.append(Problem(frame.where, "energy", found, expected))
            continue
        energies.setdefault(number, energy)
        origin.setdefault(number, frame)
    broken = {int(frame.numbers[0]) for frame in isolated if len(frame.numbers) == 1}
    hint = f'add frames of one atom with config_type={ISOLATED_ATOM}, or use atomic_energies = "average"'
    missing = _missing(set(energies) | broken, species, source, hint)
    return AtomicEnergies({n: energies.get(n, 0.0) for n in species}, problems + missing, [])


def given_energies(table: Mapping[str, Any], species: Sequence[int], source: str) -> AtomicEnergies:
    """Return the E0s of a table by chemical symbol (or atomic number as text)."""
    energies: dict[int, float] = {}
    problems = []
    for name, value in table.items():
        number = atomic_numbers.get(name, int(name) if str(name).isdecimal() else 0)
        if not 0 < number < len(chemical_symbols):
            hint = did_you_mean(name, chemical_symbols[1:])
            problems.append(Problem(source, f"{KEY}.{name}", repr(name), "a chemical symbol", hint))
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            problems.append(Problem(source, f"{KEY}.{name}", repr(value), "an energy in eV"))
        else:
            energies[number] = float(value)
    hint = f"it has {', '.join(table) or 'no entry'}; add the missing energies in eV"
    problems += _missing(energies, species, source, hint)
    return AtomicEnergies({number: energies.get(number, 0.0) for number in species}, problems, [])


def energies_from_file(path: Path, species: Sequence[int]) -> AtomicEnergies:
    """Return the E0s of a JSON or TOML file that holds one table ``{symbol: energy}``."""
    nothing = dict.fromkeys(species, 0.0)
    expected = "a JSON or TOML file with a table of symbol and energy"
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        hint = 'or one of the words "average" and "isolated"'
        found = f"a file that cannot be read ({error.strerror})"
        return AtomicEnergies(nothing, [Problem(shown_path(path), KEY, found, expected, hint)], [])
    except ValueError as error:  # the decode errors of text, JSON and TOML
        found = f"a file that cannot be parsed ({error})"
        return AtomicEnergies(nothing, [Problem(shown_path(path), KEY, found, expected)], [])
    if not isinstance(table, dict):
        found = f"a {type(table).__name__}"
        return AtomicEnergies(nothing, [Problem(shown_path(path), KEY, found, expected)], [])
    return given_energies(table, species, shown_path(path))


def _compositions(
    frames: Iterable[Frame], species: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the number of atoms of each element and the energies of the frames that have one.

    Shapes (n_used, n_species) and (n_used,). Frames may be read one by one: none is kept.
    """
    known = np.asarray(species)
    energies = array("d")
    counts = array("d")
    for frame in frames:
        energy = frame.values.get("energy")
        if energy is not None and np.isfinite(energy) and frame.weights["energy"] > 0.0:
            energies.append(float(energy))
            counts.extend((frame.numbers[:, None] == known).sum(axis=0).tolist())
    return np.array(counts).reshape(-1, len(species)), np.array(energies)


def _undetermined(counts: NDArray[np.float64]) -> list[int]:
    """Return the columns that a vector of the null space touches."""
    # the triangular factor has the same null space, and the other one would be (n_frames, n_frames)
    _, sizes, right = np.linalg.svd(np.linalg.qr(counts, mode="r"))
    rank = int((sizes > sizes.max() * max(counts.shape) * np.finfo(float).eps).sum())
    return [int(place) for place in np.flatnonzero(np.abs(right[rank:]).max(axis=0) > 1.0e-8)]


def _missing(known: Collection[int], species: Sequence[int], source: str, hint: str) -> list[Problem]:
    """Return one problem that names all elements without an energy."""
    missing = ", ".join(chemical_symbols[number] for number in species if number not in known)
    if not missing:
        return []
    return [Problem(source, KEY, f"no energy for {missing}", "one for every element of the data", hint)]
