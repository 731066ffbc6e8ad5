"""Frames: structures whose mapped keys have become properties of fixed shape, with their weights.

Which key holds which property is said by a :class:`lsf.recipe.schema.Head`; nothing is guessed from names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from lsf.errors import Problem, did_you_mean
from lsf.recipe.quantities import LABELS, PROPERTIES
from lsf.recipe.quantity import Quantity

if TYPE_CHECKING:
    from ase import Atoms

    from lsf.recipe.schema import Head

Floats = NDArray[np.float64]

# ASE moves results under these names from a frame's arrays into its calculator
_PER_ATOM_RESULTS: Final = frozenset(
    {"forces", "stresses", "charges", "magmoms", "energies", "born_effective_charges"}
)
_STRUCTURE: Final = frozenset({"numbers", "positions"})

_VOIGT: Final = ((0, 5, 4), (5, 1, 3), (4, 3, 2))
"""Place of each matrix element in xx, yy, zz, yz, xz, xy."""

DEFAULT_CONFIG_TYPE: Final = "Default"


@attrs.frozen(eq=False)
class Frame:
    """One structure of a file.

    ``values`` holds the mapped properties this frame has, in the shapes of
    :data:`lsf.recipe.quantities.PROPERTIES` (``atomic_multipoles`` with all columns of the file).
    ``weights`` has an entry for every label, 0 where the label is absent: a number, or for ``dipole`` one
    per Cartesian component.
    """

    numbers: NDArray[np.int64]  # (n_atoms,)
    positions: Floats  # (n_atoms, 3) Å
    cell: Floats  # (3, 3) Å, rows are lattice vectors; zero where there is none
    pbc: NDArray[np.bool_]  # (3,)
    values: dict[str, Floats]
    weights: dict[str, Floats]
    config_type: str
    head: str
    source: str  # file name
    index: int  # position in the file, from 0 as in ASE
    has_dipole_weight: bool  # the file says which dipole components count

    @property
    def where(self) -> str:
        """File and frame, as error messages name them."""
        return f"{self.source}, frame {self.index}"

    def without(self, labels: Iterable[str]) -> Frame:
        """Return the frame with these labels taken away."""
        gone = set(labels)
        values = {name: value for name, value in self.values.items() if name not in gone}
        weights = {name: np.zeros_like(w) if name in gone else w for name, w in self.weights.items()}
        return attrs.evolve(self, values=values, weights=weights)


class _ShapeError(Exception):
    """A value cannot be brought into a property's shape."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found)
        self.found = found
        self.expected = expected


def frame_entries(atoms: Atoms) -> dict[str, Any]:
    """Return everything stored once per frame: info, and what ASE moved into the calculator."""
    moved = {name: value for name, value in _results(atoms).items() if name not in _PER_ATOM_RESULTS}
    return {**moved, **atoms.info}


def atom_entries(atoms: Atoms) -> dict[str, Any]:
    """Return everything stored once per atom but numbers and positions."""
    moved = {name: value for name, value in _results(atoms).items() if name in _PER_ATOM_RESULTS}
    return {**moved, **{name: value for name, value in atoms.arrays.items() if name not in _STRUCTURE}}


def _results(atoms: Atoms) -> dict[str, Any]:
    from ase.calculators.singlepoint import SinglePointCalculator

    return dict(atoms.calc.results) if isinstance(atoms.calc, SinglePointCalculator) else {}


def frame_from_atoms(
    atoms: Atoms,
    heads: Mapping[str, Head],
    *,
    source: str,
    index: int,
    config_type_weights: Mapping[str, float] | None = None,
) -> tuple[Frame | None, list[Problem]]:
    """Return the frame of an ASE structure, or None, with everything that is wrong with its labels.

    ``heads`` maps head names to key mappings; a frame that names none belongs to the first.
    """
    where = f"{source}, frame {index}"
    entries, columns = frame_entries(atoms), atom_entries(atoms)
    head_name, problems = _head_of(entries, heads, where)
    if head_name is None:
        return None, problems
    head = heads[head_name]
    values: dict[str, Floats] = {}
    mapped = [(name, key, entries) for name, key in head.info_keys.items() if name != "head"]
    mapped += [(name, key, columns) for name, key in head.arrays_keys.items()]
    for name, key, stored in mapped:
        if key not in stored:
            continue
        try:
            values[name] = as_property(stored[key], PROPERTIES[name], len(atoms))
        except _ShapeError as error:
            problems.append(Problem(where, f"{name} (key {key!r})", error.found, error.expected))
    config_type = str(entries.get("config_type", DEFAULT_CONFIG_TYPE))
    factor = (config_type_weights or {}).get(config_type, 1.0)
    pbc = np.array(atoms.pbc, dtype=np.bool_)
    weights, weight_problems = _weights(entries, values, pbc, factor, where)
    problems += weight_problems
    frame = Frame(
        numbers=atoms.numbers.astype(np.int64),
        positions=np.array(atoms.positions, dtype=np.float64),
        cell=np.array(atoms.cell, dtype=np.float64).reshape(3, 3),
        pbc=pbc,
        values=values,
        weights=weights,
        config_type=config_type,
        head=head_name,
        source=source,
        index=index,
        has_dipole_weight="config_dipole_weight" in entries,
    )
    return frame, problems


def _head_of(
    entries: Mapping[str, Any], heads: Mapping[str, Head], where: str
) -> tuple[str | None, list[Problem]]:
    """Return the head a frame belongs to."""
    keys = {head.info_keys["head"] for head in heads.values() if "head" in head.info_keys}
    if len(heads) > 1:
        keys.add("head")
    for key in sorted(keys & set(entries)):
        name = str(entries[key])
        if name in heads:
            return name, []
        expected = f"one of the recipe's heads: {', '.join(heads)}"
        return None, [Problem(where, f"head (key {key!r})", repr(name), expected, did_you_mean(name, heads))]
    return next(iter(heads)), []


def as_property(raw: Any, item: Quantity, n_atoms: int) -> Floats:
    """Return a stored value as float64 array in the shape of the property (one frame, or all atoms).

    Matrices may stand as 9 numbers or 3×3, symmetric ones of stress and virials also as 6 in the order
    xx, yy, zz, yz, xz, xy; vectors may be nested (``[[x, y, z]]``).
    """
    expected = _expected(item, n_atoms)
    try:
        array = np.asarray(raw)
    except ValueError:
        raise _ShapeError("a list of lists of unequal lengths", expected) from None
    if array.dtype.kind not in "iuf":
        raise _ShapeError(_not_numeric(raw), expected)
    array = array.astype(np.float64)
    if item.whole and (array != np.round(array)).any():
        raise _ShapeError("numbers with a fraction", expected)
    shaped = _per_frame(array, item) if item.level == "frame" else _per_atom(array, item, n_atoms)
    if shaped is None:
        found = (
            f"{array.size} number{'s' * (array.size != 1)}" if array.ndim < 2 else f"an array {array.shape}"
        )
        raise _ShapeError(found, expected)
    return shaped


def _per_frame(array: Floats, item: Quantity) -> Floats | None:
    flat = array.reshape(-1)
    if item.name in ("stress", "virials") and flat.size == 6:
        return np.asarray(flat[np.array(_VOIGT)])
    size = int(np.prod(item.shape))
    return flat.reshape(item.shape) if flat.size == size else None


def _per_atom(array: Floats, item: Quantity, n_atoms: int) -> Floats | None:
    if array.ndim == 0 or array.shape[0] != n_atoms:
        return None
    table = array.reshape(n_atoms, -1)
    columns = table.shape[1]
    if item.shape == (-1,):
        return table if round(columns**0.5) ** 2 == columns else None
    if columns != int(np.prod(item.shape)):
        return None
    return table.reshape(n_atoms, *item.shape)


def _expected(item: Quantity, n_atoms: int) -> str:
    unit = f" ({item.unit})"
    if item.level == "atom":
        columns = "1, 4, 9, …" if item.shape == (-1,) else str(int(np.prod(item.shape)))
        plural = "" if columns == "1" else "s"
        return f"{columns} number{plural} for each of {n_atoms} atom{'s' * (n_atoms != 1)}{unit}"
    if item.shape == (3, 3):
        voigt = " or 6 in the order xx yy zz yz xz xy" if item.name in ("stress", "virials") else ""
        return f"9 numbers (3×3){voigt}{unit}"
    size = int(np.prod(item.shape))
    return f"{size} number{'s' * (size != 1)}{unit}"


def _not_numeric(raw: Any) -> str:
    if isinstance(raw, str):
        return f"text {raw[:40]!r}"
    if isinstance(raw, (bool, np.bool_)):
        return "a key without a number"
    return f"entries that are not numbers ({str(raw)[:40]})"


def _weights(
    entries: Mapping[str, Any],
    values: Mapping[str, Floats],
    pbc: NDArray[np.bool_],
    factor: float,
    where: str,
) -> tuple[dict[str, Floats], list[Problem]]:
    """Return the weight of every label: frame weight × config-type weight × property weight."""
    problems: list[Problem] = []

    def number(key: str, shape: tuple[int, ...] = ()) -> Floats:
        if key not in entries:
            return np.ones(shape)
        size = int(np.prod(shape))
        what = "one number" if size == 1 else f"{size} numbers, one for each of x, y and z"
        array = np.asarray(entries[key])
        if array.dtype.kind not in "iuf" or array.size != size or not (array >= 0).all():
            problems.append(Problem(where, key, repr(entries[key]), f"{what}, not negative"))
            return np.ones(shape)
        return array.astype(np.float64).reshape(shape)

    whole = factor * number("config_weight")
    weights: dict[str, Floats] = {}
    for name in LABELS:
        shape = (3,) if name == "dipole" else ()
        if name == "dipole" and "config_dipole_weight" not in entries:
            # along a periodic direction the dipole is defined modulo a quantum only
            own: Floats = (~pbc).astype(np.float64)
        else:
            own = number(f"config_{name}_weight", shape)
        weights[name] = np.asarray(whole * own) if name in values else np.zeros(shape)
    return weights, problems
