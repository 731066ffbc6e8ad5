"""Graphs: every tensor has the stated shape, and holds what the frame said."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from data_files import frame

from lsf.data.build import build_graph, build_graphs
from lsf.data.graph import collate
from lsf.electrostatics.boundary import KIND_BOX, KIND_OPEN, KIND_PERIODIC, KIND_SLAB
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import BoundaryError, DataError
from lsf.recipe.quantities import LABELS, PROPERTIES

AUTO = Electrostatics(boundary="auto")
R_MAX = 4.0


def labelled():
    return frame(
        energy=-3.0,
        forces=np.arange(9.0).reshape(3, 3),
        stress=np.eye(3),
        virials=-np.eye(3),
        dipole=[1, 2, 3],
        polarizability=np.diag([1.0, 2, 3]),
        total_charge=1.0,
        atomic_multipoles=np.arange(27.0).reshape(3, 9),
        born_charges=np.arange(27.0).reshape(3, 3, 3),
        electrostatic_potentials=[1.0, -2.0, 0.5],
        external_field=[0.1, 0.2, 0.3],
    )


def test_shapes_types_and_contents():
    source = labelled()
    source.weights["dipole"] = np.array([0.0, 0.0, 2.0])
    graph = build_graph(source, R_MAX, AUTO, np.array([-1.0, 1.0, 1.0]))
    assert graph.num_nodes == 3
    assert graph.positions.shape == (3, 3)
    assert graph.cell.shape == (1, 3, 3)
    assert graph.pbc.shape == (1, 3)
    assert graph.external_field.tolist() == [[0.1, 0.2, 0.3]]
    assert graph.formal_charges.tolist() == [-1.0, 1.0, 1.0]
    assert graph.frame_index.tolist() == [0]
    assert graph.config_type == "Default"
    for name in ("positions", "cell", "unit_shifts", "formal_charges", "external_field", "slab_length"):
        assert graph[name].dtype == torch.float64, name
    for name in (
        "atomic_numbers",
        "edge_index",
        "kind",
        "k_triplets",
        "k_batch",
        "open_pairs",
        "frame_index",
    ):
        assert graph[name].dtype == torch.int64, name
    for name in LABELS:
        rows = 3 if PROPERTIES[name].level == "atom" else 1
        shape = (4,) if name == "atomic_multipoles" else PROPERTIES[name].shape
        assert graph[f"target_{name}"].shape == (rows, *shape)
        assert graph[f"target_{name}"].dtype == graph[f"weight_{name}"].dtype == torch.float64
        assert graph[f"weight_{name}"].shape == ((1, 3) if name == "dipole" else (1,))
        assert graph[f"target_{name}"].abs().sum() > 0
    assert graph.weight_dipole.tolist() == [[0.0, 0.0, 2.0]]
    # of nine columns up to l = 2 a model with l = 1 sees the first four
    assert graph.target_atomic_multipoles.tolist() == [[0, 1, 2, 3], [9, 10, 11, 12], [18, 19, 20, 21]]


def test_absent_labels_are_zero_with_weight_zero():
    graph = build_graph(frame(), R_MAX, AUTO, np.zeros(3))
    full = build_graph(labelled(), R_MAX, AUTO, np.zeros(3))
    for name in LABELS:
        for part in ("target", "weight"):
            assert not graph[f"{part}_{name}"].any()
            assert graph[f"{part}_{name}"].shape == full[f"{part}_{name}"].shape
    assert not graph.external_field.any()


@pytest.mark.parametrize(
    ("pbc", "boundary", "kind"),
    [
        ("TTT", "auto", KIND_PERIODIC),
        ("FFF", "auto", KIND_OPEN),
        ("TTF", "auto", KIND_SLAB),
        ("FTT", "mixed_periodic", KIND_SLAB),
        ("FFF", "mixed_periodic", KIND_BOX),
    ],
)
def test_edges_and_kind_follow_periodicity(pbc, boundary, kind):
    cell = np.eye(3) * 12.0
    structure = frame(cell=cell, pbc=pbc, positions=[[0.5, 0.5, 0.5], [11.5, 0.5, 0.5], [6, 6, 6]])
    graph = build_graph(structure, R_MAX, Electrostatics(boundary=boundary), np.zeros(3))
    assert graph.kind.tolist() == [kind]
    across = pbc[0] == "T"  # atoms 0 and 1 are neighbours through the first direction only
    assert graph.edge_index.shape[1] == (2 if across else 0)
    if across:
        assert sorted(graph.unit_shifts[:, 0].tolist()) == [-1.0, 1.0]


def test_a_molecule_without_cell_has_no_box():
    molecule = frame(positions=[[0.0, 0, 0], [1, 0, 0], [0, 15.0, 0]])
    mixed = build_graph(molecule, R_MAX, Electrostatics(boundary="mixed_periodic"), np.zeros(3))
    free = build_graph(molecule, R_MAX, AUTO, np.zeros(3))
    assert int(mixed.kind) == KIND_OPEN
    assert not mixed.cell.any()
    assert torch.equal(mixed.edge_index, free.edge_index)


def test_periodicity_that_the_method_cannot_treat():
    chain = frame(cell=np.eye(3) * 9, pbc="TFF")
    with pytest.raises(BoundaryError, match="boundary 'auto' cannot treat pbc = T F F"):
        build_graph(chain, R_MAX, AUTO, np.zeros(3))


def test_all_frames_that_cannot_be_built_are_named():
    nowhere = frame(positions=np.full((3, 3), np.nan), index=4)
    frames = [frame(), frame(cell=np.eye(3) * 9, pbc="TFF", index=1), frame(numbers=[9], index=2), nowhere]
    with pytest.raises(
        DataError, match=r"frame 1: electrostatics.boundary: found pbc = T F F with cell"
    ) as error:
        build_graphs(frames, R_MAX, AUTO, {"H": 1.0, "O": -2.0})
    assert "frame 4: positions: found NaN or infinity for atom 0" in str(error.value)
    assert "frame 2: formal_charges: found no formal charge for F" in str(error.value)
    assert "boundary 'auto' cannot treat pbc = T F F" in str(error.value)


def test_a_batch_is_its_graphs_one_after_the_other():
    slab = frame(cell=np.diag([6.0, 7.0, 30.0]), pbc="TTF")
    bulk = frame(cell=np.eye(3) * 7, pbc="TTT", index=3)
    graphs = build_graphs([slab, bulk, labelled(), frame(numbers=[1], index=5)], R_MAX, AUTO, None)
    batch = collate(graphs)
    assert batch.num_graphs == 4
    assert batch.cell.shape == (4, 3, 3)
    assert batch.kind.tolist() == [KIND_SLAB, KIND_PERIODIC, KIND_OPEN, KIND_OPEN]
    assert batch.frame_index.tolist() == [0, 3, 0, 5]
    assert batch.config_type == ["Default"] * 4
    assert batch.open_pairs.tolist() == [[6, 6, 7], [7, 8, 8]]
    assert torch.equal(
        torch.bincount(batch.k_batch, minlength=4), torch.tensor([len(g.k_triplets) for g in graphs])
    )
    assert (batch.edge_index[1].diff() >= 0).all()
    assert batch.weight_dipole.shape == (4, 3)
    assert batch.target_forces.shape == (10, 3)
    inputs, labels = collate(graphs, labels=False).to_dict(), ("target_", "weight_")
    assert inputs.keys() == {name for name in batch.to_dict() if not name.startswith(labels)}


def test_equal_wave_vector_lists_are_stored_once():
    settings = Electrostatics(boundary="molecule_in_box")
    boxed = frame(cell=np.eye(3) * 30.0)
    first, second = build_graphs([boxed, attrs.evolve(boxed, index=1)], R_MAX, settings, None)
    assert first.k_triplets.data_ptr() == second.k_triplets.data_ptr()
    assert len(first.k_triplets) > 0
