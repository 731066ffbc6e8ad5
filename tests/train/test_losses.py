import attrs
import pytest
import torch
from tiny import TinyModel, loss_terms, make_graph, make_graphs, tiny_evaluate

from lsf.data.graph import collate
from lsf.errors import LsfError
from lsf.options import NoOptions
from lsf.recipe.catalog import catalog
from lsf.recipe.schema import LossTerm
from lsf.train.objective.labels import labelled, missing_labels
from lsf.train.objective.losses import MultipoleLossOptions, build_stage_loss

ALL = (
    "energy",
    "forces",
    "stress",
    "virials",
    "dipole",
    "polarizability",
    "total_charge",
    "atomic_multipoles",
    "electrostatic_potentials",
    "born_charges",
)
OUTPUT = {
    "virials": "virial",
    "atomic_multipoles": "density_coefficients",
    "electrostatic_potentials": "potential",
}
# loss: property, divided by the number of atoms
LOSSES = {
    "energy_per_atom": ("energy", True),
    "forces": ("forces", False),
    "stress": ("stress", False),
    "virials": ("virials", True),
    "atomic_multipoles": ("atomic_multipoles", False),
    "total_charge": ("total_charge", False),
    "total_charge_per_atom": ("total_charge", True),
    "dipole": ("dipole", False),
    "dipole_per_atom": ("dipole", True),
    "polarizability": ("polarizability", True),
    "born_charges": ("born_charges", False),
    "esps": ("electrostatic_potentials", False),
}
# terms that are no mean square of a property's entries: tests/train/test_special_losses.py
SPECIAL = {
    "molecular_forces": "forces",
    "cluster_virial": "forces",
    "cluster_virial_per_atom": "forces",
    "fourier_density": "atomic_multipoles",
}


def build(name, **options):
    entry = catalog().entry("losses", name)
    return entry.target()(entry.options_class()(**options))


def shifted_predictions(batch, shift=0.5):
    """Return predictions that are off by the same number everywhere."""
    return {OUTPUT.get(name, name): batch[f"target_{name}"] + shift for name in ALL}


def mixed_batch():
    """Return frames of 2, 3 and 5 atoms; the second has no label, the third counts three times."""
    return collate(
        [
            make_graph(0, 2, ALL),
            make_graph(1, 3, ()),
            make_graph(2, 5, ALL, weights=dict.fromkeys(ALL, 3.0)),
        ]
    )


def test_every_entry_of_the_registry_is_tested_and_names_its_label():
    assert {entry.name for entry in catalog().entries("losses")} == set(LOSSES) | set(SPECIAL)
    for entry in catalog().entries("losses"):
        loss = entry.target()
        expected = SPECIAL[entry.name] if entry.name in SPECIAL else LOSSES[entry.name][0]
        assert loss.needs == expected
        assert entry.requires[0].split(" or ")[0] == expected
        assert set(entry.requires[1:]) <= set(loss.ingredients)


@pytest.mark.parametrize("name", LOSSES)
def test_mean_runs_over_labelled_entries_only(name):
    batch = mixed_batch()
    label, per_atom = LOSSES[name]
    atoms = label in ("forces", "atomic_multipoles", "electrostatic_potentials", "born_charges")
    # frame 1 has weight 0: it is neither in the sum nor in the count; frame 2 counts with weight 3
    scale = (4.0, 25.0) if per_atom else (1.0, 1.0)
    rows = (2, 5) if atoms else (1, 1)
    expected = 0.25 * (rows[0] / scale[0] + 3.0 * rows[1] / scale[1]) / sum(rows)
    # a handful of float64 sums
    assert float(build(name)(shifted_predictions(batch), batch)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_unlabelled_frames_change_nothing_even_when_their_prediction_is_nan(name):
    graphs = [make_graph(0, 2, ALL), make_graph(2, 5, ALL)]
    batch = collate(graphs)
    alone = build(name)(shifted_predictions(batch), batch)
    batch = collate([*graphs, make_graph(1, 3, ())])
    predictions = shifted_predictions(batch)
    for key, value in predictions.items():
        value[-1] = float("nan")
        if key in ("forces", "density_coefficients", "potential", "born_charges"):
            value[-3:] = float("nan")
    assert torch.equal(build(name)(predictions, batch), alone)


@pytest.mark.parametrize("name", LOSSES)
def test_no_label_at_all_gives_zero(name):
    batch = collate([make_graph(1, 3, ())])
    assert float(build(name)(shifted_predictions(batch), batch)) == 0.0


def test_dipole_components_are_weighted_one_by_one():
    slab, cluster = make_graph(0, 2, ("dipole",)), make_graph(1, 2, ("dipole",))
    slab.weight_dipole = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    batch = collate([slab, cluster])
    error = torch.tensor([[9.0, 9.0, 1.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
    loss = build("dipole")({"dipole": batch.target_dipole + error}, batch)
    # 1² of the slab's z and 2² of the cluster's x, over four components with a weight
    assert float(loss) == pytest.approx(5.0 / 4.0, rel=1e-12)


def test_higher_multipoles_can_weigh_less():
    batch = collate([make_graph(0, 2, ALL)])
    predictions = shifted_predictions(batch, 1.0)
    assert float(build("atomic_multipoles")(predictions, batch)) == pytest.approx(1.0, rel=1e-12)
    # one charge and three dipole components per atom, the latter with factor 1/3
    loss = build("atomic_multipoles", higher_order_weight=1.0 / 3.0)
    assert float(loss(predictions, batch)) == pytest.approx(0.5, rel=1e-12)


def test_stage_loss_is_the_weighted_sum_over_any_batches():
    graphs = make_graphs(7)
    terms = {
        **loss_terms(energy_per_atom=2.0, forces=10.0),
        "atomic_multipoles": LossTerm(5.0, MultipoleLossOptions(higher_order_weight=0.1)),
    }
    loss = build_stage_loss(terms)
    assert loss.needs == ("energy", "forces", "atomic_multipoles")
    assert loss.compute == {"forces"}
    batch, model = collate(graphs), TinyModel()
    predictions = tiny_evaluate(model, batch, loss.compute)
    whole = loss.terms(predictions, batch).detach()
    by_hand = sum(
        term.weight * catalog().entry("losses", name).target()(term.options)(predictions, batch).detach()
        for name, term in terms.items()
    )
    assert float(loss.combine(whole)) == pytest.approx(float(by_hand), rel=1e-12)
    parts = [collate(graphs[:3]), collate(graphs[3:])]
    summed = sum(loss.terms(tiny_evaluate(model, part, loss.compute), part).detach() for part in parts)
    assert float(loss.combine(summed)) == pytest.approx(float(by_hand), rel=1e-12)


def test_named_terms_say_where_nothing_was_labelled():
    loss = build_stage_loss(loss_terms(energy_per_atom=1.0, total_charge=1.0))
    batch = collate(make_graphs(2))
    terms = loss.terms(tiny_evaluate(TinyModel(), batch, ()), batch)
    named = loss.named(terms.detach())
    assert named["total_charge"] is None
    assert named["energy_per_atom"] > 0.0


def test_gradient_of_a_loss_is_that_of_finite_differences():
    batch = collate(make_graphs(3))
    loss = build_stage_loss(loss_terms(energy_per_atom=1.0, forces=10.0, dipole=1.0))
    model = TinyModel()
    value = loss.combine(loss.terms(tiny_evaluate(model, batch, loss.compute, create_graph=True), batch))
    value.backward()
    step, place = 1e-5, (1, 3)
    values = []
    for sign in (1.0, -1.0):
        moved = TinyModel()
        with torch.no_grad():
            moved.hidden[place] += sign * step
        values.append(
            float(loss.combine(loss.terms(tiny_evaluate(moved, batch, loss.compute), batch)).detach())
        )
    # central differences: error of order step² times the third derivative, here about 1e-9 of the value
    assert float(model.hidden.grad[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


def test_a_model_without_the_output_is_an_error():
    batch = collate([make_graph(0, 2, ALL)])
    with pytest.raises(
        LsfError, match=r"'polarizability' needs the model output 'polarizability', which this model does not"
    ):
        build("polarizability")(tiny_evaluate(TinyModel(), batch, ()), batch)


def test_labelled_properties_and_missing_ones():
    graphs = make_graphs(3, ("energy", "dipole"))
    assert labelled(graphs) == ("energy", "dipole")
    problems = missing_labels(("energy", "forces"), graphs, "train.xyz", "stage1")
    assert [problem.key for problem in problems] == ["forces (loss of stage 'stage1')"]
    assert "labelled: energy, dipole" in str(problems[0])


def test_options_are_documented():
    for name in LOSSES:
        options = catalog().options_class("losses", name)
        if options is not NoOptions:
            assert all(field.metadata["doc"] for field in attrs.fields(options))
