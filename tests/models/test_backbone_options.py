"""Options of the backbone: radial bases, gates, linear readout, scale and shift, number of neighbours."""

import math

import attrs
import pytest
import torch

from lsf.data.statistics import DataFacts, Survey
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import LsfError
from lsf.models.derivatives import evaluate
from lsf.models.energies.readout import GATES, EnergyReadout
from lsf.models.irreps import parse_irreps
from lsf.models.options import MACEOptions, ScaleShiftMACEOptions
from lsf.models.radial import RADIAL_BASES, polynomial_cutoff
from lsf.models.setting import energy_scale, energy_shift
from lsf.recipe.catalog import catalog
from tests.models.helpers import batch_of, make_model, water

OPEN = Electrostatics(boundary="realspace")
FACTS = DataFacts((1, 8), {1: -13.6, 8: -430.0}, 9.0, {"train": 1})

FUNCTIONS = {
    "bessel": lambda r, n: math.sqrt(2.0 / 3.0) * math.sin((n + 1) * math.pi * r / 3.0) / r,
    "gaussian": lambda r, n: math.exp(-0.5 * (r / 0.75 - n) ** 2),
    "chebyshev": lambda r, n: math.cos((n + 1) * math.acos(2.0 * r / 3.0 - 1.0)),
}


@pytest.mark.parametrize("name", RADIAL_BASES)
def test_radial_functions_are_their_formula_times_the_envelope(name):
    basis = RADIAL_BASES[name](3.0, 5, 6)
    lengths = torch.linspace(0.4, 2.9, 7, dtype=torch.float64)
    values = basis(lengths)
    assert values.shape == (7, 5)
    for row, r in zip(values.tolist(), lengths.tolist(), strict=True):
        envelope = float(polynomial_cutoff(torch.tensor(r / 3.0, dtype=torch.float64), 6))
        expected = [FUNCTIONS[name](r, n) * envelope for n in range(5)]
        # float64 trigonometric functions, recursions of five terms
        assert row == pytest.approx(expected, abs=1e-13)
    assert not basis(torch.tensor([3.0, 3.5], dtype=torch.float64)).any()


@pytest.mark.parametrize("name", RADIAL_BASES)
def test_one_radial_function_is_enough(name):
    assert torch.isfinite(RADIAL_BASES[name](3.0, 1, 6)(torch.tensor([0.5, 1.0]))).all()


@pytest.mark.parametrize("name", GATES)
def test_gates_keep_unit_second_moment(name):
    z = torch.linspace(-14.0, 14.0, 200_001, dtype=torch.float64)
    density = torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    values = GATES[name].scale * GATES[name].function()(z)
    # trapezoid of a function that vanishes at both ends; |z| has a kink at a grid point
    assert float((density * values**2).sum() * (z[1] - z[0])) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_a_linear_readout_is_linear(n_layers):
    readout = EnergyReadout(parse_irreps("4x0e + 4x1o"), n_layers, 8, nonlinear=False)
    assert len(readout.linear) == n_layers
    features = [torch.randn(5, 4, 4) for _ in range(n_layers)]
    doubled = readout.energies([2.0 * layer for layer in features])
    assert torch.allclose(doubled, 2.0 * readout.energies(features), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_is_the_activation_of_the_last_layer(gate):
    readout = EnergyReadout(parse_irreps("4x0e"), 2, 8, gate=gate)
    features = [torch.randn(5, 1, 4), torch.randn(5, 1, 4)]
    first, last = features[0][:, 0], features[1][:, 0]
    functions = {"silu": nn_silu, "tanh": torch.tanh, "abs": torch.abs, "none": lambda x: x}
    hidden = GATES[gate].scale * functions[gate](last @ readout.hidden / 2.0)
    expected = first @ readout.linear[0] / 2.0 + hidden @ readout.out / math.sqrt(8.0)
    # float32
    assert torch.allclose(readout.energies(features).float(), expected, rtol=1e-5, atol=1e-6)


def nn_silu(x):
    return x * torch.sigmoid(x)


VARIANTS = [
    {"radial_basis": "gaussian", "gate": "tanh"},
    {"radial_basis": "chebyshev", "final_readout": "linear", "avg_num_neighbors": 3.0},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_forces_of_the_variants_are_derivatives(options):
    model = make_model("LocalSplitCharges", OPEN, **options)
    atoms = water()
    forces = evaluate(model, batch_of([atoms], model, OPEN), ("forces",))["forces"]
    step = 1e-4
    for atom, axis in ((0, 2), (1, 0), (2, 1)):
        energies = []
        for sign in (1.0, -1.0):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(float(evaluate(model, batch_of([moved], model, OPEN), ())["energy"]))
        # central differences: third derivatives of order 10 eV/Å³ times step²
        assert float(forces[atom, axis]) == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=1e-6)


def test_avg_num_neighbors_divides_messages():
    models = [make_model("MACE", OPEN, avg_num_neighbors=number) for number in (None, 9.0, 4.0)]
    batch = batch_of([water()], models[0], OPEN)
    energies = [float(evaluate(model, batch, ())["energy_short_range"]) for model in models]
    # 9 is what the facts of these tests say
    assert energies[0] == energies[1]
    assert energies[0] != pytest.approx(energies[2])


def test_scale_and_shift_act_on_the_short_range_energy_of_every_atom():
    plain, moved = make_model("MACE", OPEN), make_model("MACE", OPEN, scale=2.5, shift=-0.75)
    batch = batch_of([water(), water(2)], plain, OPEN)
    one, other = (evaluate(model, batch, ("forces",)) for model in (plain, moved))
    sizes = torch.tensor([3.0, 6.0], dtype=torch.float64)
    expected = 2.5 * one["energy_short_range"] - 0.75 * sizes
    assert torch.allclose(other["energy_short_range"], expected, rtol=1e-14, atol=1e-14)
    assert torch.allclose(other["forces"], 2.5 * one["forces"], rtol=1e-12, atol=1e-12)
    assert torch.equal(other["energy_atomic"], one["energy_atomic"])


def test_scale_and_shift_come_from_the_data():
    facts = attrs.evolve(FACTS, energy_mean=-4.0, energy_std=0.3, forces_rms=1.7)
    assert energy_scale(MACEOptions(), facts) == 1.0
    assert energy_shift(MACEOptions(), facts) == 0.0
    assert energy_scale(ScaleShiftMACEOptions(), facts) == 1.7
    assert energy_shift(ScaleShiftMACEOptions(), facts) == -4.0
    assert energy_scale(MACEOptions(scale="energies"), facts) == 0.3
    assert energy_shift(MACEOptions(shift=-1.0), facts) == -1.0


@pytest.mark.parametrize("name", ["forces", "energies"])
def test_data_without_the_labels_for_it(name):
    with pytest.raises(
        LsfError, match=rf'model\.scale = "{name}": found no training frames whose {name} differ'
    ):
        energy_scale(MACEOptions(scale=name), FACTS)
    with pytest.raises(LsfError, match=r'model\.shift = "mean": found no training frame with an energy'):
        energy_shift(MACEOptions(shift="mean"), FACTS)


def test_sizes_of_the_labels():
    model = make_model("MACE", OPEN)
    graphs = batch_of([water(), water(2), water(3)], model, OPEN).to_data_list()
    energies = {1: -1.0, 8: -2.0}
    for graph, shifted in zip(graphs, (-0.3, -0.5, 9.0), strict=True):
        free = sum(energies[number] for number in graph.atomic_numbers.tolist())
        graph.target_energy = torch.tensor([free + shifted * graph.num_nodes], dtype=torch.float64)
        graph.weight_energy = torch.ones(1, dtype=torch.float64)
    graphs[2].weight_energy = torch.zeros(1, dtype=torch.float64)
    graphs[1].target_forces = torch.full((6, 3), 2.0, dtype=torch.float64)
    graphs[1].weight_forces = torch.ones(1, dtype=torch.float64)
    scales = Survey.of(graphs, energies).label_scales()
    # two frames count: mean -0.4, standard deviation 0.1 √2; forces of one frame
    assert scales.energy_mean == pytest.approx(-0.4)
    assert scales.energy_std == pytest.approx(0.1 * math.sqrt(2.0))
    assert scales.forces_rms == 2.0
    empty = Survey.of([graphs[2]], energies).label_scales()
    assert (empty.energy_mean, empty.energy_std, empty.forces_rms) == (None, None, None)


def test_the_registry_has_the_scaled_model():
    options = catalog().options_class("models", "ScaleShiftMACE")()
    assert (options.scale, options.shift) == ("forces", "mean")
