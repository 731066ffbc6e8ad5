"""Small structures and small models for the physics tests."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, fcc100, molecule

from lsf.data.build import build_graph
from lsf.data.charges import charges_of
from lsf.data.frames import frame_from_atoms
from lsf.data.graph import collate
from lsf.data.statistics import DataFacts
from lsf.electrostatics.settings import Electrostatics
from lsf.models.local_source import LocalSourceModel
from lsf.recipe.catalog import catalog
from lsf.recipe.schema import Head

CHARGES = {"H": 1.0, "O": -2.0, "Na": 1.0, "Cl": -1.0}
HEAD = Head({"external_field": "external_field"}, {"charges": "formal_charges"})
SPECIES = (1, 8, 11, 17)
SMALL = {"r_max": 3.5, "hidden_irreps": "4x0e + 4x1o", "max_ell": 2, "num_radial": 4, "radial_mlp": (8, 8)}

# Every model, and the variants of the one with most parts.
MODELS = {
    "LocalCharges": ("LocalCharges", {}),
    "LocalSplitCharges": ("LocalSplitCharges", {"formal_charges": CHARGES, "polarizability": True}),
    "LocalSplitCharges-data-product": (
        "LocalSplitCharges",
        {"formal_charges": "from_data", "oxidation_mixer": "product", "hidden_irreps": "3x0e + 3x1o + 3x2e"},
    ),
    "LocalSplitCharges-symmetric": (
        "LocalSplitCharges",
        {"formal_charges": CHARGES, "oxidation_mixer": "none", "transfer": "symmetric"},
    ),
    "FixedChargeBaselinedMACE": ("FixedChargeBaselinedMACE", {"formal_charges": CHARGES}),
    "MACE": ("MACE", {"num_interactions": 1}),
}


def make_model(
    name: str, settings: Electrostatics, dtype: torch.dtype = torch.float64, seed: int = 0, **changes
) -> LocalSourceModel:
    """Return an untrained model whose charges are large enough to matter."""
    use, options = MODELS[name]
    entry = catalog().entry("models", use)
    chosen = entry.options_class()(**{**SMALL, **options, **changes})
    facts = DataFacts(SPECIES, {1: -13.6, 8: -430.0, 11: -5.0, 17: -460.0}, 9.0, {"train": 1})
    torch.manual_seed(seed)
    return entry.target()(chosen, settings, facts).set_dtype(dtype)


def water(n: int = 1, seed: int = 0) -> Atoms:
    """Return n slightly distorted water molecules, 3 Å apart."""
    rng = np.random.default_rng(seed)
    atoms = Atoms()
    for index in range(n):
        part = molecule("H2O")
        part.rotate(rng.uniform(0, 360), rng.normal(size=3))
        part.positions += rng.normal(scale=0.05, size=(3, 3)) + [3.0 * index, 0, 0]
        atoms += part
    return with_charges(atoms)


def with_charges(atoms: Atoms) -> Atoms:
    """Attach formal charges by element."""
    atoms.set_array("formal_charges", np.array([CHARGES[symbol] for symbol in atoms.symbols]))
    return atoms


def triclinic_salt(seed: int = 1) -> Atoms:
    """Return a skewed, distorted NaCl cell smaller than twice the cutoff of the small models."""
    rng = np.random.default_rng(seed)
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    shear = np.eye(3) + np.array([[0.05, 0.12, -0.04], [0.0, -0.03, 0.09], [0.0, 0.0, 0.02]])
    atoms.set_cell(atoms.cell @ shear, scale_atoms=True)
    atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    return with_charges(atoms)


def salt_slab(seed: int = 2) -> Atoms:
    """Return a distorted two-layer NaCl slab whose third lattice vector is not along the normal."""
    rng = np.random.default_rng(seed)
    atoms = fcc100("Na", (2, 2, 2), a=4.2, vacuum=8.0)
    atoms.numbers[1::2] = 17
    atoms.set_cell(np.array(atoms.cell) + [[0, 0, 0], [0.3, 0, 0], [0.7, -0.4, 0]])
    atoms.pbc = (True, True, False)
    atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    return with_charges(atoms)


def boxed_water() -> Atoms:
    """Return a water molecule in the cubic cell that molecule_in_box needs."""
    atoms = water()
    atoms.set_cell(np.eye(3) * 14.0)
    return atoms


# One structure per boundary method.
STRUCTURES = {
    "realspace": lambda: water(2),
    "pbc": triclinic_salt,
    "slab": salt_slab,
    "molecule_in_box": boxed_water,
    "mixed_periodic": salt_slab,
    "auto": triclinic_salt,
}


def graph_of(atoms: Atoms, model: LocalSourceModel, settings: Electrostatics, rule="from_data"):
    """Return the graph of a structure."""
    frame, problems = frame_from_atoms(atoms, {"default": HEAD}, source="test", index=0)
    assert not problems
    charges, missing = charges_of(frame.numbers, frame.values, rule)
    assert missing is None
    return build_graph(frame, model.r_max, settings, charges)


def batch_of(structures, model: LocalSourceModel, settings: Electrostatics):
    """Return one batch of structures."""
    return collate([graph_of(atoms, model, settings) for atoms in structures])
