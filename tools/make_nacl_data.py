"""Makes the sodium chloride sets of ``recipes/data``: exact energies of point ions.

    python tools/make_nacl_data.py nacl              # bulk with stress
    python tools/make_nacl_data.py mixed_periodic    # bulk, slabs and clusters in one set
    python tools/make_nacl_data.py verify FILE ...   # recompute the labels of any of these files

Needs lsf's own environment only. The physics stands in ``fumi_tosi.py``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import ase.io
import fumi_tosi
import numpy as np
from ase import Atoms
from extxyz import Frame, rounded, write_frames
from numpy.typing import NDArray

Array = NDArray[np.float64]

DATA: Final = Path(__file__).resolve().parents[1] / "recipes" / "data"
LATTICE_CONSTANT: Final = 5.64  # Å, the minimum of the potential lies close by
SHORTEST_CONTACT: Final = 2.0  # Å; closer pairs are displaced again
VACUUM: Final = 20.0  # Å between the periodic images that a slab's cell suggests; the labels have none
SPLITS: Final = {"train": 0, "valid": 1, "test": 2}
NACL_COUNTS: Final = {"train": 48, "valid": 8, "test": 16}
MIXED_COUNTS: Final = {"train": 72, "valid": 12, "test": 24}


def main() -> None:
    """Run the subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, seed in (("nacl", 20265), ("mixed_periodic", 20266)):
        command = commands.add_parser(name)
        command.add_argument("--seed", type=int, default=seed)
        command.add_argument("--out", type=Path, default=DATA)
    commands.add_parser("verify").add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()
    if options.command == "verify":
        for path in options.files:
            sys.stdout.write(f"{path.name}: {verify(path)}\n")
        return
    makers, counts = {
        "nacl": ((small_bulk, medium_bulk, large_bulk), NACL_COUNTS),
        "mixed_periodic": ((small_bulk, slab, cluster), MIXED_COUNTS),
    }[options.command]
    for split, index in SPLITS.items():
        frames = make_frames(makers, counts[split], np.random.default_rng([options.seed, index]))
        write_frames(options.out / f"{options.command}_{split}.xyz", frames)


def make_frames(
    makers: tuple[Callable[[np.random.Generator], Atoms], ...], count: int, rng: np.random.Generator
) -> list[Frame]:
    """Return ``count`` labelled frames, the makers taking turns."""
    return [labelled(displaced(makers[index % len(makers)], rng)) for index in range(count)]


def displaced(maker: Callable[[np.random.Generator], Atoms], rng: np.random.Generator) -> Atoms:
    """Return a structure whose ions have moved by the amounts of a crystal between 100 and 1000 K."""
    while True:
        atoms = maker(rng)
        atoms.positions += rng.normal(0.0, rng.uniform(0.05, 0.25), atoms.positions.shape)
        distances = atoms.get_all_distances(mic=True) + np.eye(len(atoms)) * SHORTEST_CONTACT
        if distances.min() >= SHORTEST_CONTACT:
            return atoms


def rocksalt(repeats: tuple[int, int, int], rng: np.random.Generator) -> Atoms:
    """Return conventional cells of rock salt at a random volume and with a random strain."""
    sites = np.array([(x, y, z) for x in range(2) for y in range(2) for z in range(2)])
    cell = np.eye(3) * LATTICE_CONSTANT * (1.0 + rng.normal(0.0, 0.03))
    numbers = np.where(sites.sum(axis=1) % 2 == 0, 11, 17)
    atoms = Atoms(numbers, cell=cell, scaled_positions=sites / 2.0, pbc=True).repeat(repeats)
    strain = rng.normal(0.0, 0.015, (3, 3))
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
    return atoms


def small_bulk(rng: np.random.Generator) -> Atoms:
    """Return 16 ions: cell edges below twice the cutoff, an ion meets its own images."""
    return _named(rocksalt((2, 1, 1), rng), "bulk")


def medium_bulk(rng: np.random.Generator) -> Atoms:
    """Return 32 ions."""
    return _named(rocksalt((2, 2, 1), rng), "bulk")


def large_bulk(rng: np.random.Generator) -> Atoms:
    """Return 64 ions, or 62 with a Schottky pair (one vacancy of each kind) in one case of four."""
    atoms = rocksalt((2, 2, 2), rng)
    if rng.random() >= 0.25:
        return _named(atoms, "bulk")
    gone = [rng.choice(np.flatnonzero(atoms.numbers == number)) for number in (11, 17)]
    del atoms[[int(index) for index in gone]]
    return _named(atoms, "schottky")


def slab(rng: np.random.Generator) -> Atoms:
    """Return a (001) slab of two to four layers, periodic in its plane, 4 or 8 ions a layer."""
    layers = int(rng.integers(2, 5))
    crystal = rocksalt((int(rng.integers(1, 3)), 1, 2), rng)
    scaled = crystal.get_scaled_positions(wrap=False)
    atoms = crystal[scaled[:, 2] < layers / 4.0 - 0.01]
    # the in-plane vectors keep their strain, the third stands on them
    plane = atoms.cell[:2].copy()
    plane[:, 2] = 0.0
    thickness = float(np.ptp(atoms.positions[:, 2]))
    atoms.set_cell([*plane, [0.0, 0.0, thickness + VACUUM]], scale_atoms=False)
    atoms.positions[:, 2] += 0.5 * (thickness + VACUUM) - atoms.positions[:, 2].mean()
    atoms.pbc = (True, True, False)
    return _named(atoms, "slab")


def cluster(rng: np.random.Generator) -> Atoms:
    """Return 6 to 15 neighbouring lattice sites with a total charge of -1, 0 or +1."""
    while True:
        crystal = rocksalt((2, 2, 2), rng)
        center = crystal.cell[:].sum(axis=0) * rng.uniform(0.35, 0.65)
        order = np.argsort(np.linalg.norm(crystal.positions - center, axis=1))
        atoms = crystal[order[: int(rng.integers(6, 16))]]
        if abs(total_charge(atoms)) <= 1.0:
            atoms.positions -= atoms.positions.mean(axis=0)
            return _named(Atoms(atoms.numbers, atoms.positions), "cluster")


def _named(atoms: Atoms, config_type: str) -> Atoms:
    atoms.info["config_type"] = config_type
    return atoms


def total_charge(atoms: Atoms) -> float:
    """Return the sum of the ions' charges, e."""
    return sum(fumi_tosi.CHARGES[int(number)] for number in atoms.numbers)


def labelled(atoms: Atoms) -> Frame:
    """Return the frame with its labels, all computed at the rounded positions and cell."""
    positions, cell = rounded(atoms.positions), rounded(atoms.cell[:])
    dimensions = int(np.sum(atoms.pbc))
    labels = fumi_tosi.label(atoms.numbers, positions, cell, dimensions)
    charges = np.array([fumi_tosi.CHARGES[int(number)] for number in atoms.numbers])
    info = {
        "config_type": atoms.info["config_type"],
        "REF_energy": labels.energy,
        "total_charge": total_charge(atoms),
        "REF_dipole": charges @ positions,
        "config_dipole_weight": np.where(atoms.pbc, 0.0, 1.0),
    }
    if dimensions == 3:
        info["REF_stress"] = labels.strain_derivative / abs(np.linalg.det(cell))
    return Frame(
        numbers=atoms.numbers,
        positions=positions,
        pbc=tuple(bool(flag) for flag in atoms.pbc),
        cell=cell if dimensions else None,
        info=info,
        arrays={"REF_forces": labels.forces, "formal_charges": charges},
    )


def verify(path: Path) -> str:
    """Return the largest differences between a file's labels and those computed anew.

    Clusters in a file that has no slab are taken to be without the switch of the short-range part.
    """
    frames = ase.io.read(path, ":")
    mixed = any(frame.pbc.sum() == 2 for frame in frames)
    worst = {"energy": 0.0, "forces": 0.0, "stress": 0.0}
    for frame in frames:
        dimensions = int(frame.pbc.sum())
        labels = fumi_tosi.label(
            frame.numbers, frame.positions, frame.cell[:], dimensions, switched=mixed or dimensions > 0
        )
        differences = {
            "energy": labels.energy - frame.info["REF_energy"],
            "forces": np.abs(labels.forces - frame.arrays["REF_forces"]).max(),
        }
        if "REF_stress" in frame.info:
            stress = labels.strain_derivative / frame.get_volume()
            differences["stress"] = np.abs(stress.ravel() - np.ravel(frame.info["REF_stress"])).max()
        worst = {key: max(value, abs(differences.get(key, 0.0))) for key, value in worst.items()}
    return f"{len(frames)} frames, largest differences " + ", ".join(f"{k} {v:.1e}" for k, v in worst.items())


if __name__ == "__main__":
    main()
