"""Training steps with a compiled network: ``[training] compile = true``.

The network, nearly all of the work, is recorded as two functions of tensors and of the parameters, which
TorchInductor compiles with its own derivatives: what it gives, and the slopes of a weighted sum of that along
positions and cells. Coulomb and field energy, with derivatives of any order, stay as they are:

    F = -∂E_C/∂r - J^T (1, ∂E_C/∂density, ∂E/∂polarization),     J = ∂(node energy, density, polarization)/∂r

Atoms are structures of their own in both functions, so that the number of structures is no size in them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import torch
from torch import Tensor, nn

from lsf.compilers import require_compiler, sums_by_torch
from lsf.data.graph import GraphTensors, graph_tensors
from lsf.electrostatics.field import field_energy
from lsf.errors import LsfError
from lsf.models.derivatives import evaluate, named_outputs
from lsf.models.local_source import LocalSourceModel, ModelOutput, ShortRange, split_tensors
from lsf.models.pair_layout import PairTables, pair_tables
from lsf.models.recorded import Sizes, record
from lsf.models.sources import sum_over_graph
from lsf.models.strain import deform, inverse_volume
from lsf.train.evaluation import Evaluate, model_evaluate, without_charges

if TYPE_CHECKING:
    from torch_geometric.data import Batch

SUPPORTED: Final = ("forces", "stress", "virial", "potential")
TOLERANCES: Final = {torch.float64: 1.0e-8, torch.float32: 2.0e-3}
"""Largest difference to the native kernels, relative to the largest number of its kind; gradients of float32
networks carry the rounding of two differentiations."""

_COULOMB: Final = len(GraphTensors._fields) - GraphTensors._fields.index("kind")

WHAT: Final = "[training] compile = true"

SIZES: Final[tuple[Sizes, ...]] = (
    ("n_atoms", 3),
    ("n_atoms", 3, 3),
    ("n_atoms",),
    ("n_species",),
    ("n_species", "n_slots"),
    ("n_atoms",),
    (2, "n_edges"),
    ("n_edges", 3),
    ("n_atoms", "n_neighbors"),
    ("n_atoms",),
    ("n_atoms",),
    ("n_atoms", 3),
    ("n_atoms",),
    ("n_atoms",),
    (2, "n_rows"),
    ("n_rows", 3),
    ("n_rows",),
    ("n_atoms", "n_neighbors"),
    ("n_atoms", "n_neighbors"),
    (2, "n_rows"),
    (2, "n_rows"),
    ("n_atoms", "n_neighbors"),
    ("n_atoms", "n_neighbors"),
    ("n_atoms", "n_neighbors", "n_species"),
)
"""Sizes of the tensors of a batch, in their order; every atom is a structure of its own."""


class _Outputs(NamedTuple):
    """What the compiled functions take: tensors with every atom as a structure of its own."""

    graph: GraphTensors
    tables: PairTables

    def tensors(self) -> tuple[Tensor, ...]:
        """Return them flat, without the lists of the Coulomb part."""
        return (*self.graph[:-_COULOMB], *self.tables)


class _Values(nn.Module):
    """Energies (n_atoms,), densities, polarizations and polarizabilities of atoms."""

    def __init__(self, model: LocalSourceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return what the network gives."""
        return tuple(value for value in self.network(tensors) if value is not None)

    def network(self, tensors: tuple[Tensor, ...]) -> ShortRange:
        """Return what the network gives, by name."""
        n_given = len(GraphTensors._fields) - _COULOMB
        nothing = [tensors[0].new_zeros(0)] * _COULOMB
        graph, tables = split_tensors([*tensors[:n_given], *nothing, *tensors[n_given:]])
        return self.model.short_range(graph, tables)


class _Slopes(_Values):
    """Energies of atoms, and derivatives by positions (n_atoms, 3) and cells (n_atoms, 3, 3) of

    ``Σ energy + Σ by_density · density + Σ by_polarization · polarization``.
    """

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return energies and derivatives; the last two tensors are ``by_density, by_polarization``."""
        *given, by_density, by_polarization = tensors
        positions, cell = (value.detach().requires_grad_(True) for value in given[:2])
        network = self.network((positions, cell, *given[2:]))
        weighted = network.node_energy.sum() + (network.density * by_density).sum()
        weighted = weighted + (network.polarization * by_polarization).sum()
        by_position, by_cell = torch.autograd.grad(weighted, [positions, cell], create_graph=True)
        return network.node_energy, by_position, by_cell


Compiled = Callable[..., tuple[Tensor, ...]]


class CompiledSteps:
    """Evaluates batches of training steps with a compiled network, all others as ``eager`` does.

    The network is recorded and compiled for the first batch, and compared with the native kernels on it,
    gradients of all weights included. Later batches of any size run the same code.

    Raises
    ------
    LsfError
        when there is no C++ compiler, an output is asked for that compiled steps do not give, the network
        cannot be compiled, or what it gives differs from the native kernels.
    """

    def __init__(self, log: logging.Logger, eager: Evaluate = model_evaluate) -> None:
        require_compiler("[training] compile = true")
        self.log, self.eager = log, eager
        self._values: Compiled | None = None
        self._slopes: Compiled | None = None

    def __call__(
        self, model: nn.Module, batch: Batch, compute: Collection[str], create_graph: bool = False
    ) -> Mapping[str, Tensor | None]:
        """Return the model's outputs as :class:`lsf.train.evaluation.Evaluate` says."""
        network = cast("LocalSourceModel", model)
        if not create_graph:
            return self.eager(model, batch, compute, create_graph)
        graph = graph_tensors(batch, network.species)
        # sizes of none and one would need code of their own: a structure or two, not worth any
        if min(graph.positions.shape[0], graph.edge_index.shape[1] // 2) < 2:
            return self.eager(model, batch, compute, create_graph)
        if self._values is None:
            self._compile(network, batch, compute)
        outputs = self._evaluate(network, graph, frozenset(compute))
        return without_charges(network, outputs)

    def _compile(self, model: LocalSourceModel, batch: Batch, compute: Collection[str]) -> None:
        unknown = sorted(set(compute) - set(SUPPORTED))
        if unknown:
            raise LsfError(
                f"[training] compile = true: a loss needs {unknown[0]}, which compiled steps do not give; "
                f"they give {', '.join(SUPPORTED)}. Leave that loss out, or train without compile"
            )
        started = time.monotonic()
        self.log.info("compiling the network: this takes minutes, once per run …")
        atoms = _as_atoms(graph_tensors(batch, model.species), model, apart=True)
        values = _Values(model)
        _, density, polarization, *_ = values(*atoms.tensors())
        # derivatives by them are compiled because these examples ask for them
        weights = [torch.ones_like(value, requires_grad=True) for value in (density, polarization)]
        widths = ("n_atoms", density.shape[1]), ("n_atoms", 3)
        with sums_by_torch() if density.device.type == "cpu" else nullcontext():
            self._values = _compiled(values, atoms.tensors(), SIZES)
            self._slopes = _compiled(_Slopes(model), (*atoms.tensors(), *weights), (*SIZES, *widths))
            # their derivatives are compiled when they are first asked for: here
            self._check(model, batch, compute)
        seconds = time.monotonic() - started
        self.log.info("compiled in %.0f s; outputs and gradients agree with the native kernels", seconds)

    def _check(self, model: LocalSourceModel, batch: Batch, compute: Collection[str]) -> None:
        """Compare outputs, and gradients of a random sum of them, with the native kernels."""
        graph = graph_tensors(batch, model.species)
        parameters = [value for value in model.parameters() if value.requires_grad]
        expected = evaluate(model, batch, compute, create_graph=True)
        found = self._evaluate(model, graph, frozenset(compute))
        tolerance = TOLERANCES[model.dtype]
        generator = torch.Generator().manual_seed(0)
        total = {
            "native": torch.zeros((), dtype=torch.float64),
            "compiled": torch.zeros((), dtype=torch.float64),
        }
        for name, value in expected.items():
            _compare(name, found[name], value, 1.0, tolerance)
            weights = torch.randn(value.shape, dtype=torch.float64, generator=generator).to(value)
            total["native"] = total["native"] + (weights * value).sum().cpu()
            total["compiled"] = total["compiled"] + (weights * found[name]).sum().cpu()
        native, compiled = (
            torch.autograd.grad(total[side], parameters, allow_unused=True, materialize_grads=True)
            for side in ("native", "compiled")
        )
        scale = 1e-3 * max(float(value.abs().max()) for value in native)
        names = [name for name, value in model.named_parameters() if value.requires_grad]
        for name, value, other in zip(names, native, compiled, strict=True):
            _compare(f"the gradient of {name}", other, value, scale, tolerance)

    def _evaluate(
        self, model: LocalSourceModel, graph: GraphTensors, compute: frozenset[str]
    ) -> dict[str, Tensor]:
        """Return what :func:`lsf.models.derivatives.evaluate` does with ``create_graph``."""
        assert self._values is not None
        assert self._slopes is not None
        parameters = tuple(model.parameters())
        positions = graph.positions.detach().requires_grad_(True)
        strain = torch.zeros_like(graph.cell).requires_grad_(True)
        moved, cell = deform(positions, graph.cell, graph.batch, strain)
        atoms = _as_atoms(graph, model)
        given = self._values(*parameters, *atoms.tensors())
        node_energy, density, by_atom = given[:3]
        n_graphs = graph.cell.shape[0]
        polarization = sum_over_graph(by_atom, graph.batch, n_graphs)
        strained = graph._replace(positions=moved, cell=cell)
        coulomb = model.coulomb(density, strained)
        field = field_energy(polarization, graph.external_field)
        forced = bool(compute & {"forces", "stress", "virial"})
        # the network's values depend on positions only through the compiled functions: these are partial ones
        by_density, by_polarization, by_position, by_strain = _partial(
            coulomb.sum() + field.sum(), [density, polarization, positions, strain]
        )
        slopes: dict[str, Tensor] = {}
        if forced:
            weights = by_density, by_polarization.index_select(0, graph.batch)
            node_energy, by_moved, by_cells = self._slopes(*parameters, *atoms.tensors(), *weights)
            by_cell = sum_over_graph(by_cells, graph.batch, n_graphs)
            along, across = torch.autograd.grad(
                [moved, cell], [positions, strain], [by_moved, by_cell], create_graph=True
            )
            slopes = {"forces": -(by_position + along), "virial": -(by_strain + across)}
            slopes["stress"] = -slopes["virial"] * inverse_volume(graph.cell)[:, None, None]
        if "potential" in compute:
            slopes["potential"] = _partial(coulomb.sum(), [density])[0][:, 0]
        output = _summed(model, graph, node_energy, density, polarization, (coulomb, field), given[3:])
        return named_outputs(output, graph) | slopes


def _summed(
    model: LocalSourceModel,
    graph: GraphTensors,
    node_energy: Tensor,
    density: Tensor,
    polarization: Tensor,
    coulomb_and_field: tuple[Tensor, Tensor],
    polarizabilities: tuple[Tensor, ...],
) -> ModelOutput:
    """Return the outputs of structures from those of atoms."""
    n_graphs = graph.cell.shape[0]
    node_atomic = model.atomic_energies.index_select(0, graph.species)
    atomic = sum_over_graph(node_atomic, graph.batch, n_graphs)
    short_range = sum_over_graph(node_energy, graph.batch, n_graphs)
    coulomb, field = coulomb_and_field
    polarizability = sum_over_graph(polarizabilities[0], graph.batch, n_graphs) if polarizabilities else None
    return ModelOutput(
        atomic + short_range + coulomb + field,
        atomic,
        short_range,
        coulomb,
        field,
        node_atomic + node_energy,
        density,
        polarization,
        polarizability,
    )


def _partial(energy: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Return derivatives that can be differentiated again; zeros where nothing depends on an input."""
    if not energy.requires_grad:
        return [torch.zeros_like(value) for value in inputs]
    wanted = [value for value in inputs if value.requires_grad]
    found = iter(
        torch.autograd.grad(energy, wanted, create_graph=True, allow_unused=True, materialize_grads=True)
    )
    return [next(found) if value.requires_grad else torch.zeros_like(value) for value in inputs]


def _as_atoms(graph: GraphTensors, model: LocalSourceModel, apart: bool = False) -> _Outputs:
    """Return a batch with every atom as a structure, and atoms grouped by all species of the model.

    With ``apart`` tables are a bit wider where needed for all sizes to differ.
    """
    batch = graph.batch
    n_species, n_atoms = model.species.shape[0], batch.shape[0]
    counts = torch.bincount(graph.species, minlength=n_species)
    # two columns at least: a size of one would be recorded as such
    width = max(2, int(counts.max()))
    if apart:
        n_edges = graph.edge_index.shape[1]
        taken = [n_atoms, n_edges, n_edges // 2 + 1]
        columns = distinct(graph.neighbor_slots.shape[1], taken)
        more = columns - graph.neighbor_slots.shape[1]
        slots = nn.functional.pad(graph.neighbor_slots, (0, more), value=n_edges)
        graph = graph._replace(neighbor_slots=slots)
        width = distinct(width, [*taken, columns])
    order = torch.argsort(graph.species, stable=True)
    first = torch.cumsum(counts, 0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(n_atoms, device=batch.device) - first[graph.species[order]]
    place = graph.species * width + rank
    slots = torch.full((n_species * width,), n_atoms, dtype=torch.int64, device=batch.device)
    slots[place] = torch.arange(n_atoms, device=batch.device)
    tables = pair_tables(graph, n_species)
    alone = graph._replace(
        present_species=torch.arange(n_species, device=batch.device),
        species_slots=slots.reshape(n_species, width),
        species_place=place,
        cell=graph.cell[batch],
        batch=torch.arange(n_atoms, device=batch.device),
        external_field=graph.external_field[batch],
        total_charge=graph.total_charge[batch],
        total_spin=graph.total_spin[batch],
    )
    return _Outputs(alone, tables)


def _compiled(module: _Values, tensors: tuple[Tensor, ...], sizes: Sequence[Sizes]) -> Compiled:
    """Return a function of the parameters, in their order, and of tensors like those of the example."""
    from torch._inductor.compile_fx import compile_fx

    names = [name for name, _ in module.named_parameters()]

    def function(*arguments: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(names, arguments, strict=False))
        found: tuple[Tensor, ...] = torch.func.functional_call(module, values, arguments[len(names) :])
        return found

    n_species = module.model.species.shape[0]
    named = [tuple(n_species if size == "n_species" else size for size in shape) for shape in sizes]
    recorded = record(function, list(module.parameters()), tensors, named, WHAT)
    try:
        return cast("Compiled", compile_fx(recorded.module, recorded.inputs))
    except Exception as error:  # torch raises of every kind
        said = (str(error).splitlines() or ["nothing more"])[0]
        raise LsfError(
            f"{WHAT}: the network cannot be compiled ({type(error).__name__}: {said}); train without compile"
        ) from error


def _compare(name: str, found: Tensor, expected: Tensor, least: float, tolerance: float) -> None:
    if not expected.numel():
        return
    scale = max(least, float(expected.detach().abs().max()))
    difference = float((found - expected).detach().abs().max()) / scale
    if not difference <= tolerance:
        raise LsfError(
            f"[training] compile = true: {name} of the compiled network differs from the native kernels by "
            f"{difference:.1e} of its size; expected at most {tolerance:.0e}. Train without compile"
        )


def distinct(size: int, taken: Sequence[int]) -> int:
    """Return the smallest number from ``size`` on that is not taken."""
    while size in taken:
        size += 1
    return size
