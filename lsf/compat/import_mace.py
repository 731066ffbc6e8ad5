"""``lsf import-mace``: a model file of lsf from the weights of a mace-torch model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from ase.data import chemical_symbols
from rich.console import Console

from lsf.commands.terminal import print_line
from lsf.compat.mace_settings import BASES, CLASSES, STYLES, TRANSFORMS, MaceFile, read_mace
from lsf.compat.mace_weights import convert, needs_complete_products
from lsf.data.statistics import DataFacts
from lsf.errors import ModelFileError
from lsf.formats.model_file.file import save_model
from lsf.models.build import DTYPES, build_model
from lsf.models.irreps import Irreps, parse_irreps
from lsf.models.local_source import LocalSourceModel
from lsf.recipe.catalog import catalog
from lsf.recipe.schema import Component, DataOptions, Head, LossTerm, Recipe, Stage


@attrs.frozen(eq=False)
class Imported:
    """A converted model with the recipe and the facts a model file holds."""

    model: LocalSourceModel
    recipe: Recipe
    facts: DataFacts


def import_file(
    weights: Path, out: Path, head: str | None, dtype: Literal["float64", "float32"], console: Console
) -> None:
    """Make a model file of lsf from a file of tools/export_mace_weights.py and say what it holds."""
    file = read_mace(weights, head)
    imported = import_mace(file, out.stem, dtype)
    path = save_model(imported.model, out, imported.recipe, imported.facts, training_of(file))
    elements = [chemical_symbols[number] for number in imported.facts.species]
    lines = [f"wrote {path}: {imported.recipe.model.use} for {', '.join(elements)}"]
    if file.facts["dtype"] == "float32":
        lines.append(
            "the weights were stored in float32: energies agree with mace-torch's to rounding in float32"
        )
    print_line(console, "\n".join(lines))


def training_of(file: MaceFile) -> dict[str, Any]:
    """Return where the model came from, for the header of a model file."""
    facts = file.facts
    return {
        "imported_from": f"mace-torch {facts['mace_version']}",
        "class": facts["class"],
        "head": facts["heads"][file.head],
        "dtype": facts["dtype"],
    }


def import_mace(file: MaceFile, name: str, dtype: Literal["float64", "float32"] = "float64") -> Imported:
    """Return the model of lsf with the same energies and forces as the mace-torch model of a file.

    Raises :class:`lsf.errors.LsfError` when that cannot be had exactly.
    """
    use = CLASSES[file.facts["class"]]
    options = catalog().options_class("models", use)(**_options(file))
    facts = _facts(file)
    recipe = Recipe(
        schema=1,
        name=_file_name(name),
        # The training data of the model is not known; the recipe says where its weights came from.
        data=DataOptions(train=str(file.path.resolve()), valid_fraction=0.1),
        heads={"default": Head({"energy": "REF_energy"}, {"forces": "REF_forces"})},
        model=Component(use, options),
        stages=(Stage("imported", epochs=1, lr=1e-3, loss=_loss()),),
        dtype="float64",
    )
    model = build_model(recipe, facts)
    model.load_state_dict(convert(file, options), strict=True)
    if not all(bool(torch.isfinite(value).all()) for value in model.parameters()):
        raise ModelFileError(f"{file.path}: found weights that are not finite; expected a model that runs")
    recipe = attrs.evolve(recipe, dtype=dtype)
    return Imported(model.set_dtype(DTYPES[dtype]).eval(), recipe, facts)


def _loss() -> dict[str, LossTerm]:
    options = {name: catalog().options_class("losses", name)() for name in ("energy_per_atom", "forces")}
    return {name: LossTerm(1.0, item) for name, item in options.items()}


def _file_name(name: str) -> str:
    cleaned = "".join(c if c.isalnum() or c in "_-." else "_" for c in name)
    return cleaned if cleaned[:1].isalnum() else f"m{cleaned}"


def _options(file: MaceFile) -> dict[str, Any]:
    """Return the options of the lsf model; every one a setting of the mace-torch model decides."""
    facts = file.facts
    layers, products = facts["interactions"], facts["products"]
    hidden = parse_irreps(products[0]["outputs"])
    last = parse_irreps(products[-1]["outputs"])
    orders = [product["correlation"] for product in products]
    widths = layers[0]["radial"]["widths"]
    readout = facts["readouts"][-1]
    nonlinear = readout["class"] == "NonLinearReadoutBlock"
    width = parse_irreps(readout["hidden"]).channels // len(facts["heads"]) if nonlinear else 16
    scaled = facts["class"] == "ScaleShiftMACE"
    return {
        "r_max": float(file.weight("r_max")),
        "hidden_irreps": str(hidden),
        "num_interactions": len(layers),
        "correlation": orders[0] if len(set(orders)) == 1 else tuple(orders),
        "product_basis": "complete" if needs_complete_products(file) else "natural",
        "interaction": STYLES[layers[-1]["class"]],
        "interaction_first": STYLES[layers[0]["class"]],
        "last_layer": "all" if last == hidden else "scalars",
        "max_ell": facts["max_ell"],
        "num_radial": widths[0],
        "radial_basis": BASES[facts["radial_type"]],
        "distance_transform": TRANSFORMS[facts["distance_transform"]],
        "pair_repulsion": facts["pair_repulsion"],
        "cutoff_p": int(facts["cutoff_p"]),
        "radial_mlp": tuple(widths[1:-1]),
        "mlp_irreps": str(Irreps(width, (0,))),
        "final_readout": "nonlinear" if nonlinear else "linear",
        "gate": readout["gate"]["name"] if nonlinear else "silu",
        "avg_num_neighbors": float(layers[0]["avg_num_neighbors"]),
        "scale": file.of_head("scale_shift.scale") if scaled else None,
        "shift": file.of_head("scale_shift.shift") if scaled else None,
    }


def _facts(file: MaceFile) -> DataFacts:
    energies = torch.atleast_2d(file.weight("atomic_energies_fn.atomic_energies"))
    row = energies[file.head if energies.shape[0] > 1 else 0].tolist()
    table = dict(sorted(zip(file.numbers, row, strict=True)))
    return DataFacts(
        species=tuple(table),
        atomic_energies=table,
        avg_num_neighbors=float(file.facts["interactions"][0]["avg_num_neighbors"]),
        n_frames={},
        provenance={"imported": {"file": file.path.name, **training_of(file)}},
    )
