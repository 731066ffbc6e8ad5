"""Makes the quantum-mechanical sets of ``recipes/data``: GFN2-xTB clusters and a dissociating ion pair.

    pip install tblite==0.8.0
    python tools/make_water_data.py water           # (H2O)n, H3O+(H2O)n, OH-(H2O)n
    python tools/make_water_data.py ions            # Na+, Cl-, NaCl, H3O+, OH- with water
    python tools/make_water_data.py dissociation    # NH4+...BF4-, near for training, far for the test
    python tools/make_water_data.py verify FILE ... # recompute the labels of any of these files

Clusters are snapshots of thermal trajectories 100 fs apart. Every trajectory belongs to one split and
starts from its own random packing, so that no test frame has a neighbour in time among the training
frames. Runs with OMP_NUM_THREADS=1 repeat themselves to the last digit on one machine; on another one the
trajectories depart from each other within a picosecond, and the sets agree as samples only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Final

import ase.io
import gfn2
import numpy as np
from ase.data import atomic_masses, atomic_numbers
from extxyz import Frame, rounded, write_frames
from numpy.typing import NDArray
from tblite.exceptions import TBLiteRuntimeError

Array = NDArray[np.float64]

DATA: Final = Path(__file__).resolve().parents[1] / "recipes" / "data"

FORMAL_CHARGES: Final = {"H": 1.0, "O": -2.0, "Na": 1.0, "Cl": -1.0, "N": -3.0, "B": 3.0, "F": -1.0}
_TETRAHEDRON: Final = np.array([[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]) / np.sqrt(3.0)
_ORIGIN: Final = np.zeros((1, 3))
# name: (elements, starting positions in Å with the central atom at the origin, charge)
FRAGMENTS: Final[dict[str, tuple[tuple[str, ...], Array, float]]] = {
    "H2O": (("O", "H", "H"), np.array([[0, 0, 0], [0.757, 0.587, 0], [-0.757, 0.587, 0]]), 0.0),
    "H3O+": (("O", "H", "H", "H"), np.vstack([_ORIGIN, 0.98 * _TETRAHEDRON[:3]]), 1.0),
    "OH-": (("O", "H"), np.array([[0, 0, 0], [0.97, 0, 0]]), -1.0),
    "Na+": (("Na",), _ORIGIN, 1.0),
    "Cl-": (("Cl",), _ORIGIN, -1.0),
    "NH4+": (("N", "H", "H", "H", "H"), np.vstack([_ORIGIN, 1.03 * _TETRAHEDRON]), 1.0),
    "BF4-": (("B", "F", "F", "F", "F"), np.vstack([_ORIGIN, -1.39 * _TETRAHEDRON]), -1.0),
}
SPLITS: Final = {"train": 0, "valid": 1, "test": 2}

# kind of cluster: (fragments beside the water, numbers of water molecules)
CLUSTERS: Final = {
    "water": {"H2O": ((), range(1, 7)), "H3O+": (("H3O+",), range(5)), "OH-": (("OH-",), range(5))},
    "ions": {
        "Na+": (("Na+",), range(1, 6)),
        "Cl-": (("Cl-",), range(1, 6)),
        "NaCl": (("Na+", "Cl-"), range(1, 6)),
        "H3O+": (("H3O+",), range(4)),
        "OH-": (("OH-",), range(4)),
    },
}
# split: (trajectories of every composition, frames of every trajectory)
SAMPLES: Final = {
    "water": {"train": (4, 7), "valid": (2, 2), "test": (2, 3)},
    "ions": {"train": (3, 5), "valid": (1, 2), "test": (1, 3)},
}
TEMPERATURES: Final = (300.0, 400.0, 500.0)  # K
EQUILIBRATION: Final = 300  # steps of 1 fs
INTERVAL: Final = 100  # steps between frames
CONTACT: Final = 1.6  # Å, shortest distance between atoms of different fragments in a random packing
STRONGEST_FIELD: Final = 0.05  # V/Å

PAIR: Final = ("NH4+", "BF4-")
PAIR_CONTACT: Final = 1.7  # Å
NEAR: Final = (3.0, 6.0)  # Å between N and B, trained on
FAR: Final = (6.0, 15.0)  # held out
PAIR_COUNTS: Final = {"train": 240, "valid": 40, "test": 60}
MONOMER_COUNTS: Final = {"train": 30, "valid": 5, "test": 0}
CURVE_STEP: Final = 0.25  # Å


def main() -> None:
    """Run the subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, seed in (("water", 20261), ("ions", 20262), ("dissociation", 20264)):
        command = commands.add_parser(name)
        command.add_argument("--seed", type=int, default=seed)
        command.add_argument("--out", type=Path, default=DATA)
    commands.add_parser("verify").add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()
    if options.command == "verify":
        for path in options.files:
            sys.stdout.write(f"{path.name}: {verify(path)}\n")
    elif options.command == "dissociation":
        for name, frames in dissociation(options.seed):
            write_frames(options.out / f"dissociation_{name}.xyz", frames)
    else:
        stem = {"water": "water_clusters", "ions": "ions"}[options.command]
        for split in SPLITS:
            frames = clusters(options.command, split, options.seed)
            write_frames(options.out / f"{stem}_{split}.xyz", frames)


def clusters(name: str, split: str, seed: int) -> list[Frame]:
    """Return the labelled clusters of one split; every third one stands in a field."""
    trajectories, count = SAMPLES[name][split]
    frames: list[Frame] = []
    compositions = [
        (f"{kind}_H2O_{waters}" if beside else f"H2O_{waters}", (*beside, *("H2O",) * waters))
        for kind, (beside, numbers) in CLUSTERS[name].items()
        for waters in numbers
    ]
    for index, (config_type, fragments) in enumerate(compositions):
        for trajectory in range(trajectories):
            key = (seed, SPLITS[split], index, trajectory)
            numbers, snapshots, rng = thermal_snapshots(fragments, count, key)
            for positions in snapshots:
                shifted = positions + rng.uniform(-2.0, 2.0, 3)
                field = random_field(rng) if len(frames) % 3 == 0 else np.zeros(3)
                charge = sum(FRAGMENTS[fragment][2] for fragment in fragments)
                frames.append(with_response(numbers, shifted, charge, config_type, field))
    return frames


def thermal_snapshots(
    fragments: tuple[str, ...], count: int, key: tuple[int, ...]
) -> tuple[NDArray[np.int64], list[Array], np.random.Generator]:
    """Return atomic numbers, ``count`` snapshots of one trajectory, and the generator for what follows.

    A trajectory in which the SCF fails to converge (clashes, artificial charge transfer) is discarded
    and started again from another packing.
    """
    for attempt in range(20):
        rng = np.random.default_rng([*key, attempt])
        numbers, positions = packed(fragments, rng)
        trajectory = gfn2.Trajectory(
            numbers,
            positions,
            atomic_masses[numbers],
            charge=sum(FRAGMENTS[fragment][2] for fragment in fragments),
            temperature=float(rng.choice(TEMPERATURES)),
            radius=1.5 + 1.93 * len(fragments) ** (1.0 / 3.0),  # 30 Å³ a molecule and 1.5 Å of room
            rng=rng,
        )
        try:
            trajectory.relax(40)
            trajectory.run(EQUILIBRATION)
            snapshots = []
            for _ in range(count):
                trajectory.run(INTERVAL)
                snapshots.append(trajectory.positions.copy())
        except TBLiteRuntimeError:
            continue
        return numbers, snapshots, rng
    raise RuntimeError(f"no converged trajectory of {'+'.join(fragments)} in 20 attempts")


def packed(fragments: tuple[str, ...], rng: np.random.Generator) -> tuple[NDArray[np.int64], Array]:
    """Return the fragments turned at random, each 2.8 Å from one placed before it."""
    elements: list[str] = []
    positions, centers = np.zeros((0, 3)), np.zeros((1, 3))
    for fragment in fragments:
        names, shape, _ = FRAGMENTS[fragment]
        while True:
            turned = shape @ random_rotation(rng).T
            center = centers[rng.integers(len(centers))] + 2.8 * random_direction(rng)
            if closest(positions, turned + center) > CONTACT:
                break
        elements.extend(names)
        positions = np.vstack([positions, turned + center])
        centers = np.vstack([centers, center]) if len(elements) > len(names) else center[None]
    return np.array([atomic_numbers[name] for name in elements]), positions


def dissociation(seed: int) -> Iterator[tuple[str, list[Frame]]]:
    """Yield name and frames of the ion-pair files: near and far pairs, single ions, and the curve."""
    for split, index in SPLITS.items():
        pools = [monomers(name, 100, (seed, index, number)) for number, name in enumerate(PAIR)]
        rng = np.random.default_rng([seed, index, len(PAIR)])
        near = [random_pair(pools, NEAR, rng) for _ in range(PAIR_COUNTS[split])]
        single = [
            single_ion(name, pools[number][frame])
            for number, name in enumerate(PAIR)
            for frame in range(MONOMER_COUNTS[split])
        ]
        yield ("test_near" if split == "test" else split), near + single
        if split == "test":
            far = (random_pair(pools, FAR, rng) for _ in repeat(None))
            yield "test_far", list(islice(filter(whole_charges, far), PAIR_COUNTS[split]))
    shapes = [relaxed(name) for name in PAIR]
    distances = np.arange(NEAR[0], FAR[1] + 0.5 * CURVE_STEP, CURVE_STEP)
    yield "curve", [pair(shapes[0], shapes[1], np.array([distance, 0.0, 0.0])) for distance in distances]


def whole_charges(frame: Frame) -> bool:
    """Tell whether both ions carry one whole charge, to 1e-3 e.

    At large distances the fractional occupations of GFN2 move up to 1e-2 e between ions in a few
    distorted geometries. No real pair of these ions does that (the anion binds its electron more strongly
    than the cation would), so such frames are drawn again.
    """
    size = int(frame.info["natomsA"])
    return abs(float(np.sum(frame.arrays["REF_charges"][:size])) - FRAGMENTS[PAIR[0]][2]) < 1e-3


def monomers(name: str, count: int, key: tuple[int, ...]) -> list[Array]:
    """Return thermal geometries of one ion with its central atom at the origin."""
    _, snapshots, _ = thermal_snapshots((name,), count, key)
    return [positions - positions[0] for positions in snapshots]


def relaxed(name: str) -> Array:
    """Return the ion's geometry of lowest energy, central atom at the origin."""
    numbers, positions = numbers_of(name), FRAGMENTS[name][1]
    trajectory = gfn2.Trajectory(
        numbers, positions, atomic_masses[numbers], FRAGMENTS[name][2], 0.0, 10.0, np.random.default_rng(0)
    )
    trajectory.relax(200)
    return trajectory.positions - trajectory.positions[0]


def random_pair(pools: list[list[Array]], reach: tuple[float, float], rng: np.random.Generator) -> Frame:
    """Return a pair of thermal ions, turned at random, at a random distance within ``reach``."""
    while True:
        first, second = (pool[rng.integers(len(pool))] @ random_rotation(rng).T for pool in pools)
        separation = rng.uniform(*reach) * random_direction(rng)
        if closest(first, second + separation) > PAIR_CONTACT:
            return pair(first, second, separation)


def pair(first: Array, second: Array, separation: Array) -> Frame:
    """Return the labelled pair with the energies of its ions in the same geometries."""
    numbers = np.concatenate([numbers_of(name) for name in PAIR])
    positions = rounded(np.vstack([first, second + separation]))
    size = len(first)
    energies = [
        gfn2.label(numbers[part], positions[part], FRAGMENTS[name][2]).energy
        for name, part in zip(PAIR, (slice(size), slice(size, None)), strict=True)
    ]
    extra = {
        "distance": float(np.linalg.norm(positions[size] - positions[0])),
        "natomsA": float(size),
        "energyA": energies[0],
        "energyB": energies[1],
    }
    return labelled(numbers, positions, 0.0, "pair", extra=extra)


def single_ion(name: str, positions: Array) -> Frame:
    """Return the labelled frame of one ion."""
    return labelled(numbers_of(name), positions, FRAGMENTS[name][2], name)


def with_response(
    numbers: NDArray[np.int64], positions: Array, charge: float, config_type: str, field: Array
) -> Frame:
    """Return a labelled frame that also holds its field and its polarizability."""
    positions, field = rounded(positions), rounded(field)
    extra = {
        "electric_field": field,
        "external_field": 0.0 - field,  # the gradient of the potential
        "REF_polarizability": gfn2.polarizability(numbers, positions, charge, field),
    }
    return labelled(numbers, positions, charge, config_type, field, extra)


def labelled(
    numbers: NDArray[np.int64],
    positions: Array,
    charge: float,
    config_type: str,
    field: Array | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Frame:
    """Return the frame with its labels, all computed at the rounded positions."""
    positions = rounded(positions)
    labels = gfn2.label(numbers, positions, charge, field)
    symbols = {number: name for name, number in atomic_numbers.items()}
    return Frame(
        numbers=numbers,
        positions=positions,
        pbc=(False, False, False),
        cell=None,
        info={
            "config_type": config_type,
            "REF_energy": labels.energy,
            "REF_dipole": labels.dipole(positions),
            "total_charge": charge,
            "config_dipole_weight": np.ones(3),
            **(extra or {}),
        },
        arrays={
            "REF_forces": labels.forces,
            "REF_charges": labels.charges,
            # order of the stored multipoles: Q, y, z, x
            "REF_atomic_multipoles": np.column_stack([labels.charges, labels.atomic_dipoles[:, [1, 2, 0]]]),
            "formal_charges": np.array([FORMAL_CHARGES[symbols[int(number)]] for number in numbers]),
        },
    )


def verify(path: Path) -> str:
    """Return the largest differences between a file's labels and those computed anew."""
    worst: dict[str, float] = {}
    frames = ase.io.read(path, ":")
    for frame in frames:
        field = np.asarray(frame.info.get("electric_field", np.zeros(3)), dtype=float)
        charge = float(frame.info["total_charge"])
        labels = gfn2.label(frame.numbers, frame.positions, charge, field)
        multipoles = np.column_stack([labels.charges, labels.atomic_dipoles[:, [1, 2, 0]]])
        differences = {
            "energy": labels.energy - frame.info["REF_energy"],
            "forces": labels.forces - frame.arrays["REF_forces"],
            "dipole": labels.dipole(frame.positions) - frame.info["REF_dipole"],
            "multipoles": multipoles - frame.arrays["REF_atomic_multipoles"],
        }
        if "REF_polarizability" in frame.info:
            tensor = gfn2.polarizability(frame.numbers, frame.positions, charge, field)
            differences["polarizability"] = tensor.ravel() - np.ravel(frame.info["REF_polarizability"])
        for key, value in differences.items():
            worst[key] = max(worst.get(key, 0.0), float(np.abs(value).max()))
    return f"{len(frames)} frames, largest differences " + ", ".join(f"{k} {v:.1e}" for k, v in worst.items())


def numbers_of(name: str) -> NDArray[np.int64]:
    """Return the atomic numbers of a fragment."""
    return np.array([atomic_numbers[element] for element in FRAGMENTS[name][0]])


def closest(first: Array, second: Array) -> float:
    """Return the shortest distance between two groups of atoms, infinity when one is empty."""
    if not len(first) or not len(second):
        return np.inf
    return float(np.linalg.norm(first[:, None] - second[None], axis=-1).min())


def random_direction(rng: np.random.Generator) -> Array:
    """Return a unit vector, uniform on the sphere."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def random_rotation(rng: np.random.Generator) -> Array:
    """Return a uniformly distributed rotation matrix: Q of a random matrix with its signs fixed."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def random_field(rng: np.random.Generator) -> Array:
    """Return a field of random direction and strength."""
    return rng.uniform(0.1, 1.0) * STRONGEST_FIELD * random_direction(rng)


if __name__ == "__main__":
    main()
