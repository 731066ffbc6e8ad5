"""Loss terms that are no mean square of one property: each against its formula, written out."""

import numpy as np
import pytest
import torch
from tiny import make_graph

from lsf.data.graph import collate
from lsf.data.potentials import add_reference_potentials, potentials
from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan, plan_structure
from lsf.electrostatics.settings import Electrostatics
from lsf.recipe.catalog import catalog
from lsf.recipe.schema import LossTerm
from lsf.train.objective.labels import INGREDIENTS, missing_labels
from lsf.train.objective.losses import build_stage_loss

SETTINGS = Electrostatics(boundary="pbc", smearing_width=1.2)


def build(name, **options):
    entry = catalog().entry("losses", name)
    return entry.target()(entry.options_class()(**options), SETTINGS)


def frame(index, molecules, weight=1.0):
    graph = make_graph(index, len(molecules), ("forces",), weights={"forces": weight})
    graph.molecule_ids = torch.tensor(molecules)
    return graph


# the second frame has no molecules, the third counts three times; one atom belongs to no molecule
FRAMES = ((4, 4, 0, 0, -1), (-1, -1), (7, 7, 7, 4))


def molecular_batch():
    graphs = [frame(place, ids, 3.0 if place == 2 else 1.0) for place, ids in enumerate(FRAMES)]
    errors = [np.random.default_rng(place).normal(size=(len(ids), 3)) for place, ids in enumerate(FRAMES)]
    batch = collate(graphs)
    return graphs, errors, batch, {"forces": batch.target_forces + torch.tensor(np.concatenate(errors))}


def by_hand(name, positions, ids, errors):
    ids = np.array(ids)
    forces = {m: errors[ids == m].sum(0) for m in set(ids[ids >= 0])}
    if name == "molecular_forces":
        return sum(force @ force for force in forces.values()) / len(ids)
    virial = sum(positions[ids == m].mean(0) @ force for m, force in forces.items())
    return virial**2 / (len(ids) if name == "cluster_virial_per_atom" else 1)


@pytest.mark.parametrize("name", ["molecular_forces", "cluster_virial", "cluster_virial_per_atom"])
def test_molecular_terms_are_their_formula(name):
    graphs, errors, batch, predictions = molecular_batch()
    values = [
        by_hand(name, graph.positions.numpy(), ids, error)
        for graph, ids, error in zip(graphs, FRAMES, errors, strict=True)
    ]
    # the frame without molecules counts neither above nor below the fraction line; float64 sums
    expected = (values[0] + 3.0 * values[2]) / 2.0
    assert float(build(name)(predictions, batch)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["molecular_forces", "cluster_virial"])
def test_molecular_terms_do_not_see_what_happens_inside_a_molecule(name):
    batch = collate([frame(0, (0, 0, 1, 1))])
    error = torch.zeros(4, 3, dtype=torch.float64)
    error[0], error[1] = 5.0, -5.0
    assert float(build(name)({"forces": batch.target_forces + error}, batch)) == 0.0


def test_frames_without_forces_do_not_count():
    unlabelled = frame(1, (0, 0))
    unlabelled.weight_forces = torch.zeros(1, dtype=torch.float64)
    unlabelled.target_forces = torch.zeros(2, 3, dtype=torch.float64)
    batch = collate([frame(0, (0, 0, 1)), unlabelled])
    predictions = {"forces": batch.target_forces + 1.0}
    predictions["forces"][3:] = float("nan")
    # |(2, 2, 2)|² + |(1, 1, 1)|² = 15 over three atoms
    assert float(build("molecular_forces")(predictions, batch)) == pytest.approx(5.0, rel=1e-12)


CELL = np.array([[6.0, 0.3, -0.4], [0.8, 5.5, 0.2], [-0.5, 0.7, 7.0]])


def periodic(index, n_atoms, weight=1.0, settings=SETTINGS, pbc=(True, True, True)):
    graph = make_graph(index, n_atoms, ("atomic_multipoles",), weights={"atomic_multipoles": weight})
    cell = CELL * (1.0 + 0.1 * index)
    graph.cell = torch.tensor(cell).reshape(1, 3, 3)
    plan = plan_structure(settings, graph.positions.numpy(), cell, np.array(pbc))
    for name, value in plan._asdict().items():
        graph[name] = value
    return graph


def structure_factor(graph, difference, sigma):
    """Return |k| and the squared density difference at every wave vector of a graph, in plain numpy."""
    k = 2.0 * np.pi * graph.k_triplets.numpy() @ np.linalg.inv(graph.cell[0].numpy()).T
    charges, dipoles = difference[:, 0], difference[:, [3, 1, 2]]
    phases = np.exp(-1j * k @ graph.positions.numpy().T)
    total = ((charges - 1j * k @ dipoles.T) * phases).sum(1)
    lengths = np.linalg.norm(k, axis=1)
    return lengths, np.exp(-((sigma * lengths) ** 2)) * np.abs(total) ** 2


FORMS = {
    "poly": lambda k: np.minimum(1.0, (0.9 / k) ** 3.0),
    "gaussian": lambda k: np.exp(-1.5 * np.maximum(0.0, k**2 - 0.81)),
    "exponential": lambda k: np.exp(-1.5 * np.maximum(0.0, k - 0.9)),
}


@pytest.mark.parametrize("form", FORMS)
def test_fourier_density_is_its_formula(form):
    graphs = [periodic(0, 3), periodic(1, 2, weight=2.0)]
    batch = collate(graphs)
    differences = [np.random.default_rng(5 + n).normal(size=(n, 4)) for n in (3, 2)]
    predicted = batch.target_atomic_multipoles + torch.tensor(np.concatenate(differences))
    total, count = 0.0, 0
    for graph, difference, weight in zip(graphs, differences, (1.0, 2.0), strict=True):
        k, squares = structure_factor(graph, difference, SETTINGS.smearing_width)
        total, count = total + weight * (FORMS[form](k) * squares).sum(), count + len(k)
    loss = build("fourier_density", form=form, alpha=1.5, k_min=0.9)
    # sums of some hundred float64 terms
    assert float(loss({"density_coefficients": predicted}, batch)) == pytest.approx(total / count, rel=1e-10)


def test_fourier_density_of_one_charge_forgets_where_it_sits():
    graph = periodic(0, 2)
    error = torch.zeros(2, 4, dtype=torch.float64)
    values = []
    for atom in range(2):
        error.zero_()
        error[atom, 0] = 0.3
        batch = collate([graph])
        predicted = {"density_coefficients": batch.target_atomic_multipoles + error}
        values.append(float(build("fourier_density")(predicted, batch)))
    # |q e^{-ik·r}|² = q² wherever the charge is
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_open_structures_and_unlabelled_frames_do_not_count_in_the_fourier_density():
    batch = collate([periodic(0, 3)])
    error = torch.tensor(np.random.default_rng(1).normal(size=(3, 4)))
    alone = build("fourier_density")({"density_coefficients": batch.target_atomic_multipoles + error}, batch)
    unlabelled = periodic(1, 2, weight=0.0)
    both = collate([periodic(0, 3), unlabelled])
    predicted = both.target_atomic_multipoles + torch.cat((error, torch.ones(2, 4, dtype=torch.float64)))
    # the padded sums of two structures round differently
    assert float(build("fourier_density")({"density_coefficients": predicted}, both)) == pytest.approx(
        float(alone), rel=1e-12
    )
    open_settings = Electrostatics(boundary="realspace")
    open_batch = collate([periodic(0, 3, settings=open_settings, pbc=(False,) * 3)])
    predicted = {"density_coefficients": open_batch.target_atomic_multipoles + 1.0}
    assert float(build("fourier_density")(predicted, open_batch)) == 0.0


def test_gradient_of_the_fourier_density_is_right():
    batch = collate([periodic(0, 2)])
    start = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    loss = build("fourier_density")

    def value(coefficients):
        return loss({"density_coefficients": coefficients}, batch)

    assert torch.autograd.gradcheck(value, start.requires_grad_(True))


@pytest.mark.parametrize("boundary", ["pbc", "realspace"])
def test_reference_potentials_are_derivatives_of_the_reference_energy(boundary):
    settings = Electrostatics(boundary=boundary)
    graph = periodic(0, 4, settings=settings, pbc=(boundary == "pbc",) * 3)
    assert add_reference_potentials([graph], settings) == 1
    found = graph.target_electrostatic_potentials
    plan = CoulombPlan(*(graph[name] for name in CoulombPlan._fields))
    step = 1e-3
    for atom in range(4):
        energies = []
        for sign in (1.0, -1.0):
            moved = graph.target_atomic_multipoles.clone()
            moved[atom, 0] += sign * step
            batch = torch.zeros(4, dtype=torch.int64)
            energies.append(
                float(coulomb_energy(moved, graph.positions, graph.cell, batch, plan, settings)[0])
            )
        # the energy is quadratic in charges: a central difference has rounding errors only, 1e-13 eV / step
        assert float(found[atom]) == pytest.approx((energies[0] - energies[1]) / (2 * step), abs=1e-8)


def test_potentials_in_the_data_stay_and_frames_without_multipoles_get_none():
    given = periodic(0, 2)
    given.target_electrostatic_potentials = torch.tensor([1.0, 2.0], dtype=torch.float64)
    given.weight_electrostatic_potentials = torch.ones(1, dtype=torch.float64)
    bare = periodic(1, 2, weight=0.0)
    assert add_reference_potentials([given, bare], SETTINGS) == 0
    assert given.target_electrostatic_potentials.tolist() == [1.0, 2.0]
    assert float(bare.weight_electrostatic_potentials) == 0.0


def test_potentials_loss_vanishes_for_the_reference_multipoles():
    graph = periodic(0, 3)
    add_reference_potentials([graph], SETTINGS)
    batch = collate([graph])
    same = {"potential": potentials(graph, SETTINGS)}
    assert float(build("esps")(same, batch)) == 0.0
    assert float(build("esps")({"potential": same["potential"] + 0.5}, batch)) == pytest.approx(
        0.25, rel=1e-12
    )


def test_what_frames_must_have_besides_labels_is_said_before_training():
    options = catalog().options_class("losses", "fourier_density")()
    loss = build_stage_loss(
        {"molecular_forces": LossTerm(1.0, None), "fourier_density": LossTerm(1.0, options)}, SETTINGS
    )
    assert loss.needs == ("forces", "molecule_ids", "atomic_multipoles", "wave_vectors")
    graph = periodic(0, 2, settings=Electrostatics(boundary="realspace"), pbc=(False,) * 3)
    graph.molecule_ids = torch.tensor([-1, -1])
    text = "\n".join(map(str, missing_labels(loss.needs, [graph], "train.xyz", "first")))
    assert "molecule_ids (loss of stage 'first'): found none in any of 1 frames" in text
    assert "number the molecules of a frame from 0 in the column mapped as molecule_ids" in text
    assert "wave_vectors (loss of stage 'first'): found none in any of 1 frames" in text
    assert "only structures summed in reciprocal space have them: see electrostatics.boundary" in text


def test_the_first_molecule_is_number_zero():
    graph = make_graph(0, 3, ("forces",))
    for ids, present in (([0, 0, 0], True), ([-1, -1, -1], False), ([-1, 0, -1], True)):
        graph.molecule_ids = torch.tensor(ids)
        assert INGREDIENTS["molecule_ids"].present(graph) is present
