"""Boxes of water, the same for every program."""

from __future__ import annotations

from typing import Final

import numpy as np
from ase import Atoms
from ase.build import molecule

DENSITY: Final = 0.1
"""Atoms per Å³, as in liquid water."""


def water_box(n_atoms: int, seed: int = 0) -> Atoms:
    """Return molecules of random orientation on a jittered lattice, in a cubic periodic cell.

    ``n_atoms`` is a multiple of 3.
    """
    count, rng = n_atoms // 3, np.random.default_rng(seed)
    edge = (n_atoms / DENSITY) ** (1.0 / 3.0)
    per_axis = int(np.ceil(count ** (1.0 / 3.0) - 1e-9))
    chosen = rng.permutation(per_axis**3)[:count]
    places = np.stack(np.unravel_index(chosen, (per_axis,) * 3), 1) + 0.5
    places = (places + rng.uniform(-0.1, 0.1, places.shape)) * edge / per_axis
    atoms = Atoms(cell=np.eye(3) * edge, pbc=True)
    for place in places:
        one = molecule("H2O")
        one.rotate(rng.uniform(0.0, 360.0), rng.normal(size=3))
        one.positions += place - one.positions[0]
        atoms += one
    atoms.wrap()
    return atoms
