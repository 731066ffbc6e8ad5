"""The convolution in Triton against e3nn's product; without a CUDA device in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lsf.electrostatics.settings import Electrostatics
from lsf.models.convolution import ConvolutionPaths
from lsf.models.derivatives import evaluate
from lsf.models.geometry import Edges
from lsf.models.interaction import Interaction
from lsf.models.irreps import parse_irreps
from lsf.models.message_passing.executors import KernelsError, require_kernels
from lsf.models.message_passing.neighborhood import Neighborhood
from lsf.models.message_passing.triton import executor as fused
from lsf.recipe.rules import resolve
from tests.models.helpers import batch_of, make_model, water
from tests.models.test_interaction import geometry, neighborhood
from tests.models.test_kernel_choice import RECIPE, problem_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed: pip install 'lsf[gpu]' (Linux)",
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def edges_of(n_atoms: int) -> torch.Tensor:
    """A chain with one edge that has no counterpart and an atom without neighbours; not sorted."""
    chain = [(i, i + 1) for i in range(n_atoms - 2)]
    return torch.tensor([*((b, a) for a, b in chain[1:]), *chain]).T.contiguous()


def results(kernels: str, irreps: str, max_ell: int, n_atoms: int, orders: int) -> list[torch.Tensor]:
    """Atomic basis, its derivatives by positions and features, and those of these by all weights."""
    torch.manual_seed(1)
    inputs = parse_irreps(irreps)
    module = Interaction(inputs, max_ell, 4, (4, 3), 3.7, kernels).double().to(DEVICE)
    positions = 0.5 * torch.randn(n_atoms, 3, dtype=torch.float64) + torch.arange(n_atoms).unsqueeze(1)
    positions = positions.to(DEVICE).requires_grad_()
    features = torch.randn(n_atoms, inputs.dim, inputs.channels, dtype=torch.float64).to(DEVICE)
    features.requires_grad_()
    edge_index = edges_of(n_atoms)
    edge_index = edge_index[:, torch.argsort(edge_index[1], stable=True)].to(DEVICE)
    edges = geometry(positions, edge_index, max_ell)
    basis = module(features, neighborhood(edges, n_atoms))
    found = [basis]
    if orders > 0:
        found += torch.autograd.grad(basis.sin().sum(), (positions, features), create_graph=orders > 1)
    if orders > 1:
        loss = sum(gradient.square().sum() for gradient in found[1:])
        weights = [module.radial_out, *module.radial.weights, module.linear_up.weight, *module.linear_down]
        found += torch.autograd.grad(loss, [positions, features, *weights])
    return found


# the interpreter takes some 20 ms for an edge of a path: second derivatives where paths are few
@pytest.mark.parametrize(
    ("irreps", "max_ell", "n_atoms", "orders"),
    [("3x0e", 2, 4, 2), ("2x0e + 2x1o", 1, 4, 2), ("1x0e + 1x1o", 3, 3, 1), ("1x0e + 1x1o + 1x2e", 4, 3, 0)],
)
def test_convolution_equals_e3nn_with_its_derivatives(irreps, max_ell, n_atoms, orders):
    ours, reference = (results(name, irreps, max_ell, n_atoms, orders) for name in ("triton", "e3nn"))
    for found, expected in zip(ours, reference, strict=True):
        scale = float(expected.detach().abs().max())
        assert scale > 0.0
        # the same few products in another order; the bar is 1e-10
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-13 * max(1.0, scale))


def test_energies_and_forces_of_a_model_are_those_of_native_kernels():
    outputs = []
    settings = Electrostatics(boundary="realspace")
    for kernels in ("triton", "native"):
        options = {"max_ell": 1, "hidden_irreps": "2x0e + 2x1o", "kernels": kernels}
        model = make_model("LocalSplitCharges", settings, **options).to(DEVICE)
        outputs.append(evaluate(model, batch_of([water(1)], model, settings).to(DEVICE)))
    for name in ("energy", "forces", "dipole"):
        # energies are of order 1e3 eV
        torch.testing.assert_close(outputs[0][name], outputs[1][name], rtol=1e-14, atol=1e-12)


def operands(irreps: str, max_ell: int, n_atoms: int, dtype: torch.dtype = torch.float64):
    """Features, couplings, weights and messages, tables and shape of a convolution on a small graph."""
    from lsf.models.message_passing.triton.operators import shape_of, tables_of

    torch.manual_seed(2)
    convolution = ConvolutionPaths(parse_irreps(irreps), max_ell)
    edge_index = edges_of(n_atoms).to(DEVICE)
    slots = torch.zeros(n_atoms, 1, dtype=torch.int64, device=DEVICE)
    shape = shape_of(convolution)
    n_edges, n_channels = edge_index.shape[1], convolution.inputs.channels
    n_entries = sum((2 * l1 + 1) * (2 * l3 + 1) for l1, _, l3 in convolution.paths)
    sizes = [(n_atoms, shape[2], n_channels), (n_edges, n_entries), (n_edges, shape[4] * n_channels)]
    sizes.append((n_atoms, shape[3], n_channels))
    tensors = [torch.randn(size, dtype=dtype).to(DEVICE).requires_grad_() for size in sizes]
    empty = torch.empty(0, device=DEVICE)
    return tensors, tables_of(Neighborhood.of_batch(Edges(edge_index, empty, empty, empty), slots)), shape


def form(convolution, features, couplings, radial, messages, edge_index):
    """The form that all operators are derivatives of, in plain torch."""
    n_channels, slices = features.shape[2], convolution.inputs.slices()
    weights = radial.view(radial.shape[0], -1, n_channels)
    total, row, entry = features.new_zeros(()), 0, 0
    for path, (l1, _, l3) in enumerate(convolution.paths):
        height, width = 2 * l3 + 1, 2 * l1 + 1
        block = couplings[:, entry : entry + height * width].view(-1, height, width)
        sent = features[edge_index[0]][:, slices[l1]]
        received = messages[edge_index[1]][:, row : row + height]
        total = total + torch.einsum("erk,ec,ekc,erc->", block, weights[:, path], sent, received)
        row, entry = row + height, entry + height * width
    return total


def test_operators_are_one_another_s_derivatives():
    """Values, first and second derivatives of each, so that forces can be trained on."""
    from lsf.models.message_passing.triton.operators import edges, receive, send

    given, tables, shape = operands("1x0e + 1x1o", 1, 3)
    features, couplings, radial, messages = given
    q = form(ConvolutionPaths(parse_irreps("1x0e + 1x1o"), 1), *given, edges_of(3).to(DEVICE))
    by_features, by_couplings, by_radial, by_messages = torch.autograd.grad(q, given, create_graph=True)
    cases = [
        ((receive(features, couplings, radial, tables, shape),), (by_messages,)),
        ((send(messages, couplings, radial, tables, shape),), (by_features,)),
        (edges(*given, tables, shape), (by_couplings, by_radial)),
    ]
    for ours, reference in cases:
        derivatives = []
        for outputs in (ours, reference):
            value = sum(output.square().sum() for output in outputs)
            first = torch.autograd.grad(value, given, create_graph=True, materialize_grads=True)
            squares = sum(gradient.square().sum() for gradient in first)
            # the cases of plain torch share their graph
            second = torch.autograd.grad(squares, given, retain_graph=True, materialize_grads=True)
            derivatives.append([*outputs, *first, *second])
        for found, expected in zip(*derivatives, strict=True):
            scale = max(1.0, float(expected.detach().abs().max()))
            torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-13 * scale)


# from 2.14 on, torch warns of a look at its own copies of the inputs
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_operators_keep_the_contract_of_the_dispatcher():
    from lsf.models.message_passing.triton.operators import edges, receive, send

    (features, couplings, radial, messages), tables, shape = operands("1x0e", 1, 3)
    torch.library.opcheck(receive, (features, couplings, radial, tables, shape))
    torch.library.opcheck(send, (messages, couplings, radial, tables, shape))
    torch.library.opcheck(edges, (features, couplings, radial, messages, tables, shape))


@pytest.mark.parametrize("n_channels", [5, 70])  # less than a block of channels, more than one
def test_single_precision_and_channels_that_fill_no_block(n_channels):
    from lsf.models.message_passing.triton.operators import edges, receive, send

    def all_of(dtype):
        tensors, tables, shape = operands(f"{n_channels}x0e + {n_channels}x1o", 1, 3, torch.float64)
        features, couplings, radial, messages = (tensor.detach().to(dtype) for tensor in tensors)
        return (
            receive(features, couplings, radial, tables, shape),
            send(messages, couplings, radial, tables, shape),
            *edges(features, couplings, radial, messages, tables, shape),
        )

    for single, double in zip(all_of(torch.float32), all_of(torch.float64), strict=True):
        assert single.dtype == torch.float32
        scale = float(double.abs().max())
        # inputs carry 6e-8, sums over channels have up to 70 x 3 terms
        torch.testing.assert_close(single.double(), double, rtol=0.0, atol=1e-6 * scale)


def test_without_edges_there_are_no_messages():
    module = Interaction(parse_irreps("2x0e + 2x1o"), 2, 4, (4,), 3.0, "triton").double().to(DEVICE)
    positions = torch.zeros(1, 3, dtype=torch.float64, device=DEVICE)
    edges = geometry(positions, torch.zeros(2, 0, dtype=torch.int64, device=DEVICE), 2)
    features = torch.ones(1, 4, 2, dtype=torch.float64, device=DEVICE)
    assert not module(features, neighborhood(edges, 1)).any()


# --- what a user meets without a GPU --------------------------------------------------------------------


def test_it_is_refused_at_the_start_where_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    message = problem_of("triton")
    assert "model.kernels: found \"triton\", but they run on a CUDA device, not on 'cpu'" in message
    assert "expected one of those that run on 'cpu': auto, e3nn, native, plain" in message
    monkeypatch.setattr(fused, "triton_installed", lambda: False)
    assert "'triton' is not installed: pip install 'lsf[gpu]' (Linux)" in problem_of("triton")
    with pytest.raises(KernelsError, match=r'"triton" cannot be used: .*lsf\[gpu\].* on .cpu.: auto, e3nn'):
        require_kernels("triton", torch.device("cpu"))
    assert resolve(RECIPE, ["model.kernels=auto"]).model.options.kernels == "auto"


# --- what the GPU will get ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_program_compiles_for_a_hopper_gpu_and_is_captured_in_graphs():
    """In a process without the interpreter; Triton's compiler needs no GPU when it is told the target."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    script = Path(__file__).with_name("compile_convolution.py")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["compiled", "6", "captured", "3"]
