import torch
from tiny import make_graphs

from lsf.data.graph import AtomGraph, collate
from lsf.train.loop.batching import FrameStore


def with_edges(graph: AtomGraph) -> AtomGraph:
    """Give a frame the fields whose values are shifted or joined in special ways."""
    n = graph.num_nodes
    graph.edge_index = torch.tensor([[0, 1] * (n - 1), sorted([*range(n - 1), *range(1, n)])])
    graph.open_pairs = torch.combinations(torch.arange(n)).T.contiguous()
    graph.k_batch = torch.zeros(n + 1, dtype=torch.int64)
    graph.k_triplets = torch.arange(3 * n + 3).reshape(-1, 3)
    graph.layer_batch = torch.zeros(0, dtype=torch.int64)
    return graph


def test_batch_equals_that_of_torch_geometric():
    graphs = [with_edges(graph) for graph in make_graphs(6)]
    store = FrameStore(graphs, torch.device("cpu"))
    for indices in ([3], [5, 0, 2], [1, 1]):
        batch, expected = store.batch(indices), collate([graphs[index] for index in indices])
        assert batch.num_nodes == expected.num_nodes
        for name, value in expected.to_dict().items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(batch[name], value), name
                assert batch[name].dtype == value.dtype, name
