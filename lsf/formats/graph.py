"""A model as one graph of plain operations, derivatives included: what ONNX and AOTInductor start from.

The graph is a function of flat tensors. Their sizes are symbols: one graph serves any number of atoms, edges,
wave vectors and structures. It is recorded twice, from structures of other sizes, and both must be the same.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental import _config as fx_config
from torch.fx.experimental.proxy_tensor import make_fx

from lsf.data.graph import GraphTensors, graph_tensors
from lsf.electrostatics.boundary import KIND_OPEN, KIND_SLAB, structure_sorts
from lsf.electrostatics.differentiate import deformable, derivatives, virial_and_stress
from lsf.electrostatics.exported.operator import opaque_coulomb_energy
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import ExportError
from lsf.formats.describe import all_kinds, prepared
from lsf.formats.model_file.file import LoadedModel
from lsf.formats.verify import batch_of, structure
from lsf.models.derivatives import named_outputs
from lsf.models.energies.coulomb import CoulombTerm
from lsf.models.local_source import LocalSourceModel
from lsf.models.message_passing.compiled.recording import DECOMPOSED as COMPILED
from lsf.models.message_passing.compiled.recording import record, recorded_inputs
from lsf.models.message_passing.native.blocks import EdgeTables

SIZES: Final[dict[str, tuple[str | int, ...]]] = {
    "positions": ("n_atoms", 3),
    "cell": ("n_graphs", 3, 3),
    "species": ("n_atoms",),
    "present_species": ("n_present",),
    "species_slots": ("n_present", "n_slots"),
    "species_place": ("n_atoms",),
    "edge_index": (2, "n_edges"),
    "unit_shifts": ("n_edges", 3),
    "neighbor_slots": ("n_atoms", "n_neighbors"),
    "batch": ("n_atoms",),
    "formal_charges": ("n_atoms",),
    "external_field": ("n_graphs", 3),
    "total_charge": ("n_graphs",),
    "total_spin": ("n_graphs",),
    "kind": ("n_graphs",),
    "slab_axis": ("n_graphs",),
    "slab_length": ("n_graphs",),
    "k_triplets": ("n_k", 3),
    "k_batch": ("n_k",),
    "layer_pairs": ("n_layer", 2),
    "layer_batch": ("n_layer",),
    "open_pairs": (2, "n_pairs"),
    "mesh_size": ("n_graphs", 3),
    "mesh_order": ("n_graphs",),
    "open_box": ("n_graphs", 3),
    "truncation_radius": ("n_graphs",),
    "slot_widths": ("n_atoms",),
    "atom_of_place": ("n_atoms",),
    "place_of_atom": ("n_atoms",),
    "edge_of_slot": ("n_edge_slots",),
    "slot_of_edge": ("n_edges",),
    "sender_of_slot": ("n_edge_slots",),
    "row_of_slot": ("n_edge_slots",),
    "edge_of_row": ("n_rows",),
    "row_of_edge": ("n_edges",),
}
"""Sizes of all tensors that may be inputs; see :class:`lsf.data.graph.GraphTensors` and
:class:`lsf.models.message_passing.native.blocks.EdgeTables` for what they are."""

_aten = torch.ops.aten
DECOMPOSED: Final = (*COMPILED, _aten.rsub, _aten.t, _aten.addmm)
"""Operations that other programs lack, written out in more basic ones."""

_MESH: Final = ("mesh_size", "mesh_order", "open_box", "truncation_radius")


@attrs.frozen(eq=False)
class FlatGraph:
    """A recorded graph: ``module(*inputs)`` returns a tuple of outputs; ``sizes`` are those of inputs."""

    module: GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    examples: tuple[Tensor, ...]

    @property
    def sizes(self) -> dict[str, tuple[str | int, ...]]:
        """Sizes of the inputs: numbers, and names of those that vary."""
        return {name: SIZES[name] for name in self.inputs}


class FlatModel(nn.Module):
    """The model with forces, virial, stress and potential as a function of flat tensors.

    ``inputs`` are the names of the tensors it takes, in order, out of :data:`SIZES`; ``outputs``, those of
    what it returns, are known after a call. Units and signs as in :func:`lsf.models.derivatives.evaluate`.
    With ``opaque``, sums over neighbours and the Coulomb energy are operations of their own, which compilers
    do not look into.
    """

    def __init__(self, model: LocalSourceModel, kinds: set[int], opaque: bool = False) -> None:
        super().__init__()
        self.model = model
        self.kind = min(kinds)
        self.opaque = opaque
        left_out = _left_out(model, kinds)
        left_out |= set() if opaque else {*EdgeTables._fields, *_MESH}
        self.inputs = tuple(name for name in SIZES if name not in left_out)
        self.outputs: tuple[str, ...] = ()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs in the order of ``outputs``."""
        given = dict(zip(self.inputs, tensors, strict=True))
        graph = _completed(given, self.kind)
        tables = [given[name] for name in EdgeTables._fields] if self.opaque else []
        positions, strain, moved, cell = deformable(graph.positions, graph.cell, graph.batch)
        charges = graph.formal_charges.detach().requires_grad_(True)
        output = self.model(*graph._replace(positions=moved, cell=cell, formal_charges=charges), *tables)
        named = named_outputs(output, graph)
        density = [output.density] if output.density.requires_grad else []
        found = derivatives(output.energy, [positions, strain, *density], True)
        named["forces"] = -found[0]
        named["virial"], named["stress"] = virial_and_stress(found[1], graph.cell)
        named["potential"] = torch.zeros_like(positions[:, 0])
        if density and output.parts["coulomb"].requires_grad:
            # what the other parts contribute to the energy's derivative by the density is taken off it again:
            # the Coulomb sums, which cost most, are gone through once
            parts = [energy for name, energy in output.parts.items() if name != "coulomb"]
            others = torch.stack([energy for energy in parts if energy.requires_grad])
            named["potential"] = (found[2] - derivatives(others, density, True)[0])[:, 0]
        self.outputs = tuple(named)
        return tuple(value.detach() for value in named.values())


def _left_out(model: LocalSourceModel, kinds: set[int]) -> set[str]:
    """Return the names of tensors that no structure of these kinds needs: they are no inputs."""
    if not isinstance(model.coulomb, CoulombTerm):
        return {*CoulombPlan._fields}
    left_out: set[str] = set()
    if KIND_OPEN not in kinds:
        left_out.add("open_pairs")
    if kinds == {KIND_OPEN}:
        left_out |= {"k_triplets", "k_batch", *_MESH}
    if KIND_SLAB not in kinds:
        left_out.add("slab_axis")
    if KIND_SLAB not in kinds or model.coulomb.settings.correction != "exact":
        left_out |= {"slab_length", "layer_pairs", "layer_batch"}
    return left_out | ({"kind"} if len(kinds) == 1 else set())


def _completed(given: dict[str, Tensor], kind: int) -> GraphTensors:
    """Return all tensors a model takes: lists that are no inputs are empty, and no structure is on a mesh."""
    cell = given["cell"]
    integers = torch.zeros_like(cell[:, 0, 0], dtype=torch.int64)
    numbers = torch.zeros_like(cell[:, 0, 0])
    triples = torch.zeros_like(cell[:, 0])
    made = {
        "kind": integers + kind,
        "slab_axis": integers + 2,
        "slab_length": numbers,
        "k_triplets": _empty(0, 3),
        "k_batch": _empty(0),
        "layer_pairs": _empty(0, 2),
        "layer_batch": _empty(0),
        "open_pairs": _empty(2, 0),
        "mesh_size": triples.to(torch.int64),
        "mesh_order": integers,
        "open_box": triples,
        "truncation_radius": numbers,
    }
    return GraphTensors(*((made | given)[name] for name in GraphTensors._fields))


def _empty(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def recorded(loaded: LoadedModel, dtype: torch.dtype, opaque: bool = False) -> FlatGraph:
    """Return the graph of a model with parameters of ``dtype``; positions and Coulomb part are float64.

    With ``opaque``, sums over neighbours and the Coulomb energy, by the recipe's backend, are operations of
    their own; else they are written out, without a mesh.

    Inputs that the model has no use for are left out. Raises :class:`lsf.errors.ExportError` where the graph
    is not the same for structures of other sizes.
    """
    model = prepared(loaded.model).cpu().eval().set_dtype(dtype)
    if opaque and isinstance(model.coulomb, CoulombTerm):
        model.coulomb.settings = package_settings(loaded)
        model.coulomb.evaluate = opaque_coulomb_energy
    flat = FlatModel(model, all_kinds(loaded), opaque)
    graphs = []
    # the second one is the first one's check
    for seed, sizes in ((1, (7, 5, 6, 4)), (2, (9, 8, 11, 6))):
        if opaque:
            graphs.append(_recorded_opaque(loaded, flat, seed))
            continue
        examples = example_inputs(loaded, flat, sizes, seed)
        graph = _without_unused(_record(flat, examples), flat, examples)
        _check_sizes(graph, len(loaded.facts.species))
        graphs.append(graph)
    first, second = graphs
    if not _same(first, second):
        raise ExportError(
            f"{loaded.path.name}: the model does other operations for structures of another size, which no "
            "recorded graph can; TorchScript files can: --format torchscript"
        )
    return first


def package_settings(loaded: LoadedModel) -> Electrostatics:
    """Return the settings a compiled package sums by: molecules and clusters alone are not put on meshes."""
    settings = loaded.recipe.electrostatics
    if all_kinds(loaded) == {KIND_OPEN}:
        return attrs.evolve(settings, backend="direct")
    return settings


def example_inputs(
    loaded: LoadedModel, flat: FlatModel, sizes: tuple[int, ...], seed: int
) -> tuple[Tensor, ...]:
    """Return inputs from two random structures or more, of every kind.

    All lists have two entries or more, since lists of none or one would be recorded as such.
    """
    # a model without charges treats all alike, but its lists are made for those of its boundary method
    sorts = structure_sorts(loaded.recipe.electrostatics.boundary)
    chosen = (sorts * 2)[: max(2, len(sorts))]
    settings = attrs.evolve(loaded.recipe.electrostatics, backend="direct")
    for factor in (1, 4, 16, 64):
        rng = np.random.default_rng(seed)
        examples = [
            structure(loaded, sort, factor * size, rng) for sort, size in zip(chosen, sizes, strict=False)
        ]
        known = loaded.facts.species
        examples[0].numbers[: len(known)] = known[: len(examples[0])]  # present elements are a list, too
        graph = graph_tensors(batch_of(loaded, examples, settings), flat.model.species)
        tensors = recorded_inputs(graph, flat.inputs)
        # of one element there is one, always
        fixed = ("present_species", "species_slots") if len(known) == 1 else ()
        lists = [t for name, t in zip(flat.inputs, tensors, strict=True) if name not in fixed]
        if min(min(tensor.shape) for tensor in lists) > 1:
            break
    return tensors


def _recorded_opaque(loaded: LoadedModel, flat: FlatModel, seed: int) -> FlatGraph:
    """Return the graph of a model with opaque sums, from structures all of whose sizes differ."""
    known = loaded.facts.species
    fixed = {"n_species": len(known)} | ({"n_present": 1} if len(known) == 1 else {})
    sizes = [tuple(fixed.get(str(size), size) for size in SIZES[name]) for name in flat.inputs]
    sorts = structure_sorts(loaded.recipe.electrostatics.boundary)
    # no structure on a mesh: no list is empty
    settings = attrs.evolve(loaded.recipe.electrostatics, backend="direct")
    for attempt in range(60):
        rng = np.random.default_rng([seed, attempt])
        # as many structures as elements would be one symbol with them, and so on
        chosen = (sorts * 4)[: max(2, len(sorts)) + attempt % 3]
        n_atoms = 6 * (1 + attempt // 12)
        examples = [structure(loaded, sort, n_atoms + int(rng.integers(5)), rng) for sort in chosen]
        examples[0].numbers[: len(known)] = known[: len(examples[0])]
        graph = graph_tensors(batch_of(loaded, examples, settings), flat.model.species)
        tensors = recorded_inputs(graph, flat.inputs)
        found = {
            (size, n)
            for tensor, names in zip(tensors, sizes, strict=True)
            for size, n in zip(names, tensor.shape, strict=True)
            if isinstance(size, str)
        }
        values = [n for _, n in found]
        if min(values) > 1 and len(set(values)) == len(values):
            break

    def call(*given: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = flat(*given)
        return outputs

    module = record(call, (), tensors, sizes, loaded.path.name).module
    return _without_unused(module, flat, tensors)


def _record(flat: FlatModel, examples: tuple[Tensor, ...]) -> GraphModule:
    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = flat(*tensors)
        return outputs

    table = torch._decomp.get_decompositions(DECOMPOSED)
    # sizes that happen to be equal in the examples must not become one symbol
    with fx_config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        record = make_fx(
            call,
            decomposition_table=table,  # type: ignore[arg-type]
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
        )
        return record(*examples)


def _check_sizes(graph: FlatGraph, n_species: int) -> None:
    """Raise ExportError where a size that varies was recorded as a number, or as that of another list."""
    meaning: dict[str, str] = {}
    nodes = graph.module.graph.find_nodes(op="placeholder")
    for name, node in zip(graph.inputs, nodes, strict=True):
        for size, found in zip(SIZES[name], node.meta["val"].shape, strict=True):
            if isinstance(size, int) or (size == "n_present" and n_species == 1):
                continue
            if not isinstance(found, torch.SymInt):
                raise ExportError(f"{size} of {name} was recorded as {found}: the graph serves no other")
            if meaning.setdefault(str(found), size) != size:
                raise ExportError(f"{size} and {meaning[str(found)]} were recorded as one size")


def _without_unused(module: GraphModule, flat: FlatModel, examples: tuple[Tensor, ...]) -> FlatGraph:
    """Return the graph with those inputs alone that it makes use of."""
    module.graph.eliminate_dead_code()
    nodes = module.graph.find_nodes(op="placeholder")
    used = [bool(node.users) for node in nodes]
    for node in nodes:
        if not node.users:
            module.graph.erase_node(node)
    module.recompile()
    return FlatGraph(
        module,
        tuple(name for name, keep in zip(flat.inputs, used, strict=True) if keep),
        flat.outputs,
        tuple(tensor for tensor, keep in zip(examples, used, strict=True) if keep),
    )


def _same(first: FlatGraph, second: FlatGraph) -> bool:
    """Return whether two graphs are the same, operations and constants."""
    constants, others = first.module.state_dict(), second.module.state_dict()
    return (
        first.inputs == second.inputs
        and first.module.code == second.module.code
        and constants.keys() == others.keys()
        and all(torch.equal(value, others[name]) for name, value in constants.items())
    )
