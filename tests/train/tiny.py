"""A potential of three weight matrices and its evaluation, fast enough to train in tests."""

from __future__ import annotations

import logging

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from lsf.data.graph import AtomGraph
from lsf.options import Component, NoOptions
from lsf.recipe.catalog import catalog
from lsf.recipe.schema import DataOptions, Head, LossTerm, Recipe, Stage, Training
from lsf.train.loop.checkpoint import SaveClock

LOG = logging.getLogger("lsf.test")
SHAPES = {
    "energy": (1,),
    "forces": (None, 3),
    "stress": (1, 3, 3),
    "virials": (1, 3, 3),
    "dipole": (1, 3),
    "polarizability": (1, 3, 3),
    "total_charge": (1,),
    "atomic_multipoles": (None, 4),
    "electrostatic_potentials": (None,),
    "born_charges": (None, 3, 3),
}


class TinyModel(nn.Module):
    """Energy and multipoles of every atom from its position alone."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.hidden = nn.Parameter(torch.randn(3, 8, generator=generator, dtype=torch.float64).to(dtype))
        self.energy = nn.Parameter(torch.randn(8, 1, generator=generator, dtype=torch.float64).to(dtype))
        self.sources = nn.Parameter(torch.randn(8, 4, generator=generator, dtype=torch.float64).to(dtype))
        self.offset = nn.Parameter(torch.zeros((), dtype=dtype))
        self.unused = nn.Parameter(torch.ones(2, dtype=dtype))


def tiny_evaluate(model, batch, compute, create_graph=False):
    """Return the outputs of a TinyModel, with forces as true derivatives."""
    positions = batch.positions.to(model.hidden.dtype).detach().requires_grad_("forces" in compute)
    hidden = torch.tanh(positions @ model.hidden)
    n_graphs = batch.ptr.shape[0] - 1

    def total(values):
        return values.new_zeros(n_graphs, *values.shape[1:]).index_add(0, batch.batch, values)

    energy = total((hidden @ model.energy).squeeze(-1) + model.offset)
    density = hidden @ model.sources
    output = {
        "energy": energy,
        "density_coefficients": density,
        "total_charge": total(density[:, 0]),
        "dipole": total(density[:, :1] * positions + density[:, 1:]),
    }
    if "forces" in compute:
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=create_graph)
        output["forces"] = -gradient
    for name in ("stress", "virial"):
        if name in compute:
            output[name] = energy[:, None, None] * torch.ones(3, 3, dtype=energy.dtype)
    return output


def make_graph(index: int, n_atoms: int, labels, config_type: str = "water", weights=None) -> AtomGraph:
    """Return a frame of random positions whose labels are those a hidden TinyModel gives."""
    generator = torch.Generator().manual_seed(1000 + index)
    graph = AtomGraph(
        positions=torch.randn(n_atoms, 3, generator=generator, dtype=torch.float64),
        cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        edge_index=torch.zeros(2, 0, dtype=torch.int64),
        frame_index=torch.tensor([index]),
        config_type=config_type,
        num_nodes=n_atoms,
    )
    for name, shape in SHAPES.items():
        count = tuple(n_atoms if size is None else size for size in shape)
        value = torch.randn(count, generator=generator, dtype=torch.float64)
        weight = torch.ones((1, 3) if name == "dipole" else (1,), dtype=torch.float64)
        present = name in labels
        graph[f"target_{name}"] = value if present else torch.zeros_like(value)
        graph[f"weight_{name}"] = weight * ((weights or {}).get(name, 1.0) if present else 0.0)
    return graph


def make_graphs(count: int, labels=("energy", "forces", "dipole", "atomic_multipoles"), first: int = 0):
    """Return frames of two to five atoms."""
    return [make_graph(first + i, 2 + i % 4, labels, "water" if i % 3 else "ion") for i in range(count)]


class Splits:
    """Frames of a run."""

    def __init__(self, train, valid, tests=None) -> None:
        self.train, self.valid, self.tests = train, valid, tests or {}


def make_splits() -> Splits:
    return Splits(make_graphs(11), make_graphs(5, first=100), {"test": make_graphs(4, first=200)})


def loss_terms(**weights: float) -> dict[str, LossTerm]:
    """Return loss terms with default options."""
    return {
        name: LossTerm(weight, catalog().options_class("losses", name)()) for name, weight in weights.items()
    }


def make_recipe(epochs=(3, 3), optimizer: str = "adam", **training) -> Recipe:
    """Return a recipe of one or two stages for the tiny model."""
    terms = (
        loss_terms(energy_per_atom=1.0, forces=10.0, atomic_multipoles=5.0),
        loss_terms(energy_per_atom=100.0, forces=1.0, dipole=1.0),
    )
    lrs = (0.01, 0.002)
    return Recipe(
        schema=1,
        name="tiny",
        data=DataOptions(train="train.xyz", valid="valid.xyz"),
        heads={"default": Head()},
        model=Component("tiny", NoOptions()),
        stages=tuple(
            Stage(f"stage{place + 1}", count, lrs[place], terms[place]) for place, count in enumerate(epochs)
        ),
        training=Training(
            batch_size=4,
            optimizer=Component(optimizer, catalog().options_class("optimizers", optimizer)()),
            **training,
        ),
    )


class FixedClock(SaveClock):
    """Says that a checkpoint is due as it is told, however fast the machine trains and writes."""

    def __init__(self, after_epoch: bool = True, after_step: bool = False) -> None:
        super().__init__(now=lambda: 0.0)
        self.after_epoch, self.after_step = after_epoch, after_step

    def due(self) -> bool:
        return self.after_epoch

    def due_within_epoch(self) -> bool:
        return self.after_step


def save_fake(model, path, extra_metadata) -> None:
    """Write a model's weights and metadata, in place of the real model file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.detach() for name, value in model.state_dict().items()}, path, dict(extra_metadata)
    )


def load_fake(path):
    """Return weights and metadata of a file written by save_fake."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
