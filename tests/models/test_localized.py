"""The softened minimum over the atoms of a charged structure."""

import copy

import numpy as np
import pytest
import torch
from ase import Atoms

from lsf.data.graph import collate
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import RecipeError
from lsf.models.derivatives import evaluate
from lsf.models.energies.localized_charge import LocalizedCharge
from lsf.recipe.catalog import own_folder
from lsf.recipe.rules import resolve
from tests.models.helpers import MODELS, batch_of, graph_of, make_model, triclinic_salt, water

OPEN = Electrostatics(boundary="realspace", smearing_width=1.0)
PERIODIC = Electrostatics(boundary="pbc", smearing_width=1.0)
WIDTH = 0.05


def localizing(name: str, atoms: Atoms, settings: Electrostatics = OPEN, spread: float = 1.0, **changes):
    """Return a small model whose charge has atoms of one element to go to, ``spread`` widths apart."""
    changes = {"localization_width": WIDTH, "total_charge_embedding": True, **changes}
    model = make_model(name, settings, **changes)
    states = atom_energies(model, atoms, settings)
    alike = torch.as_tensor(atoms.numbers == atoms.numbers[int(states.argmin())])
    with torch.no_grad():
        model.localized_charge.out *= spread * WIDTH / states[alike].std()
    return model


def charged(atoms: Atoms, charge: float = 1.0) -> Atoms:
    atoms = atoms.copy()
    atoms.info["total_charge"] = charge
    return atoms


def outputs(atoms: Atoms, model, settings=OPEN, which=("forces",)):
    graph = graph_of(atoms, model, settings)
    graph.total_charge[:] = atoms.info.get("total_charge", 0.0)
    return evaluate(model, collate([graph]), which)


def without(model):
    """Return the same weights without the localized charge."""
    plain = copy.deepcopy(model)
    plain.term_names = tuple(name for name in plain.term_names if name != "localized_charge")
    return plain


def atom_energies(model, atoms: Atoms, settings=OPEN) -> torch.Tensor:
    """Return what the readout says of every atom."""
    kept = []
    handle = model.localized_charge.register_forward_hook(
        lambda module, inputs, _: kept.append(module.energies(inputs[0].features).detach())
    )
    outputs(atoms, model, settings, ())
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("name", MODELS)
def test_the_energy_is_the_softened_minimum_over_the_atoms(name):
    atoms = charged(water(2))
    model = localizing(name, atoms)
    states = atom_energies(model, atoms).numpy()
    with_it, bare = outputs(atoms, model), outputs(atoms, without(model))
    found = float(with_it["energy_short_range"][0] - bare["energy_short_range"][0])
    expected = states.min() - WIDTH * np.log(np.exp((states.min() - states) / WIDTH).sum())
    # float64 rounding of energies of some eV
    assert found == pytest.approx(expected, abs=1e-12)
    shares = (with_it["node_energy"] - bare["node_energy"]).numpy()
    np.testing.assert_allclose(shares, expected * np.exp((expected - states) / WIDTH), atol=1e-12)


def test_a_narrow_width_leaves_the_lowest_atom():
    torch.manual_seed(4)
    readout = LocalizedCharge(3, 1e-4, 1.0).requires_grad_(False)
    features = [torch.randn((5, 1, 3), dtype=torch.float64)]
    batch = torch.tensor([0, 0, 0, 1, 1])
    ones, zeros = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    states = readout.energies(features)
    found = readout.shares(features, batch, [ones, zeros])
    for atoms in (slice(0, 3), slice(3, 5)):
        assert float(found[atoms].sum()) == pytest.approx(float(states[atoms].min()), abs=1e-9)
        assert int(found[atoms].abs().argmax()) == int(states[atoms].argmin())
    # unpaired electrons alone are an excess, too
    assert torch.equal(readout.shares(features, batch, [zeros, ones]), found)
    assert torch.equal(readout.shares(features, batch, [zeros, zeros]), torch.zeros_like(found))


def test_the_energy_at_an_atom_is_its_formula():
    torch.manual_seed(5)
    readout = LocalizedCharge(5, WIDTH, 1.5).requires_grad_(False).double()
    # the scalars of two layers, which stand before the vectors
    features = [torch.randn(4, 4, 3, dtype=torch.float64), torch.randn(4, 1, 2, dtype=torch.float64)]
    scalars = torch.cat([features[0][:, 0], features[1][:, 0]], 1)
    hidden = scalars @ readout.hidden / 5**0.5
    # silu scaled to unit variance, and 64 hidden numbers
    expected = 1.5 * 1.676532470331091 * (hidden * torch.sigmoid(hidden)) @ readout.out / 8.0
    assert torch.allclose(readout.energies(features), expected, rtol=0.0, atol=1e-12)


def test_the_scale_is_that_of_the_short_range_energy():
    one, two = LocalizedCharge(3, WIDTH, 1.0), LocalizedCharge(3, WIDTH, 2.5)
    two.load_state_dict(one.state_dict())
    features = [torch.ones((2, 1, 3), dtype=torch.float64)]
    assert torch.allclose(two.energies(features), 2.5 * one.energies(features), atol=1e-14)


@pytest.mark.parametrize("name", MODELS)
def test_neutral_structures_have_no_such_energy(name):
    atoms = water(2)
    model = localizing(name, atoms)
    with_it, bare = outputs(atoms, model), outputs(atoms, without(model))
    assert torch.equal(with_it["energy"], bare["energy"])
    assert torch.equal(with_it["forces"], bare["forces"])


def test_a_charge_that_the_model_does_not_see_switches_nothing_on():
    atoms = charged(water(2))
    model = make_model("LocalCharges", OPEN, localization_width=WIDTH, total_spin_embedding=True)
    assert torch.equal(outputs(atoms, model)["energy"], outputs(atoms, without(model))["energy"])
    graph = graph_of(atoms, model, OPEN)
    graph.total_spin[:] = 1.0
    told = [evaluate(one, collate([graph]), ())["energy"] for one in (model, without(model))]
    assert abs(float(told[0] - told[1])) > 1e-3


def test_the_charge_of_distant_molecules_sits_on_the_cheaper_one():
    first, second = water(1, seed=1), water(1, seed=2)
    second.positions += [50.0, 0.0, 0.0]
    pair = charged(first + second)
    model = localizing("MACE", pair, spread=100.0)
    lower, higher = sorted(float(atom_energies(model, charged(part)).min()) for part in (first, second))
    assert higher - lower > 10.0 * WIDTH
    bare = outputs(pair, without(model), which=())["energy"]
    found = float(outputs(pair, model, which=())["energy"][0] - bare[0])
    # three atoms of the cheaper molecule: equal energies would lower the minimum by the width times ln 3
    assert lower - WIDTH * np.log(3) - 1e-6 < found < lower + 1e-9


@pytest.mark.parametrize("name", ["LocalCharges", "LocalSplitCharges", "MACE"])
@pytest.mark.parametrize(("structure", "settings"), [(water, OPEN), (triclinic_salt, PERIODIC)])
def test_forces_and_stress_are_derivatives(name, structure, settings):
    atoms = charged(structure())
    model = localizing(name, atoms, settings)
    periodic = bool(atoms.pbc.any())
    found = outputs(atoms, model, settings, ("forces", "stress") if periodic else ("forces",))
    # the term matters here: without it forces differ by far more than the tolerance
    bare = outputs(atoms, without(model), settings)
    assert float((found["forces"] - bare["forces"]).abs().max()) > 1e-3
    rng = np.random.default_rng(0)
    step, direction = 1e-4, rng.normal(size=(len(atoms), 3))

    def energy(moved: Atoms) -> float:
        return float(outputs(moved, model, settings, ())["energy"][0])

    def slope(change) -> float:
        return (energy(change(step)) - energy(change(-step))) / (2.0 * step)

    def along(h: float) -> Atoms:
        moved = atoms.copy()
        moved.positions += h * direction
        return moved

    # central differences: step² times third derivatives, which grow with the inverse square of the width
    expected = -float((found["forces"].numpy() * direction).sum())
    assert slope(along) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    if periodic:
        shape = rng.normal(size=(3, 3))
        shape = 0.5 * (shape + shape.T)

        def strained(h: float) -> Atoms:
            moved = atoms.copy()
            moved.set_cell(atoms.cell @ (np.eye(3) + h * shape), scale_atoms=True)
            return moved

        expected = float((found["stress"][0].numpy() * shape).sum()) * atoms.cell.volume
        assert slope(strained) == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_second_derivatives_agree_with_finite_differences():
    atoms = charged(water(1))
    model = localizing("LocalCharges", atoms)
    hessian = outputs(atoms, model, which=("hessian",))["hessian"].reshape(9, 9).numpy()
    step, columns = 1e-5, []
    for coordinate in range(9):
        ends = []
        for sign in (1.0, -1.0):
            moved = atoms.copy()
            moved.positions.reshape(-1)[coordinate] += sign * step
            ends.append(outputs(moved, model)["forces"].numpy().ravel())
        columns.append(-(ends[0] - ends[1]) / (2.0 * step))
    np.testing.assert_allclose(hessian, np.array(columns).T, atol=1e-5 * np.abs(hessian).max())


@pytest.mark.parametrize("kernels", ["native", "plain", "e3nn"])
def test_symmetries_and_batches(kernels):
    atoms = charged(water(3))
    model = localizing("LocalCharges", atoms, kernels=kernels)
    reference = outputs(atoms, model)
    turned = atoms.copy()
    turned.rotate(77.0, (1.0, 2.0, -0.5), rotate_cell=False)
    turned.positions += [1.0, -2.0, 3.0]
    order = np.random.default_rng(1).permutation(len(atoms))
    for other in (turned, atoms[order]):
        assert float(outputs(other, model)["energy"][0]) == pytest.approx(
            float(reference["energy"][0]), abs=1e-10
        )
    mirrored = outputs(atoms[order], model)["forces"]
    assert torch.allclose(mirrored, reference["forces"][torch.as_tensor(order)], atol=1e-10)
    graphs = []
    for charge, n in ((1.0, 3), (0.0, 2), (-1.0, 1)):
        graphs.append(graph_of(water(n), model, OPEN))
        graphs[-1].total_charge[:] = charge
    together = evaluate(model, collate(graphs), ("forces",))
    assert float(together["energy"][0]) == pytest.approx(float(reference["energy"][0]), abs=1e-10)
    assert torch.allclose(together["forces"][:9], reference["forces"], atol=1e-10)


def test_the_energy_of_a_float32_model_is_that_of_float64():
    atoms = charged(water(2))
    exact, single = localizing("LocalCharges", atoms), localizing("LocalCharges", atoms, dtype=torch.float32)
    ours, theirs = outputs(atoms, single)["energy"], outputs(atoms, exact)["energy"]
    assert ours.dtype == torch.float64
    # seven digits of features times weights of order one
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_gradients_reach_the_readout():
    model = localizing("MACE", water(2))
    graph = graph_of(water(2), model, OPEN)
    graph.total_charge[:] = 1.0
    out = evaluate(model, collate([graph]), ("forces",), create_graph=True)
    out["forces"].square().sum().backward()
    for weight in model.localized_charge.parameters():
        assert weight.grad.abs().max() > 0
        assert any(weight is other for other in model.parameter_groups()["readouts"])


def test_models_without_it_are_built_without_it():
    model = make_model("LocalCharges", OPEN)
    assert "localized_charge" not in model.term_names
    assert not hasattr(model, "localized_charge")
    assert batch_of([water()], model, OPEN).total_charge.tolist() == [0.0]


def test_a_model_that_sees_no_charge_is_refused():
    path = own_folder("recipes") / "charge_states.toml"
    text = "model.localization_width: found 0.02, but the model sees neither total charge nor total spin"
    with pytest.raises(RecipeError, match=text):
        resolve(path, ["model.total_charge_embedding=false"])
    with pytest.raises(RecipeError, match=r"model\.localization_width"):
        resolve(path, ["model.localization_width=0.0"])
