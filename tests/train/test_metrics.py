import math

import pytest
import torch
from tiny import TinyModel, make_graph, make_graphs, tiny_evaluate

from lsf.data.graph import collate
from lsf.recipe.catalog import catalog
from lsf.recipe.old_names import ERROR_TABLES
from lsf.recipe.quantities import column_names
from lsf.report.tables import rich_table
from lsf.train.loop.distributed import Alone
from lsf.train.objective.error_tables import BRIEF_ROWS, brief_table, build_error_table, columns_named
from lsf.train.objective.evaluation import EvaluationSet, evaluate_splits, labelled_pairs, parameters_of
from lsf.train.objective.metrics import ErrorStats, ErrorSums

LABELS = ("energy", "forces", "dipole", "atomic_multipoles", "total_charge")


@pytest.fixture
def model():
    return TinyModel()


def direct(model, graphs):
    """Return all differences of energies per atom, forces and charges, frame by frame."""
    differences = {"energy_per_atom": [], "forces": [], "atomic_charges": []}
    for graph in graphs:
        batch = collate([graph])
        output = tiny_evaluate(model, batch, {"forces"})
        differences["energy_per_atom"].append((output["energy"] - batch.target_energy) / batch.num_nodes)
        differences["forces"].append((output["forces"] - batch.target_forces).reshape(-1))
        differences["atomic_charges"].append(
            output["density_coefficients"][:, 0] - batch.target_atomic_multipoles[:, 0]
        )
    return {name: torch.cat(parts).detach() for name, parts in differences.items()}


def test_errors_equal_those_computed_frame_by_frame(model):
    graphs = make_graphs(9, LABELS)
    metrics = evaluate_splits(model, {"test": graphs}, 4, tiny_evaluate)["test"]
    for name, difference in direct(model, graphs).items():
        stats = metrics.errors[name]
        assert stats.count == difference.numel()
        # sums in another order
        assert stats.rmse == pytest.approx(float(difference.square().mean().sqrt()), rel=1e-12)
        assert stats.mae == pytest.approx(float(difference.abs().mean()), rel=1e-12)
        assert stats.max_abs == pytest.approx(float(difference.abs().max()), rel=1e-12)


def test_relative_errors_are_fractions_of_the_labels(model):
    graphs = make_graphs(9, LABELS)
    stats = evaluate_splits(model, {"test": graphs}, 4, tiny_evaluate)["test"].errors["forces"]
    labels = torch.cat([graph.target_forces.reshape(-1) for graph in graphs])
    rms = float(labels.square().mean().sqrt())
    assert stats.relative_rmse == pytest.approx(stats.rmse / rms, rel=1e-12)


def test_a_config_type_without_a_label_has_no_error_for_it(model):
    graphs = [make_graph(0, 3, ("energy",), "ion"), make_graph(1, 3, ("energy", "forces"), "water")]
    metrics = evaluate_splits(model, {"test": graphs}, 4, tiny_evaluate)["test"]
    assert "forces" in metrics.errors_by_type["water"]
    assert set(metrics.errors_by_type["ion"]) == {"energy", "energy_per_atom"}


class Twice(Alone):
    """Two processes that have seen the same frames."""

    def sum(self, values):
        return 2 * values

    def largest(self, values):
        return values


def test_processes_add_up_their_errors(model):
    batch = collate(make_graphs(4, LABELS))
    sums = [ErrorSums(("energy", "forces"), ("water",), torch.device("cpu")) for _ in range(2)]
    for one in sums:
        one.update(tiny_evaluate(model, batch, {"forces"}), batch, torch.zeros(4, dtype=torch.int64))
    sums[1].add_up(Twice())
    alone, together = sums[0].result(), sums[1].result()
    assert (alone.n_frames, together.n_frames) == (4, 8)
    assert together.frames_by_type == {"water": 8}
    for name, stats in alone.errors.items():
        assert together.errors[name].count == 2 * stats.count
        assert together.errors[name].rmse == pytest.approx(stats.rmse, rel=1e-12)
        assert together.errors[name].max_abs == stats.max_abs


def test_errors_by_config_type(model):
    graphs = make_graphs(9, LABELS)
    metrics = evaluate_splits(model, {"test": graphs}, 4, tiny_evaluate)["test"]
    assert metrics.frames_by_type == {"ion": 3, "water": 6}
    ions = [graph for graph in graphs if graph.config_type == "ion"]
    alone = evaluate_splits(model, {"ions": ions}, 4, tiny_evaluate)["ions"]
    for name, stats in alone.errors.items():
        assert metrics.errors_by_type["ion"][name].rmse == pytest.approx(stats.rmse, rel=1e-12)


def test_unlabelled_and_masked_entries_do_not_count(model):
    slab = make_graph(3, 4, ("dipole",))
    slab.weight_dipole = torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64)
    metrics = evaluate_splits(model, {"test": [slab, make_graph(4, 2, ("energy",))]}, 8, tiny_evaluate)[
        "test"
    ]
    assert metrics.errors["dipole"].count == 1
    assert metrics.errors["energy"].count == 1
    assert "forces" not in metrics.errors


def test_labels_the_model_cannot_predict_are_left_out(model):
    graphs = make_graphs(3, (*LABELS, "polarizability"))
    metrics = evaluate_splits(model, {"test": graphs}, 8, tiny_evaluate)["test"]
    assert "polarizability" not in metrics.errors
    assert "energy" in metrics.errors


def test_empty_splits_are_left_out(model):
    assert evaluate_splits(model, {"valid": []}, 8, tiny_evaluate) == {}


def test_statistics_of_labels_that_are_all_zero():
    stats = ErrorStats.from_sums([4.0, 1.0, 2.0, 0.0, 0.5])
    assert (stats.rmse, stats.mae, stats.max_abs) == (0.5, 0.5, 0.5)
    assert math.isnan(stats.relative_rmse)


def test_evaluation_leaves_the_model_as_it_was(model):
    before = parameters_of(model)
    graphs = EvaluationSet.build(make_graphs(3), 2, torch.device("cpu"))
    other = [weight + 1.0 for weight in before]
    first = graphs.metrics(model, before, evaluate=tiny_evaluate)
    assert graphs.metrics(model, other, evaluate=tiny_evaluate).rmse() != first.rmse()
    for parameter, weight in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, weight)
        assert parameter.requires_grad
    assert graphs.metrics(model, before, evaluate=tiny_evaluate).rmse() == first.rmse()


def test_pairs_for_parity_plots(model):
    graphs = make_graphs(5, LABELS)
    pairs = labelled_pairs(model, graphs, 2, ("energy_per_atom", "atomic_charges", "stress"), tiny_evaluate)
    assert set(pairs) == {"energy_per_atom", "atomic_charges"}
    target, predicted = pairs["energy_per_atom"]
    assert torch.allclose(predicted - target, direct(model, graphs)["energy_per_atom"], rtol=0, atol=1e-13)


EXPECTED_HEADINGS = {
    "PerAtomRMSE": ["RMSE E [meV/atom]", "RMSE F [meV/Å]", "rel F [%]"],
    "PerAtomMAE": ["MAE E [meV/atom]", "MAE F [meV/Å]"],
    "TotalRMSE": ["RMSE E [meV]", "RMSE F [meV/Å]", "rel F [%]"],
    "PerAtomRMSEstressvirials": [
        "RMSE E [meV/atom]",
        "RMSE F [meV/Å]",
        "rel F [%]",
        "RMSE stress [meV/Å³]",
        "RMSE virials [meV/atom]",
    ],
    "TotalMAE": ["MAE E [meV]", "MAE F [meV/Å]"],
    "PerAtomMAEstressvirials": [
        "MAE E [meV/atom]",
        "MAE F [meV/Å]",
        "MAE stress [meV/Å³]",
        "MAE virials [meV/atom]",
    ],
    "DipoleMAE": ["MAE mu [me·Å/atom]"],
    "EnergyDipoleRMSE": [
        "RMSE E [meV/atom]",
        "RMSE F [meV/Å]",
        "rel F [%]",
        "RMSE mu [me·Å/atom]",
        "rel mu [%]",
    ],
    "EnergyDipolePotentialsRMSE": [
        "RMSE E [meV/atom]",
        "RMSE F [meV/Å]",
        "rel F [%]",
        "RMSE mu [me·Å/atom]",
        "rel mu [%]",
        "RMSE ESP [mV]",
    ],
    "ElectrostaticRMSE": [
        "RMSE E [meV/atom]",
        "RMSE F [meV/Å]",
        "rel F [%]",
        "RMSE DMA [me·Å^l]",
        "rel DMA [%]",
        "RMSE mu [me·Å/atom]",
        "rel mu [%]",
        "RMSE ESP [mV]",
        "RMSE polarizability [me·Å²/V/atom]",
    ],
    "DipoleRMSE": ["RMSE mu [me·Å/atom]", "rel mu [%]"],
    "DensityCoefficientsRMSE": ["RMSE DMA [me·Å^l]", "rel DMA [%]", "RMSE qs [me]", "RMSE dipoles [me·Å]"],
    "DensityEnergyRMSE": ["RMSE E [meV/atom]", "RMSE F [meV/Å]", "rel F [%]", "RMSE DMA [me·Å^l]"],
    "DensityDipoleRMSE": ["RMSE mu [me·Å/atom]", "rel mu [%]", "RMSE DMA [me·Å^l]", "rel DMA [%]"],
    "EnergyDensityDipoleRMSE": [
        "RMSE E [meV/atom]",
        "RMSE F [meV/Å]",
        "rel F [%]",
        "RMSE DMA [me·Å^l]",
        "RMSE mu [me·Å/atom]",
        "rel mu [%]",
        "RMSE polarizability [me·Å²/V/atom]",
    ],
    "auto": [
        "RMSE E [meV/atom]",
        "RMSE F [meV/Å]",
        "rel F [%]",
        "RMSE DMA [me·Å^l]",
        "rel DMA [%]",
        "RMSE mu [me·Å]",
        "rel mu [%]",
        "max |ΔQ| [e]",
    ],
}


def test_every_table_of_the_registry_and_every_old_name_is_tested():
    assert {*catalog().names("metrics"), *ERROR_TABLES} == set(EXPECTED_HEADINGS)


def test_a_table_is_composed_of_columns(model):
    metrics = evaluate_splits(model, {"test": make_graphs(6, LABELS)}, 4, tiny_evaluate)
    table = build_error_table(("forces:mae", "energy", "total_charge", "stress"))(metrics)
    assert table.headings()[2:] == [
        "MAE F [meV/Å]",
        "RMSE E [meV]",
        "RMSE Q [e]",
        "max |ΔQ| [e]",
        "RMSE stress [meV/Å³]",
    ]
    errors = metrics["test"].errors
    assert table.rows[0][2] == pytest.approx(1e3 * errors["forces"].mae)
    assert table.rows[0][5] == pytest.approx(errors["total_charge"].max_abs)
    assert table.rows[0][6] is None  # asked for, and nothing to show


def test_every_name_of_a_column_gives_columns():
    for name in column_names():
        columns = columns_named([name])
        assert columns
        assert len({column.heading for column in columns}) == len(columns)


@pytest.mark.parametrize("name", EXPECTED_HEADINGS)
def test_columns_and_units_of_the_error_tables(model, name):
    splits = {"train": make_graphs(6, LABELS), "test": [make_graph(50, 3, ("energy",))]}
    metrics = evaluate_splits(model, splits, 4, tiny_evaluate)
    table = build_error_table(ERROR_TABLES.get(name, name))(metrics)
    assert table.headings() == ["frames", "n", *EXPECTED_HEADINGS[name]]
    assert [row[:2] for row in table.rows] == [
        ("train", 6),
        ("train: ion", 2),
        ("train: water", 4),
        ("test", 1),
    ]
    # the test frame has an energy and no other label: everything else is absent, not zero
    for column, value in zip(table.columns[2:], table.rows[-1][2:], strict=True):
        assert (value is not None) == (column in ("RMSE E", "MAE E"))
    rich_table(table)


def test_a_brief_table_names_config_types_of_test_sets_as_long_as_they_are_few(model):
    splits = {"train": make_graphs(6, LABELS), "test": make_graphs(4, LABELS)}
    metrics = evaluate_splits(model, splits, 4, tiny_evaluate)
    few = brief_table("auto", metrics, ["test"], "Errors of a run")
    assert few.title == "Errors of a run"
    assert [row[0] for row in few.rows] == ["train", "test", "test: ion", "test: water"]
    many = {**metrics, **{f"test {number}": metrics["test"] for number in range(4)}}
    rows = brief_table("auto", many, set(many) - {"train"}).rows
    assert [row[0] for row in rows] == list(many)
    assert len(build_error_table("auto")(many).rows) > BRIEF_ROWS


def test_numbers_of_a_table_are_in_its_units(model):
    metrics = evaluate_splits(model, {"test": make_graphs(6, LABELS)}, 4, tiny_evaluate)
    row = build_error_table("auto")(metrics).rows[0]
    errors = metrics["test"].errors
    assert row[2] == pytest.approx(1e3 * errors["energy_per_atom"].rmse)
    assert row[4] == pytest.approx(1e2 * errors["forces"].relative_rmse)
    assert row[9] == pytest.approx(errors["total_charge"].max_abs)
