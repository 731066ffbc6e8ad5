"""Options of the backbone that come from mace-torch: each against its formula, forces by differences.

Their numbers against mace-torch itself: tests/compat/test_import_mace.py and test_mace_parity.py.
"""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii

from lsf.electrostatics.settings import Electrostatics
from lsf.models.couplings import symmetric_basis
from lsf.models.derivatives import evaluate
from lsf.models.energies.pair_repulsion import BondLengths, PairRepulsion
from lsf.models.geometry import Edges
from lsf.models.neighbour_density import LocalDensity
from lsf.models.options import LocalChargesOptions, LocalSplitChargesOptions
from lsf.models.radial import AgnesiTransform, SoftTransform
from tests.models.helpers import SPECIES, batch_of, make_model, triclinic_salt, with_charges
from tests.models.test_couplings import random_rotation, rotation_blocks

OPEN = Electrostatics(boundary="realspace")
CHANGES = [
    {"interaction": "plain", "interaction_first": "plain"},
    {"interaction": "density_residual", "interaction_first": "density"},
    {"last_layer": "scalars"},
    {"distance_transform": "agnesi"},
    {"distance_transform": "soft", "pair_repulsion": True},
    {"hidden_irreps": "2x0e + 2x1o + 2x2e", "product_basis": "complete", "max_ell": 3},
    {"correlation": (3, 1), "scale": 0.7, "shift": 0.2},
]
IDS = ["-".join(change) for change in CHANGES]


@pytest.mark.parametrize("change", CHANGES, ids=IDS)
def test_forces_and_stress_are_derivatives(change):
    settings = Electrostatics(boundary="pbc", multipoles_max_l=1, smearing_width=1.0)
    model = make_model("LocalCharges", settings, **change)
    atoms = triclinic_salt()

    def energy(changed):
        return float(evaluate(model, batch_of([changed], model, settings), ())["energy"])

    found = evaluate(model, batch_of([atoms], model, settings), ("forces", "stress"))
    step = 1e-4
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[2, 1] += sign * step
        ends.append(energy(moved))
    # central differences: error ~ step² · third derivative and rounding 1e-13/step, both near 1e-8
    force = float(found["forces"][2, 1])
    assert abs(-(ends[0] - ends[1]) / (2 * step) - force) < 1e-6 * max(1.0, abs(force))
    ends = []
    for sign in (1, -1):
        strained = atoms.copy()
        strain = np.eye(3) + sign * step * np.array([[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]])
        strained.set_cell(atoms.cell @ strain, scale_atoms=True)
        ends.append(energy(strained))
    stress = float(found["stress"][0, 0, 1])
    slope = (ends[0] - ends[1]) / (2 * step) / atoms.get_volume()
    assert abs(slope - stress) < 1e-6 * max(1.0, abs(stress))


@pytest.mark.parametrize("change", CHANGES, ids=IDS)
def test_energies_do_not_depend_on_orientation(change):
    model = make_model("LocalCharges", OPEN, **change)
    atoms = with_charges(Atoms("OHHNaCl", np.random.default_rng(5).normal(scale=1.3, size=(5, 3))))
    rotation = random_rotation(4, improper=True).numpy()
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.T
    outputs = evaluate(model, batch_of([atoms, turned], model, OPEN), ())
    energy, dipole = outputs["energy"], outputs["dipole"].numpy()
    assert abs(energy[0] - energy[1]) < 1e-10 * max(1.0, abs(float(energy[0])))
    assert np.allclose(dipole[1], rotation @ dipole[0], atol=1e-10)


@pytest.mark.parametrize("style", ["plain", "density"])
def test_an_isolated_atom_has_its_atomic_energy(style):
    model = make_model("MACE", OPEN, num_interactions=2, interaction_first=style)
    atom = with_charges(Atoms("O", [[0.0, 0.0, 0.0]]))
    assert float(evaluate(model, batch_of([atom], model, OPEN), ())["energy"]) == -430.0


@pytest.mark.parametrize("name", ["LocalCharges", "LocalSplitCharges"])
def test_dipoles_are_read_from_the_layers_that_have_vectors(name):
    kept = {"polarizability": False} if name == "LocalSplitCharges" else {}
    model = make_model(name, OPEN, last_layer="scalars", **kept)
    maps = model.source.multipoles.maps
    assert model.source.multipoles.missing[-1] == 3
    assert len(maps) == (2 if name == "LocalCharges" else 1)  # of split charges only dipoles are read
    atoms = with_charges(Atoms("OHH", [[0, 0, 0.1], [0, 0.8, -0.5], [0, -0.7, -0.5]]))
    assert evaluate(model, batch_of([atoms], model, OPEN), ())["partial_dipoles"].abs().max() > 1e-6


def test_parameters_stay_in_their_groups():
    model = make_model("LocalCharges", OPEN, interaction="density_residual", interaction_first="density")
    groups = model.parameter_groups()
    found = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(found) == sorted(map(id, model.parameters()))
    quiet = set(map(id, groups["interactions_no_decay"]))
    assert {id(layer.density.weight) for layer in model.backbone.layers} <= quiet


def test_a_float32_model_keeps_its_constants():
    model = make_model("LocalCharges", OPEN, torch.float32, distance_transform="agnesi", pair_repulsion=True)
    assert model.radial.transform.constants.dtype == torch.float64
    atoms = with_charges(Atoms("OHH", [[0, 0, 0.1], [0, 0.8, -0.5], [0, -0.7, -0.5]]))
    exact = make_model("LocalCharges", OPEN, torch.float64, distance_transform="agnesi", pair_repulsion=True)
    energies = [float(evaluate(item, batch_of([atoms], item, OPEN), ())["energy"]) for item in (model, exact)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-3)


# ---------------------------------------------------------------------------------------------------
# parts


def test_complete_products_add_what_natural_couplings_do_not_reach():
    # 1 ⊗ 2 ⊗ 3 contains degree 2 three times: through 1, 3 and, unnatural, 2
    natural, complete = (symmetric_basis(3, 3, 2, flag)[1] for flag in (False, True))
    assert (natural.shape[0], complete.shape[0]) == (13, 14)
    assert np.array_equal(complete[:13], natural)
    for order, degree in ((3, 0), (3, 1), (2, 2)):
        assert symmetric_basis(3, order, degree, True)[1].shape == symmetric_basis(3, order, degree)[1].shape


def test_complete_products_are_equivariant():
    monomials, basis = symmetric_basis(3, 3, 2, True)
    matrix = random_rotation(3, improper=True)
    turn_in = rotation_blocks((0, 1, 2, 3), matrix).numpy()
    turn_out = rotation_blocks((2,), matrix).numpy()
    values = np.random.default_rng(0).normal(size=16)

    def last(x):
        return basis[-1] @ np.array([np.prod(x[list(monomial)]) for monomial in monomials])

    assert np.allclose(last(turn_in @ values), turn_out @ last(values), atol=1e-12)


def test_transforms_are_their_formulas():
    lengths, bonds = torch.tensor([0.5, 1.1, 3.0]).double(), torch.tensor([0.97, 1.4, 2.0]).double()
    for r, b, agnesi, soft in zip(
        lengths.tolist(),
        bonds.tolist(),
        AgnesiTransform()(lengths, bonds).tolist(),
        SoftTransform()(lengths, bonds).tolist(),
        strict=True,
    ):
        x = 2.0 * r / b
        assert agnesi == pytest.approx(1.0 / (1.0 + 1.0805 * x**0.9183 / (1.0 + x ** (0.9183 - 4.5791))))
        low, high = 0.75 * b, 4.0 * b / 3.0
        switch = (1.0 + math.tanh(4.0 * (r - (low + high) / 2.0) / (high - low))) / 2.0
        assert soft == pytest.approx(low + (r - low) * switch)


def test_repulsion_of_nuclei():
    species, edges = torch.tensor([0, 1]), torch.tensor([[0, 1], [1, 0]])  # H and O of SPECIES
    bonds = BondLengths(SPECIES)(species, edges)
    reach = covalent_radii[1] + covalent_radii[8]
    assert bonds.tolist() == pytest.approx([reach, reach])
    repulsion = PairRepulsion(SPECIES, cutoff_p=5)
    r = 0.4
    energy = repulsion.energies(torch.tensor([r, r], dtype=torch.float64), bonds, species, edges)
    a = 0.4543 * 0.529 / (1.0 + 8.0**0.3)
    terms = zip((0.1818, 0.5099, 0.2802, 0.02817), (3.2, 0.9423, 0.4028, 0.2016), strict=True)
    x = r / reach
    envelope = 1.0 - 21.0 * x**5 + 35.0 * x**6 - 15.0 * x**7
    expected = 14.3996 * 8.0 / r * sum(c * math.exp(-d * r / a) for c, d in terms) * envelope
    assert float(energy.sum()) == pytest.approx(expected, rel=1e-12)
    assert energy[0] == energy[1]
    far = torch.full((2,), reach + 1e-9, dtype=torch.float64)
    assert repulsion.energies(far, bonds, species, edges).abs().max() == 0.0


def test_density_is_one_plus_a_sum_over_neighbors():
    density = LocalDensity(2).double()
    basis = torch.tensor([[0.3, -0.2], [1.0, 0.5], [0.0, 0.0]]).double()
    index = torch.tensor([[0, 0, 1], [1, 1, 0]])
    edges = Edges(index, torch.zeros(3, 3), torch.zeros(3, 1), basis)
    w = density.weight.detach().numpy()
    terms = np.tanh((basis.numpy() @ w / math.sqrt(2.0)) ** 2)
    assert density(edges, 3).detach().numpy() == pytest.approx([1.0, 1.0 + terms[0] + terms[1], 1.0])


# ---------------------------------------------------------------------------------------------------
# options that do not fit together


class Settings:
    """As much of a recipe as the options look at."""

    electrostatics = OPEN
    heads: ClassVar = {}


def test_a_correlation_for_every_layer():
    (problem,) = LocalChargesOptions(correlation=(3, 2, 1)).problems(Settings, "")
    assert "a list of 3; expected 2, since model.num_interactions = 2" in str(problem)
    with pytest.raises(ValueError, match="from 1 to 3"):
        LocalChargesOptions(correlation=(3, 4))


def test_a_last_layer_of_scalars_that_is_the_only_one_has_no_dipoles():
    (problem,) = LocalChargesOptions(last_layer="scalars", num_interactions=1).problems(Settings, "")
    assert 'model.last_layer: found "scalars" with one layer' in str(problem)


def test_a_polarizability_needs_all_layers():
    options = LocalSplitChargesOptions(formal_charges="from_data", polarizability=True, last_layer="scalars")
    (problem,) = options.problems(Settings, "")
    assert "every layer" in str(problem)
