"""Puts the labels of Ag3- in ``recipes/data/ag3_*.xyz`` on the electronic ground state, GFN2-xTB.

    pip install tblite==0.8.0
    python tools/make_silver_data.py verify FILE ...  # look for lower states, recompute the labels
    python tools/make_silver_data.py lower FILE ...   # rewrite the frames of Ag3- that have a lower state

Close to the equilateral triangle Ag3- has several self-consistent solutions: three in which one atom
carries less of the charge than the other two, and higher ones. The one that tblite reaches from its standard
guess is not always the lowest. Here the SCF also starts from the densities of nine other triangles and
chains, and the lowest energy counts. Frames whose label no start undercuts by LOWER are left as they stand,
and so are those of Ag3+, whose lower solutions are printed: strongly compressed chains of other occupations.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import ase.io
import gfn2
import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from tblite.exceptions import TBLiteRuntimeError

from lsf.machine.files import replacing

Array = NDArray[np.float64]

LOWER: Final = 1e-3  # eV
BOND: Final = 2.7  # Å
ANGLES: Final = (52.0, 75.0, 180.0)  # degrees at the apex of the triangles that the SCF starts from
STEP: Final = 0.002  # Å, of the finite differences of the dipole


def main() -> None:
    """Run the subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("verify", "lower"):
        commands.add_parser(name).add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()
    for path in options.files:
        frames = ase.io.read(path, ":")
        found = [ground_state(frame) for frame in frames]
        gains = [
            frame.info["REF_energy"] - labels.energy for frame, (labels, _) in zip(frames, found, strict=True)
        ]
        lower = [index for index, gain in enumerate(gains) if gain > LOWER]
        charges = [frame.info["total_charge"] for frame in frames]
        listed = ", ".join(f"{i} (charge {charges[i]:+g}) by {gains[i]:.4f} eV" for i in lower) or "none"
        sys.stdout.write(f"{path.name}: {len(frames)} frames, with a lower state: {listed}; ")
        differences = [
            float(np.abs(labels.forces - frame.arrays["REF_forces"]).max())
            for index, (frame, (labels, _)) in enumerate(zip(frames, found, strict=True))
            if index not in lower
        ]
        sys.stdout.write(f"largest difference of forces in the others {max(differences):.1e} eV/Å\n")
        anions = [index for index in lower if charges[index] < 0.0]
        if options.command == "lower" and anions:
            for index in anions:
                relabel(frames[index], *found[index])
            with replacing(path) as temporary:
                ase.io.write(temporary, frames, format="extxyz")


def ground_state(frame: Atoms) -> tuple[gfn2.Gfn2Labels, Array | None]:
    """Return the labels of the lowest solution, and the geometry whose density it was reached from.

    The standard guess counts where no other start is lower by more than LOWER: then the geometry is None.
    """
    best: tuple[gfn2.Gfn2Labels, Array | None] = (_label(frame, frame.positions, None), None)
    for start in starts():
        try:
            labels = _label(frame, frame.positions, start)
        except TBLiteRuntimeError:
            continue  # this start leads nowhere; the others remain
        if labels.energy < best[0].energy - LOWER:
            best = labels, start
    return best


def starts() -> list[Array]:
    """Return isosceles triangles and chains, each atom once at the apex."""
    shapes = []
    for angle in np.deg2rad(ANGLES):
        leg = BOND * np.array([np.sin(angle / 2.0), np.cos(angle / 2.0), 0.0])
        shape = np.array([np.zeros(3), leg, leg * [-1.0, 1.0, 1.0]])
        shapes += [shape[order] for order in ([0, 1, 2], [1, 0, 2], [1, 2, 0])]
    return shapes


def relabel(frame: Atoms, labels: gfn2.Gfn2Labels, start: Array | None) -> None:
    """Replace all labels of a frame by those of the solution reached from ``start``."""
    frame.info["REF_energy"] = labels.energy
    frame.info["REF_dipole"] = labels.dipole(frame.positions)
    frame.info["REF_polarizability"] = gfn2.polarizability(
        frame.numbers, frame.positions, frame.info["total_charge"], np.zeros(3), start
    ).ravel()
    frame.arrays["REF_forces"] = labels.forces
    frame.arrays["REF_charges"] = labels.charges
    # order of the stored multipoles: Q, y, z, x
    frame.arrays["REF_atomic_multipoles"] = np.column_stack(
        [labels.charges, labels.atomic_dipoles[:, [1, 2, 0]]]
    )
    frame.arrays["REF_bec"] = born_charges(frame, start)


def born_charges(frame: Atoms, start: Array | None) -> Array:
    """Return dμ/dr by central differences, ``(n_atoms, 9)`` e, component of μ first."""
    slopes = np.zeros((len(frame), 3, 3))
    for atom in range(len(frame)):
        for axis in range(3):
            dipoles = []
            for sign in (1.0, -1.0):
                positions = frame.positions.copy()
                positions[atom, axis] += sign * STEP
                dipoles.append(_label(frame, positions, start).dipole(positions))
            slopes[atom, :, axis] = (dipoles[0] - dipoles[1]) / (2.0 * STEP)
    return slopes.reshape(len(frame), 9)


def _label(frame: Atoms, positions: Array, start: Array | None) -> gfn2.Gfn2Labels:
    return gfn2.label(frame.numbers, positions, frame.info["total_charge"], start=start)


if __name__ == "__main__":
    main()
