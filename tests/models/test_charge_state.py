"""Total charge and spin as inputs of the network."""

import math

import pytest
import torch

from lsf.data.graph import collate, graph_tensors
from lsf.electrostatics.settings import Electrostatics
from lsf.models.charge_state_embedding import ChargeState
from lsf.models.derivatives import evaluate
from tests.models.helpers import MODELS, batch_of, graph_of, make_model, water

OPEN = Electrostatics(boundary="realspace")


def model_with_state(name: str, **changes):
    """Return a small model whose embedding does something: its last layer starts at zero."""
    model = make_model(name, OPEN, total_charge_embedding=True, total_spin_embedding=True, **changes)
    torch.nn.init.normal_(model.charge_state.out, generator=torch.Generator().manual_seed(1))
    return model


def in_state(model, charge: float, spin: float = 0.0):
    graph = graph_of(water(2), model, OPEN)
    graph.total_charge[:], graph.total_spin[:] = charge, spin
    return graph


def test_the_embedding_is_its_formula():
    embedding = ChargeState(3, True, False).double()
    torch.nn.init.normal_(embedding.out, generator=torch.Generator().manual_seed(2))
    torch.nn.init.normal_(embedding.bias, generator=torch.Generator().manual_seed(4))
    elements = torch.randn(2, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    charge = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    found = embedding(elements, elements, embedding.numbers(charge, charge)) - elements
    for atom in range(2):
        squashed = torch.tensor(
            [math.tanh(float(charge[atom]) / s) for s in (1, 2, 4, 8)], dtype=torch.float64
        )
        inputs = torch.cat([elements[atom, 0], squashed])
        inner = inputs @ embedding.hidden / math.sqrt(7.0) + embedding.bias
        expected = 1.676532470331091 * (inner * torch.sigmoid(inner)) @ embedding.out / 8.0
        # float64 rounding
        assert torch.allclose(found[atom, 0], expected, atol=1e-13)


@pytest.mark.parametrize("name", MODELS)
def test_untrained_models_are_blind_to_the_state_and_trained_ones_are_not(name):
    blind, plain = make_model(name, OPEN, total_charge_embedding=True), make_model(name, OPEN)
    blind.load_state_dict(plain.state_dict(), strict=False)
    batch = collate([in_state(plain, 1.0), in_state(plain, -1.0)])
    before, after = (evaluate(model, batch, ()) for model in (plain, blind))
    assert torch.equal(before["energy"], after["energy"])
    seeing = evaluate(model_with_state(name), batch, ("forces",))
    assert abs(float(seeing["energy"][0] - seeing["energy"][1])) > 1e-6
    assert not torch.allclose(seeing["forces"][:6], seeing["forces"][6:], atol=1e-6)


@pytest.mark.parametrize("kernels", ["native", "plain", "e3nn"])
def test_states_in_one_batch_are_those_one_by_one(kernels):
    model = model_with_state("LocalCharges", kernels=kernels)
    graphs = [in_state(model, 1.0), in_state(model, -1.0, 1.0), in_state(model, 1.0, 2.0)]
    together = evaluate(model, collate(graphs), ("forces",))
    for index, graph in enumerate(graphs):
        alone = evaluate(model, collate([graph]), ("forces",))
        # the first layer sums by element where all charges are equal, neighbour by neighbour otherwise
        assert float(alone["energy"][0]) == pytest.approx(float(together["energy"][index]), abs=1e-11)
        part = together["forces"][6 * index : 6 * index + 6]
        assert torch.allclose(alone["forces"], part, atol=1e-11)


def test_split_charges_add_up_to_the_formal_ones_in_any_state():
    model = model_with_state("LocalSplitCharges")
    batch = collate([in_state(model, 1.0), in_state(model, -2.0, 1.0)])
    out = evaluate(model, batch, ())
    # what leaves an atom arrives at another: rounding of float64
    assert torch.allclose(out["total_charge"], torch.zeros(2, dtype=torch.float64), atol=1e-12)


def test_gradients_reach_the_embedding():
    model = make_model("LocalCharges", OPEN, total_charge_embedding=True)
    batch = collate([in_state(model, 1.0), in_state(model, -1.0)])
    out = evaluate(model, batch, ("forces",), create_graph=True)
    (out["energy"].square().sum() + out["forces"].square().sum()).backward()
    assert model.charge_state.out.grad.abs().max() > 0
    groups = model.parameter_groups()
    assert any(parameter is model.charge_state.out for parameter in groups["embedding"])


def test_frames_without_the_keys_are_neutral_singlets():
    model = make_model("LocalCharges", OPEN)
    batch = batch_of([water()], model, OPEN)
    assert (batch.total_charge.tolist(), batch.total_spin.tolist()) == ([0.0], [0.0])


@pytest.mark.parametrize(
    ("name", "told", "by_element"),
    [("LocalCharges", False, True), ("LocalCharges", True, False), ("LocalSplitCharges", False, False)],
)
def test_recorded_graphs_sum_by_element_where_nothing_else_is_told(name, told, by_element):
    """A formal charge or a charge state tells atoms of one element apart: their first features differ."""
    model = make_model(name, OPEN, total_charge_embedding=told)
    graph = graph_tensors(batch_of([water()], model, OPEN), model.species)
    element = model._recorded(graph, tables=None).element
    assert (element is not None) == by_element
