"""The recipe: these classes are the whole schema. Units: eV, Å, e.

Every field carries one sentence of meaning and one of consequence; ``docs/recipe.md`` and the error
messages are made from them. :mod:`lsf.recipe.read` reads and writes them as TOML.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import attrs

from lsf.electrostatics.settings import Electrostatics
from lsf.options import (
    Chosen,
    Component,
    Rule,
    above,
    at_least,
    between,
    device_name,
    each,
    file_name,
    keys_among,
    not_empty,
    option,
    unless_none,
)
from lsf.recipe.catalog import catalog, component
from lsf.recipe.quantities import column_names

__all__ = [
    "Checks",
    "Chosen",
    "Component",
    "DataOptions",
    "Electrostatics",
    "Export",
    "Head",
    "LossTerm",
    "Recipe",
    "Stage",
    "Training",
]


@attrs.frozen
class Checks:
    """Limits and opt-outs of the data checks (table ``data.checks``)."""

    allow_low_density: bool = option(
        "Accept periodic frames with more than max_volume_per_atom. A molecule in a big periodic box "
        "sees its images and costs many k-vectors; mark it pbc F F F instead where you can.",
        default=False,
    )
    max_volume_per_atom: float = option(
        "Largest volume per atom of a periodic frame, in Å³. Frames above it are refused unless "
        "allow_low_density is set.",
        default=100.0,
        validator=above(0.0),
    )
    allow_total_charge_mismatch: bool = option(
        "Accept frames whose formal charges do not add up to their total_charge. The model then keeps "
        "the sum of the formal charges, which is not the labelled charge.",
        default=False,
    )
    allow_missing_formal_charges: bool = option(
        "Accept atoms without a formal charge where the model has formal charges. They count as 0, so the "
        "total charge of such a frame is likely wrong.",
        default=False,
    )
    allow_dipole_without_weight: bool = option(
        "Accept frames with a dipole but without config_dipole_weight. Their components along directions "
        "that are not periodic are then trained on; along periodic ones a dipole is many-valued.",
        default=False,
    )
    allow_duplicates: bool = option(
        "Accept frames that repeat one another within or across splits. A frame in both train and test "
        "makes the reported errors too small.",
        default=False,
    )
    max_energy_per_atom_deviation: float | None = option(
        "Largest distance of an energy per atom from the sum of the atomic energies, in eV. It catches "
        'wrong units and broken calculations; "none" switches it off.',
        default=20.0,
        validator=unless_none(above(0.0)),
    )
    max_force: float | None = option(
        "Largest force component, in eV/Å. It catches wrong units and broken calculations; "
        '"none" switches it off.',
        default=300.0,
        validator=unless_none(above(0.0)),
    )
    min_distance: float = option(
        "Smallest distance between two atoms, in Å. Closer pairs are a broken structure or a wrong cell.",
        default=0.3,
        validator=at_least(0.0),
    )
    drop_nonfinite_labels: bool = option(
        "Count labels with NaN or infinity as absent instead of refusing them. The frame's other labels are "
        "still trained on.",
        default=False,
    )
    drop_short_multipoles: bool = option(
        "Count atomic_multipoles with fewer columns than multipoles_max_l asks for as absent instead of "
        "refusing them. The frame's other labels are still trained on.",
        default=False,
    )
    drop_unsupported_frames: bool = option(
        "Leave out frames whose periodicity or cell the boundary method cannot treat instead of refusing "
        "them. The log says how many were left out.",
        default=False,
    )


@attrs.frozen
class DataOptions:
    """Where the data is and how it is checked (table ``data``)."""

    train: str = option(
        "Training frames: extended XYZ, a folder of shards, or any file ASE reads, also a part of one "
        "(run.traj@100::10). The element list and the statistics of the model come from it.",
        path=True,
    )
    reader: str = option(
        "What reads the frames, see lsf list readers; auto takes the first that recognises a file. Name one "
        "where a file has an unusual name.",
        default="auto",
        registry="readers",
        words=("auto",),
    )
    valid: str | None = option(
        "Validation frames. They choose the best checkpoint; give this or valid_fraction.",
        default=None,
        path=True,
    )
    valid_fraction: float | None = option(
        "Share of the training frames set aside for validation. The frames drawn are no longer trained on.",
        default=None,
        validator=unless_none(between(0.0, 1.0, open_ends=True)),
    )
    valid_seed: int | None = option(
        "Seed of the draw of validation frames; the recipe's seed where not given. Fix it to compare models "
        "of several seeds on the same frames.",
        default=None,
        validator=unless_none(at_least(0)),
    )
    test: str | dict[str, str] | None = option(
        "Test frames: one file, or a table of named files. They are only looked at in the final error "
        "tables.",
        default=None,
        path=True,
    )
    atomic_energies: str | dict[str, float] = option(
        'Energies of the free atoms: "average" (least squares over the training energies), "isolated" '
        "(frames whose config_type is IsolatedAtom), a table {H = -13.6, …} in eV, or a TOML or JSON file "
        "with that table. The model learns the energy relative to their sum.",
        default="average",
        path=True,
        words=("average", "isolated"),
    )
    keep_isolated_atoms: bool = option(
        "Train on the frames whose config_type is IsolatedAtom, too. Without it they are only looked at for "
        'the energies of the free atoms, where atomic_energies is "isolated".',
        default=False,
    )
    config_type_weights: dict[str, float] = option(
        "Weight of all frames of a config_type; the rest weigh 1. A frame of weight 2 counts like two "
        "frames.",
        factory=dict,
        validator=each(at_least(0.0)),
    )
    checks: Checks = option(
        "Limits and opt-outs of the data checks. A broken frame stops the run before training.",
        factory=Checks,
    )


@attrs.frozen
class Head:
    """Which key of the data file holds which property (table ``heads.<name>``)."""

    info_keys: dict[str, str] = option(
        "Property of a whole frame = its key in the file's comment line. Properties that are not mapped "
        "are not read.",
        factory=dict,
    )
    arrays_keys: dict[str, str] = option(
        "Property of every atom = its column in the file. Properties that are not mapped are not read.",
        factory=dict,
    )


@attrs.frozen
class LossTerm:
    """One term of a stage's loss: its weight and the options of the registry entry of that name."""

    weight: float = option(
        "Factor of this term in the loss. A larger one fits this property better at the cost of the others.",
        validator=at_least(0.0),
    )
    options: Any = None


PARAMETER_GROUPS: Final = (
    "embedding",
    "interactions_decay",
    "interactions_no_decay",
    "products",
    "readouts",
    "source_maps",
    "polarizability_readouts",
)
"""Groups of a model's weights that may have a learning rate of their own."""


@attrs.frozen
class Stage:
    """One leg of the training, with its own losses and learning rate (``[[stages]]``)."""

    name: str = option("Name of the stage. It is part of file names.", validator=file_name())
    epochs: int = option(
        "Number of passes over the training frames. More take longer and fit closer.", validator=at_least(1)
    )
    lr: float = option(
        "Learning rate of the optimizer. Too large diverges, too small is slow.", validator=above(0.0)
    )
    loss: dict[str, LossTerm] = option(
        "Loss terms by name, each a weight or a table {weight = …, option = …}. Only the properties named "
        "here are trained on.",
        validator=not_empty(),
        registry="losses",
    )
    lr_groups: dict[str, float] = option(
        "Learning rate of a group of weights where it differs from lr. A small one for the readouts of "
        "charges keeps them from following every batch.",
        factory=dict,
        validator=[each(above(0.0)), keys_among(*PARAMETER_GROUPS)],
    )


def error_columns() -> Rule:
    """Return the rule that the words of a list name columns of an error table."""
    return Rule(
        "or columns by name",
        lambda value: isinstance(value, str) or all(word in column_names() for word in value),
        column_names(),
    )


@attrs.frozen
class Training:
    """Settings shared by all stages (table ``training``)."""

    batch_size: int = option(
        "Frames per optimizer step. Larger is faster per epoch and takes more memory.",
        default=8,
        validator=at_least(1),
    )
    valid_batch_size: int | None = option(
        "Frames per evaluation batch; batch_size where not given. It changes speed and memory only.",
        default=None,
        validator=unless_none(at_least(1)),
    )
    eval_interval: int = option(
        "Evaluate every so many epochs. The best checkpoint is chosen among the evaluated ones.",
        default=1,
        validator=at_least(1),
    )
    ema_decay: float | None = option(
        "Decay of the moving average of the weights, which is what is evaluated and saved. Closer to 1 "
        'averages over more steps; "none" switches it off.',
        default=0.99,
        validator=unless_none(between(0.0, 1.0, open_ends=True)),
    )
    clip_grad: float | None = option(
        "Largest norm of the gradient; longer ones are scaled down. It tames rare bad batches; "
        '"none" switches it off.',
        default=10.0,
        validator=unless_none(above(0.0)),
    )
    error_table: str | tuple[str, ...] = option(
        'Columns of the final error tables: "auto" for every property that has labels, or a list such as '
        '["energy_per_atom", "forces:mae"]. It changes what is printed, not what is trained.',
        default="auto",
        registry="metrics",
        validator=[not_empty(), error_columns()],
    )
    patience: int | None = option(
        "Number of evaluations without a better validation loss after which a stage ends before its last "
        'epoch. "none" runs all epochs.',
        default=None,
        validator=unless_none(at_least(1)),
    )
    scheduler: Component = component(
        "How the learning rate changes within a stage; every stage begins anew. constant keeps it.",
        kind="schedulers",
        default="constant",
    )
    compile: bool = option(
        "Whether what training steps compute on edges is compiled, which takes a minute or two at the start "
        "of a run and a C++ compiler. What it gives is compared with the native kernels in the first step.",
        default=False,
    )
    optimizer: Component = component(
        "The optimizer and its options; the learning rate stands in the stages. adam suits most runs.",
        kind="optimizers",
        default="adam",
    )


def exporter_name() -> Rule:
    """Return the rule that a word names an exporter."""
    return Rule(
        "the name of an exporter (lsf list exporters)", lambda value: value in catalog().names("exporters")
    )


@attrs.frozen
class Export:
    """Which files the finished model is written to (table ``export``)."""

    formats: tuple[str, ...] = option(
        "File formats of the finished model, see lsf list exporters. safetensors is what lsf itself loads; "
        "the others are made from it and verified.",
        default=("safetensors",),
        validator=[not_empty(), each(exporter_name())],
    )


@attrs.frozen
class Recipe:
    """Everything a run depends on."""

    schema: Literal[1] = option("Version of the recipe format. This lsf reads version 1.")
    name: str = option(
        "Name of the run. The run folder and the model file are named after it.",
        validator=file_name(),
    )
    data: DataOptions = option("Where the data is and how it is checked. Paths start at the recipe's folder.")
    heads: dict[str, Head] = option(
        "Key mappings by name; the first is used for frames that name no head. A property must be mapped "
        "in a head to be trained on.",
        validator=not_empty(),
    )
    model: Component = component(
        "The model and its options. See lsf list models.",
        kind="models",
    )
    stages: tuple[Stage, ...] = option(
        "Legs of the training, one after the other. Each starts from the weights the one before left.",
        validator=not_empty(),
    )
    seed: int = option(
        "Seed of every random number: weights, splits, order of the frames. Another one gives another, "
        "equally good model.",
        default=0,
        validator=at_least(0),
    )
    dtype: Literal["float64", "float32"] = option(
        "Precision of the parameters and the short-range part. float32 is faster and takes half the "
        "memory; electrostatics stays in float64.",
        default="float64",
    )
    device: str = option(
        'Where to compute: "cpu", "cuda", "cuda:1", or "auto", a GPU where there is one. Results agree '
        "to rounding.",
        default="auto",
        validator=device_name(),
    )
    electrostatics: Electrostatics = option(
        "How the Coulomb energy is computed. See lsf list boundaries.", factory=Electrostatics
    )
    training: Training = option(
        "Settings shared by all stages. A stage cannot change them.", factory=Training
    )
    trackers: dict[str, Chosen] = option(
        "Where metrics are sent besides the run folder, by name; an empty table [trackers.tensorboard] "
        "switches one on with its defaults. They change nothing in the training.",
        factory=dict,
        registry="trackers",
    )
    export: Export = option(
        "Files the finished model is written to. All hold the same model.", factory=Export
    )


TABLES: Final[dict[str, type]] = {
    "recipe": Recipe,
    "data": DataOptions,
    "data.checks": Checks,
    "heads": Head,
    "electrostatics": Electrostatics,
    "training": Training,
    "stages": Stage,
    "export": Export,
}
"""The tables of a recipe by key; ``recipe`` is the top level, ``[model]`` depends on the model chosen."""
