"""Checks of frames before anything is trained on them; every one has its opt-out in the recipe.

Each check takes frames and returns all problems, so that a caller can collect and then cut them with
:func:`lsf.data.readers.base.limited`. :func:`tolerated` first applies the opt-outs that mean "leave this
label out".
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from ase.data import chemical_symbols

from lsf.data.charges import FormalCharges, charges_of
from lsf.data.frames import Frame
from lsf.data.neighbors import closest_pair
from lsf.errors import Problem
from lsf.recipe.quantities import LABELS, PROPERTIES

if TYPE_CHECKING:
    from lsf.recipe.schema import Checks

CHARGE_TOLERANCE: Final = 1.0e-6
"""Largest difference between the sum of formal charges and total_charge that counts as rounding, in e."""


def opt_out(name: str, meaning: str) -> str:
    """Return the hint that names a check's switch."""
    return f"set data.checks.{name} to {meaning}"


def tolerated(frame: Frame, checks: Checks, max_l: int) -> Frame:
    """Return the frame without the labels that the recipe asks to leave out instead of refusing them."""
    unusable = set()
    if checks.drop_nonfinite_labels:
        unusable |= {name for name in _labels(frame) if not np.isfinite(frame.values[name]).all()}
    if checks.drop_short_multipoles and _too_few_columns(frame, max_l):
        unusable.add("atomic_multipoles")
    return frame.without(unusable) if unusable else frame


def cell_problems(frame: Frame) -> list[Problem]:
    """Return positions or cells that are no numbers, and periodic directions without lattice vectors."""
    for name, array in (("positions", frame.positions), ("cell", frame.cell)):
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            what = f"atom {row}" if name == "positions" else f"lattice vector {row}"
            return [Problem(frame.where, name, f"NaN or infinity for {what}", "finite numbers")]
    rows = frame.cell[frame.pbc]
    lengths = np.linalg.norm(rows, axis=1)
    flat = len(rows) and (
        not lengths.min() > 0.0
        # the volume spanned by unit vectors: zero when they are parallel
        or np.linalg.svd(rows / lengths[:, None], compute_uv=False).min() < 1.0e-6
    )
    if flat:
        found = f"pbc = {_flags(frame.pbc)} with the cell {frame.cell.tolist()}"
        hint = "give the Lattice, or declare the directions F in pbc"
        return [Problem(frame.where, "cell", found, "independent lattice vectors where periodic", hint)]
    return []


def structure_problems(frame: Frame, checks: Checks) -> list[Problem]:
    """Return what is wrong with positions and cell; such a frame has no neighbours that mean anything."""
    broken = cell_problems(frame)
    if broken:
        return broken
    if checks.min_distance <= 0.0:
        return []
    pair = closest_pair(frame.positions, frame.cell, frame.pbc, checks.min_distance)
    if pair is None:
        return []
    first, second, distance = pair
    symbols = [chemical_symbols[frame.numbers[atom]] for atom in (first, second)]
    found = f"atoms {first} ({symbols[0]}) and {second} ({symbols[1]}) {distance:.3f} Å apart"
    if first == second:
        found = f"atom {first} ({symbols[0]}) {distance:.3f} Å from its own periodic image"
    expected = f"at least {checks.min_distance:g} Å"
    hint = "are positions and cell in Å? otherwise " + opt_out("min_distance", "a smaller value, 0 for none")
    return [Problem(frame.where, "positions", found, expected, hint)]


def density_problems(frames: Iterable[Frame], checks: Checks) -> list[Problem]:
    """Return periodic frames with so much room per atom that they look like molecules in a box."""
    if checks.allow_low_density:
        return []
    problems = []
    for frame in frames:
        volume = abs(float(np.linalg.det(frame.cell)))
        per_atom = volume / len(frame.numbers)
        if frame.pbc.all() and per_atom > checks.max_volume_per_atom:
            found = (
                f"{per_atom:.1f} Å³ per atom ({volume:.0f} Å³, {len(frame.numbers)} atoms, config_type "
                f"{frame.config_type}) with pbc = T T T"
            )
            expected = f"at most {checks.max_volume_per_atom:g} Å³ per atom in a fully periodic frame"
            hint = (
                "a molecule in a box should say pbc = F F F, a surface two T and one F; if it is periodic, "
                + opt_out("allow_low_density", "true")
            )
            problems.append(Problem(frame.where, "pbc", found, expected, hint))
    return problems


def dipole_weight_problems(frames: Iterable[Frame], checks: Checks) -> list[Problem]:
    """Return frames with a dipole that do not say which of its components mean something."""
    if checks.allow_dipole_without_weight:
        return []
    hint = (
        'add it to the frame: "1 1 1" for a cluster, "0 0 1" for a slab with normal z, "0 0 0" for bulk, '
        "whose dipole is many-valued; to use all directions that are not periodic, "
        + opt_out("allow_dipole_without_weight", "true")
    )
    return [
        Problem(frame.where, "dipole", "a dipole without config_dipole_weight", "three weights", hint)
        for frame in frames
        if "dipole" in frame.values and not frame.has_dipole_weight
    ]


def dipole_warnings(split: str, frames: Iterable[Frame]) -> list[str]:
    """Return remarks on dipoles that count nowhere, or along directions where they are many-valued."""
    labelled = silent = doubtful = 0
    for frame in frames:
        if "dipole" in frame.values:
            labelled += 1
            silent += not frame.has_dipole_weight and bool(frame.pbc.all())
            doubtful += bool((frame.weights["dipole"] > 0.0)[frame.pbc].any())
    warnings = []
    if silent:
        warnings.append(
            f"{split}: the dipoles of {silent} of {labelled} frames are not used: a fully periodic "
            "frame without config_dipole_weight has no direction along which its dipole has one value"
        )
    if doubtful:
        warnings.append(
            f"{split}: {doubtful} of {labelled} frames give weight to a dipole along a periodic "
            "direction, where it is defined up to a charge times a lattice vector"
        )
    return warnings


def charge_problems(frames: Sequence[Frame], rule: FormalCharges, checks: Checks) -> list[Problem]:
    """Return formal charges that are missing, or do not add up to the frame's total charge."""
    if rule is None:
        return []
    problems: list[Problem] = []
    for frame in frames:
        charges, lacking = charges_of(frame.numbers, frame.values, rule)
        if lacking and not checks.allow_missing_formal_charges:
            expected = "a formal charge for every atom"
            hint = lacking.hint + "; to take 0 instead, " + opt_out("allow_missing_formal_charges", "true")
            problems.append(Problem(frame.where, "formal_charges", lacking.what, expected, hint))
            continue
        if "total_charge" not in frame.values or checks.allow_total_charge_mismatch:
            continue
        total, label = float(charges.sum()), float(frame.values["total_charge"])
        if abs(total - label) > CHARGE_TOLERANCE:
            found_text = f"formal charges that add up to {total:g} e"
            hint = (
                "models with formal charges keep exactly their sum; give charges per atom "
                '(formal_charges = "from_data"), or ' + opt_out("allow_total_charge_mismatch", "true")
            )
            problems.append(
                Problem(frame.where, "total_charge", found_text, f"{label:g} e, the total_charge", hint)
            )
    return problems


def label_problems(frames: Iterable[Frame], max_l: int, checks: Checks) -> list[Problem]:
    """Return labels that are no numbers, forces beyond reason and multipoles with too few columns."""
    problems = []
    for frame in frames:
        for name, value in frame.values.items():
            finite = np.isfinite(value)
            if finite.all():
                continue
            where = f" at atom {np.argwhere(~finite)[0][0]}" if PROPERTIES[name].level == "atom" else ""
            hint = opt_out("drop_nonfinite_labels", "true") + " to count such labels as absent"
            hint = hint if name in LABELS else ""
            problems.append(Problem(frame.where, name, f"NaN or infinity{where}", "finite numbers", hint))
        problems += _force_problems(frame, checks)
        if _too_few_columns(frame, max_l):
            columns = frame.values["atomic_multipoles"].shape[1]
            hint = "lower electrostatics.multipoles_max_l, or " + opt_out("drop_short_multipoles", "true")
            expected = f"at least {(max_l + 1) ** 2}: 0 ≤ l ≤ {max_l} in the order Q, y, z, x, …"
            problems.append(Problem(frame.where, "atomic_multipoles", f"{columns} columns", expected, hint))
    return problems


def _force_problems(frame: Frame, checks: Checks) -> list[Problem]:
    if "forces" not in frame.values or checks.max_force is None:
        return []
    sizes = np.abs(frame.values["forces"]).max(axis=1)
    atom = int(np.nanargmax(sizes)) if np.isfinite(sizes).any() else 0
    if not sizes[atom] > checks.max_force or np.isinf(sizes[atom]):
        return []
    symbol = chemical_symbols[frame.numbers[atom]]
    found = f"{sizes[atom]:.4g} eV/Å on atom {atom} ({symbol})"
    hint = 'are they in eV/Å? otherwise raise data.checks.max_force, or set it to "none"'
    return [Problem(frame.where, "forces", found, f"components up to {checks.max_force:g} eV/Å", hint)]


def energy_problems(
    frames: Iterable[Frame], atomic_energies: Mapping[int, float], checks: Checks
) -> list[Problem]:
    """Return energies that lie beyond reason from the sum of the atomic energies."""
    limit = checks.max_energy_per_atom_deviation
    if limit is None:
        return []
    problems = []
    for frame in frames:
        known = set(frame.numbers.tolist()) <= atomic_energies.keys()
        if not known or "energy" not in frame.values or not np.isfinite(frame.values["energy"]):
            continue
        atoms = sum(atomic_energies[number] for number in frame.numbers.tolist())
        deviation = (float(frame.values["energy"]) - atoms) / len(frame.numbers)
        if abs(deviation) > limit:
            found = f"an energy {deviation:+.4g} eV per atom from the sum of the atomic energies"
            hint = (
                "are energies and atomic energies in eV and of one method? otherwise raise "
                'data.checks.max_energy_per_atom_deviation, or set it to "none"'
            )
            problems.append(Problem(frame.where, "energy", found, f"within {limit:g} eV per atom", hint))
    return problems


def duplicate_problems(splits: Mapping[str, Sequence[Frame]], checks: Checks) -> list[Problem]:
    """Return frames that repeat an earlier one, inside a split or across splits.

    Two frames are the same when everything a model sees is: elements, positions, cell, periodicity, total
    and formal charges and field. Two different test sets may overlap.
    """
    if checks.allow_duplicates:
        return []
    repeated = _repeated(splits)
    if not repeated:
        return []
    tests = set(splits) - {"train", "valid"}
    seen: dict[bytes, list[tuple[str, Frame]]] = {}
    problems = []
    for split, frames in splits.items():
        for frame in frames:
            fingerprint = _fingerprint(frame)
            if _digest(fingerprint) not in repeated:
                continue
            earlier = seen.setdefault(fingerprint, [])
            clash = next(
                (item for item in earlier if not (split != item[0] and {split, item[0]} <= tests)), None
            )
            if clash is not None:
                found = f"the same structure as {clash[1].where} ({clash[0]})"
                hint = "remove one of them, or " + opt_out("allow_duplicates", "true")
                where = f"{frame.where} ({split})"
                problems.append(Problem(where, "duplicate", found, "every structure once", hint))
            earlier.append((split, frame))
    return problems


def _repeated(splits: Mapping[str, Sequence[Frame]]) -> frozenset[int]:
    """Return the digests that more than one frame has; eight bytes a frame are in memory, not its content."""
    every = (_digest(_fingerprint(frame)) for frames in splits.values() for frame in frames)
    digests, counts = np.unique(np.fromiter(every, dtype=np.int64), return_counts=True)
    return frozenset(digests[counts > 1].tolist())


def _digest(fingerprint: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(fingerprint, digest_size=8).digest(), "big", signed=True)


def species_problems(frames: Iterable[Frame], species: Collection[int]) -> list[Problem]:
    """Return atoms of elements that a model (or the training data) does not know."""
    known = set(species)
    listed = ", ".join(chemical_symbols[number] for number in sorted(known))
    problems = []
    for frame in frames:
        unknown = sorted(set(frame.numbers.tolist()) - known)
        if unknown:
            found = ", ".join(chemical_symbols[number] for number in unknown)
            expected = f"elements the model was trained on: {listed}"
            problems.append(Problem(frame.where, "species", found, expected))
    return problems


def _labels(frame: Frame) -> list[str]:
    return [name for name in frame.values if name in LABELS]


def _too_few_columns(frame: Frame, max_l: int) -> bool:
    multipoles = frame.values.get("atomic_multipoles")
    return multipoles is not None and multipoles.shape[1] < (max_l + 1) ** 2


def _fingerprint(frame: Frame) -> bytes:
    """Return the inputs of a frame as bytes, positions and cell rounded to 1e-6 Å."""
    inputs = [
        frame.values[name] for name in ("total_charge", "charges", "external_field") if name in frame.values
    ]
    # adding zero turns -0.0, which has other bytes, into 0.0
    numbers = [np.round(array, 6) + 0.0 for array in (frame.positions, frame.cell, *inputs)]
    return b"|".join([frame.numbers.tobytes(), frame.pbc.tobytes(), *(array.tobytes() for array in numbers)])


def _flags(pbc: np.ndarray) -> str:
    return " ".join("T" if periodic else "F" for periodic in pbc)
