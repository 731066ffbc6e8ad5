"""A model without charges trains beside labels it has no output for."""

from __future__ import annotations

import numpy as np

from lsf.data.build import build_graph
from lsf.data.frames import frame_from_atoms
from lsf.electrostatics.settings import Electrostatics
from lsf.recipe.schema import Head
from lsf.train.objective.evaluation import evaluate_splits, labelled_pairs
from tests.models.helpers import SMALL, make_model, water

HEAD = Head({"energy": "E", "dipole": "mu", "total_charge": "Q"}, {"forces": "F", "atomic_multipoles": "M"})


def test_charges_and_dipoles_are_not_compared() -> None:
    atoms = water(1)
    atoms.info |= {"E": -1.0, "mu": np.ones(3), "Q": 0.0, "config_dipole_weight": np.ones(3)}
    atoms.arrays |= {"F": np.ones((3, 3)), "M": np.ones((3, 4))}
    frame, problems = frame_from_atoms(atoms, {"default": HEAD}, source="test", index=0)
    assert frame is not None
    assert not problems
    settings = Electrostatics(boundary="realspace")
    graph = build_graph(frame, SMALL["r_max"], settings, np.zeros(3))
    model = make_model("MACE", settings)
    errors = evaluate_splits(model, {"test": [graph]}, 1)["test"].errors
    assert set(errors) == {"energy", "energy_per_atom", "forces"}
    pairs = labelled_pairs(model, [graph], 1, ["forces", "dipole", "atomic_charges"])
    assert set(pairs) == {"forces"}
