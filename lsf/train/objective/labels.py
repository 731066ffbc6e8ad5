"""Labels beside their predictions: the masked difference that losses and metrics share.

Sizes: ``n_graphs`` and ``n_atoms`` count a batch; an *entry* is one number of a label.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import attrs
import torch
from torch import Tensor

from lsf.data.graph import AtomGraph
from lsf.data.lazy import LazyGraphs
from lsf.errors import LsfError, Problem
from lsf.machine.geometric import Batch
from lsf.recipe.quantities import LABELS, OUTPUTS

Predictions = Mapping[str, Tensor | None]


@attrs.frozen
class Ingredient:
    """Something besides a label that a loss needs of a frame: what has it, and where it comes from."""

    present: Callable[[AtomGraph], bool]
    hint: str


INGREDIENTS: Final[dict[str, Ingredient]] = {
    "molecule_ids": Ingredient(
        lambda graph: bool((graph.molecule_ids >= 0).any()),
        "number the molecules of a frame from 0 in the column mapped as molecule_ids",
    ),
    "wave_vectors": Ingredient(
        lambda graph: graph.k_triplets.shape[0] > 0,
        "only structures summed in reciprocal space have them: see electrostatics.boundary",
    ),
}


class Comparison(NamedTuple):
    """A property's prediction beside its label, one row per graph or per atom.

    ``predicted`` and ``target`` are (n_rows, n_entries); ``weight`` is (n_rows, 1) or, where entries are
    weighted one by one (dipole), (n_rows, n_entries); ``graph`` (n_rows,) is the graph of each row.
    """

    predicted: Tensor
    target: Tensor
    weight: Tensor
    graph: Tensor

    def difference(self) -> Tensor:
        """Return prediction minus label, (n_rows, n_entries), zero where the weight is zero.

        An unlabelled entry is dropped rather than multiplied by zero, so that a prediction without
        meaning (the stress of a molecule is not finite) cannot spoil the sum.
        """
        return torch.where(self.weight > 0.0, self.predicted - self.target, 0.0)


def atoms_per_graph(batch: Batch) -> Tensor:
    """Return the number of atoms of every graph, (n_graphs,) int64."""
    starts: Tensor = batch.ptr
    return starts[1:] - starts[:-1]


def compare(name: str, predictions: Predictions, batch: Batch) -> Comparison:
    """Return prediction and label of one property of a batch.

    Raises :class:`lsf.errors.LsfError` when the model does not predict the property.
    """
    row = LABELS[name]
    output = row.prediction.output
    predicted = predictions.get(output)
    if predicted is None:
        available = sorted(key for key, value in predictions.items() if value is not None)
        raise LsfError(
            f"the property {name!r} needs the model output {output!r}, which this model "
            f"does not provide; it provides {', '.join(available)}"
        )
    target = batch[f"target_{name}"]
    weight = batch[f"weight_{name}"]
    if row.level == "atom":
        graph = batch.batch
        weight = weight[graph]
    else:
        graph = torch.arange(weight.shape[0], device=weight.device)
    rows = graph.shape[0]
    return Comparison(predicted.reshape(rows, -1), target.reshape(rows, -1), weight.reshape(rows, -1), graph)


def derived_outputs(names: Iterable[str]) -> frozenset[str]:
    """Return what has to be differentiated to predict the named properties."""
    return frozenset().union(*(OUTPUTS[name].prediction.compute for name in names))


def labelled(graphs: Sequence[AtomGraph]) -> tuple[str, ...]:
    """Return the properties that at least one of the graphs has a label for, in table order."""
    if isinstance(graphs, LazyGraphs):
        return tuple(name for name in LABELS if name in graphs.labelled)
    return tuple(
        name for name in LABELS if any(bool((graph[f"weight_{name}"] > 0.0).any()) for graph in graphs)
    )


def missing_labels(
    needed: Collection[str], graphs: Sequence[AtomGraph], source: str, stage: str
) -> list[Problem]:
    """Return one problem per label or ingredient that a stage's losses need and no training frame has."""
    present = labelled(graphs)
    lacking = [
        Problem(
            where=source,
            key=f"{name} (loss of stage {stage!r})",
            found=f"none in any of {len(graphs)} frames",
            expected="at least one frame that has it",
            hint=f"{INGREDIENTS[name].hint}; or drop the loss term",
        )
        for name in needed
        if name in INGREDIENTS and not any(INGREDIENTS[name].present(graph) for graph in graphs)
    ]
    return lacking + [
        Problem(
            where=source,
            key=f"{name} (loss of stage {stage!r})",
            found=f"no frame with a weight above zero for it among {len(graphs)}",
            expected="at least one labelled frame",
            hint="map it in [heads.<name>], or drop the loss term; "
            f"labelled: {', '.join(present) or 'nothing'}",
        )
        for name in needed
        if name not in present and name not in INGREDIENTS
    ]
