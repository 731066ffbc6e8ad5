"""Recorded graphs: the numbers of the model for sizes that were never recorded."""

import pytest
import torch

import lsf
from lsf.data.graph import graph_tensors
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import ExportError
from lsf.formats import graph as graph_module
from lsf.formats.describe import prepared
from lsf.formats.graph import FlatModel, recorded
from tests.formats.test_torchscript import batch, expected, model_file
from tests.models.helpers import salt_slab, triclinic_salt, water


def assert_equal(loaded, graph, structures):
    """Compare all outputs; sums are made in another order, which costs some 1e-13 of numbers of order 100."""
    tensors = graph_tensors(batch(loaded, structures), loaded.model.species)
    found = graph.module(*(getattr(tensors, name) for name in graph.inputs))
    reference = expected(loaded, structures)
    assert set(graph.outputs) == set(reference)
    for name, value in zip(graph.outputs, found, strict=True):
        scale = max(1.0, float(reference[name].abs().max()))
        torch.testing.assert_close(value, reference[name], rtol=0.0, atol=1e-11 * scale, msg=name)


def test_an_open_structure_of_any_size(tmp_path):
    loaded = lsf.load(model_file(tmp_path, more="num_interactions = 1"))
    graph = recorded(loaded, torch.float64)
    assert graph.sizes["open_pairs"] == (2, "n_pairs")
    assert not {"k_triplets", "kind", "total_charge"} & set(graph.inputs)
    for structures in ([water(1)], [water(3), water(2)], [water(1)[[0]]]):
        assert_equal(loaded, graph, structures)


@pytest.mark.slow
@pytest.mark.parametrize("degree", [1, 2])
def test_all_kinds_in_one_graph(tmp_path, degree):
    more = "" if degree == 1 else 'hidden_irreps = "2x0e + 2x1o + 2x2e"'
    loaded = lsf.load(model_file(tmp_path, boundary="auto", more=more, degree=degree))
    graph = recorded(loaded, torch.float64)
    assert_equal(loaded, graph, [water(2), salt_slab(), triclinic_salt(3)])
    for structure in (water(3), salt_slab(4) * (2, 1, 1), triclinic_salt(5)):
        assert_equal(loaded, graph, [structure])


def test_a_model_that_depends_on_sizes_is_refused(tmp_path, monkeypatch):
    loaded = lsf.load(model_file(tmp_path, model="FixedChargeBaselinedMACE", more="num_interactions = 1"))
    forward = FlatModel.forward

    def by_size(self, *tensors):
        values = forward(self, *tensors)
        return values if tensors[0].shape[0] > 13 else tuple(value + 0.0 for value in values)

    monkeypatch.setattr(FlatModel, "forward", by_size)
    with pytest.raises(ExportError, match="other operations for structures of another size"):
        recorded(loaded, torch.float64)


def test_a_size_that_was_recorded_as_a_number(tmp_path, monkeypatch):
    loaded = lsf.load(model_file(tmp_path, model="MACE", more="num_interactions = 1"))
    structure = graph_module.structure
    # atoms of a large cell have no neighbours: a list of none is a list of none for ever
    monkeypatch.setattr(graph_module, "structure", lambda *a: _apart(structure(*a)))
    with pytest.raises(ExportError, match="n_edges of edge_index was recorded as 0"):
        recorded(loaded, torch.float64)


def _apart(atoms):
    atoms.positions *= 5.0
    return atoms


def test_the_model_itself_is_left_alone(tmp_path):
    loaded = lsf.load(model_file(tmp_path))
    copy = prepared(loaded.model)
    assert loaded.model.backbone.kernels == "auto"
    assert copy.backbone.kernels == "plain"
    assert copy.coulomb.settings == Electrostatics(boundary="realspace", backend="direct")
