"""Errors of a model on sets of frames: for validation during training, the final tables, ``lsf eval``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import attrs
import torch
from torch import Tensor, nn

from lsf.data.graph import AtomGraph, collate
from lsf.data.lazy import LazyGraphs
from lsf.machine.geometric import Batch
from lsf.recipe.quantities import LABELS, measures, outputs_of_charges
from lsf.train.averaging import weights_in_place
from lsf.train.loop.distributed import ALONE, World
from lsf.train.objective.labels import atoms_per_graph, compare, derived_outputs, labelled
from lsf.train.objective.losses import StageLoss
from lsf.train.objective.metrics import ErrorSums, SplitMetrics, entries_of

if TYPE_CHECKING:
    from lsf.models.local_source import LocalSourceModel


class Evaluate(Protocol):
    """Signature of :func:`lsf.models.derivatives.evaluate`, which tests replace by a small one."""

    def __call__(
        self, model: nn.Module, batch: Batch, compute: Collection[str], create_graph: bool = False
    ) -> Mapping[str, Tensor | None]:
        """Return the model's outputs, and those in ``compute`` derived by differentiation."""


def model_evaluate(
    model: nn.Module, batch: Batch, compute: Collection[str], create_graph: bool = False
) -> Mapping[str, Tensor | None]:
    """Call :func:`lsf.models.derivatives.evaluate`; what a model without charges cannot predict is None."""
    from lsf.models.derivatives import evaluate

    network = cast("LocalSourceModel", model)
    return without_charges(network, evaluate(network, batch, compute, create_graph))


def without_charges(model: LocalSourceModel, outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor | None]:
    """Return the outputs, with None in place of those that mean nothing for a model without charges."""
    from lsf.models.sources.none import NoSource

    if isinstance(model.source, NoSource):
        return {**outputs, **dict.fromkeys(outputs_of_charges())}
    return outputs


class TypedBatch(NamedTuple):
    """A collated batch and, per graph, the place of its config type in the set's list (n_graphs,)."""

    batch: Batch
    type_index: Tensor


@attrs.frozen
class _Batches:
    """The batches of some graphs, put together every time they are gone through."""

    graphs: Sequence[AtomGraph]
    batch_size: int
    types: Sequence[str]
    device: torch.device

    def __iter__(self) -> Iterator[TypedBatch]:
        place = {name: index for index, name in enumerate(self.types)}
        for chunk in _chunks(self.graphs, self.batch_size):
            held = list(chunk)
            types = torch.tensor([place[graph.config_type] for graph in held], device=self.device)
            yield TypedBatch(collate(held).to(self.device), types)


@attrs.frozen
class EvaluationSet:
    """Frames collated once and kept on the device, ready to be evaluated many times.

    Frames in shards are read and collated anew every time, so that few are in memory. Of several processes
    each holds its share of the batches; types and properties are those of all frames.
    """

    batches: Iterable[TypedBatch]
    types: tuple[str, ...]
    properties: tuple[str, ...]
    device: torch.device
    world: World = ALONE

    @classmethod
    def build(
        cls, graphs: Sequence[AtomGraph], batch_size: int, device: torch.device, world: World = ALONE
    ) -> EvaluationSet:
        """Return the set of the graphs, in batches of at most ``batch_size``."""
        if isinstance(graphs, LazyGraphs):
            lazy = _Batches(world.share(graphs), batch_size, graphs.config_types, device)
            return cls(lazy, graphs.config_types, labelled(graphs), device, world)
        types = tuple(dict.fromkeys(graph.config_type for graph in graphs))
        held = tuple(_Batches(world.share(graphs), batch_size, types, device))
        return cls(held, types, labelled(graphs), device, world)

    def metrics(
        self,
        model: nn.Module,
        weights: Sequence[Tensor],
        loss: StageLoss | None = None,
        evaluate: Evaluate = model_evaluate,
    ) -> SplitMetrics:
        """Return the errors on the labelled properties that the model predicts, and a stage's loss.

        ``weights`` (one tensor per parameter of the model) are used in place of the model's own.
        """
        sums: ErrorSums | None = None
        n_terms = 0 if loss is None else len(loss.names)
        terms = torch.zeros((2, n_terms), dtype=torch.float64, device=self.device)
        compute = derived_outputs(self.properties) | (loss.compute if loss is not None else frozenset())
        with weights_in_place(model, weights):
            for batch, type_index in self.batches:
                predictions = evaluate(model, batch, compute, create_graph=False)
                predictions = {name: _detached(value) for name, value in predictions.items()}
                if sums is None:
                    sums = ErrorSums(_predicted(self.properties, predictions), self.types, self.device)
                sums.update(predictions, batch, type_index)
                if loss is not None:
                    terms = terms + loss.terms(predictions, batch)
        # the main process has frames where there are any, and so knows what the model predicts
        predicted = self.world.agreed(sums.properties if sums is not None else None)
        if predicted is None:
            return SplitMetrics(0, {}, {}, {})
        sums = sums or ErrorSums(predicted, self.types, self.device)
        sums.add_up(self.world)
        metrics = sums.result()
        if loss is None:
            return metrics
        terms = self.world.sum(terms)
        return attrs.evolve(metrics, loss=loss.combine(terms).item(), terms=loss.named(terms))


def _chunks(graphs: Sequence[AtomGraph], batch_size: int) -> Iterator[Sequence[AtomGraph]]:
    return (graphs[start : start + batch_size] for start in range(0, len(graphs), batch_size))


def _detached(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach()


def _predicted(properties: Sequence[str], predictions: Mapping[str, Tensor | None]) -> list[str]:
    """Return the properties the model has an output for; a label it cannot predict is not counted."""
    return [name for name in properties if predictions.get(LABELS[name].prediction.output) is not None]


def parameters_of(model: nn.Module) -> list[Tensor]:
    """Return the model's weights, to be evaluated as they are."""
    return [parameter.detach() for parameter in model.parameters()]


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def evaluate_splits(
    model: nn.Module,
    splits: Mapping[str, Sequence[AtomGraph]],
    batch_size: int,
    evaluate: Evaluate = model_evaluate,
    world: World = ALONE,
) -> dict[str, SplitMetrics]:
    """Return the errors of a model, as it stands, on every named set of frames that is not empty."""
    weights, device = parameters_of(model), device_of(model)
    return {
        name: EvaluationSet.build(graphs, batch_size, device, world).metrics(
            model, weights, evaluate=evaluate
        )
        for name, graphs in splits.items()
        if graphs
    }


class LabelledPairs(NamedTuple):
    """Labels and predictions of the labelled entries of one measure, both (n_entries,), for parity plots."""

    target: Tensor
    predicted: Tensor


def labelled_pairs(
    model: nn.Module,
    graphs: Sequence[AtomGraph],
    batch_size: int,
    names: Sequence[str],
    evaluate: Evaluate = model_evaluate,
) -> dict[str, LabelledPairs]:
    """Return label and prediction of every labelled entry of the named measures (those that have any)."""
    found: dict[str, list[LabelledPairs]] = {}
    present = labelled(graphs)
    known = measures()
    wanted = [(row.name, measure) for row, measure in map(known.__getitem__, names) if row.name in present]
    compute = derived_outputs(label for label, _ in wanted)
    with weights_in_place(model, parameters_of(model)):
        for chunk in _chunks(graphs, batch_size):
            batch = collate(chunk).to(device_of(model))
            predictions = {n: _detached(v) for n, v in evaluate(model, batch, compute).items()}
            for label, measure in wanted:
                if not _predicted([label], predictions):
                    continue
                pair = compare(label, predictions, batch)
                predicted, target, valid = entries_of(measure, pair, atoms_per_graph(batch))
                found.setdefault(measure.name, []).append(
                    LabelledPairs(target[valid].cpu(), predicted[valid].cpu())
                )
    return {
        name: LabelledPairs(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))
        for name, pairs in found.items()
    }
