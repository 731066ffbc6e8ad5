"""What a recipe's settings mean together and on this machine: files, mappings, devices.

:func:`resolve` reports these problems and those of the schema in one go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import attrs
from ase.data import chemical_symbols

from lsf.errors import Problem, RecipeError, nearest
from lsf.machine.device import device_problem, pick_device
from lsf.recipe.catalog import Catalog, catalog
from lsf.recipe.convert import FileName
from lsf.recipe.data_files import DataFile, reader_for
from lsf.recipe.from_model_file import ReadStart, fill_from_model_file, no_reader, start_problems
from lsf.recipe.quantities import PROPERTIES
from lsf.recipe.read import draft_recipe, in_order
from lsf.recipe.schema import Recipe
from lsf.recipe.toml import KeyPath, Positions, dotted


@runtime_checkable
class ChecksRecipe(Protocol):
    """Options that have a say about the rest of the recipe."""

    def problems(self, recipe: Recipe, where: str) -> list[Problem]:
        """Return what does not fit; ``key`` is the dotted path in the recipe."""


@runtime_checkable
class HasFormalCharges(Protocol):
    """Options of models that may be built on formal charges."""

    def formal_charge_rule(self) -> dict[str, float] | str | None:
        """Return a table by element, "from_data", or None for a model without formal charges."""


@runtime_checkable
class HasKernels(Protocol):
    """Options of models whose message passing has several executors."""

    kernels: str


@runtime_checkable
class MayHavePolarizability(Protocol):
    """Options of models that may read a polarizability."""

    polarizability: bool


def resolve(
    path: str | Path,
    overrides: Sequence[str] = (),
    components: Catalog | None = None,
    read_start: ReadStart = no_reader,
) -> Recipe:
    """Return the recipe in a TOML file, ready to run.

    ``read_start`` reads the model file that ``model.start_from`` names
    (:func:`lsf.formats.model_file.start.read_start`). Raises RecipeError with all problems of the schema, of
    settings that do not fit together, of files that do not exist and of a device that is not there.
    """

    def complete(table: dict[str, Any], folder: Path) -> None:
        fill_from_model_file(table, folder, read_start)

    draft = draft_recipe(path, overrides, components, complete)
    missing = _missing_files(draft.files, components)
    found = [*draft.problems, *(_placed(item, draft.positions) for item in missing)]
    if draft.recipe is not None:
        suspect = tuple(problem.key for problem in draft.problems)
        found += recipe_problems(draft.recipe, draft.positions, components, suspect)
        if not any(_touches(key, "model") for key in suspect):
            starts = start_problems(draft.recipe.model.options, read_start)
            found += [_placed(problem, draft.positions) for problem in starts]
    if found or draft.recipe is None:
        raise RecipeError(f"{draft.positions.source} cannot be used", in_order(found))
    return draft.recipe


def recipe_problems(
    recipe: Recipe,
    positions: Positions | None = None,
    components: Catalog | None = None,
    suspect: Sequence[str] = (),
) -> list[Problem]:
    """Return what is wrong with settings that are right one by one.

    ``positions`` places the problems in the recipe's file. Rules about keys that are already known to be
    wrong (``suspect``) are left out: what they would say follows from that.
    """
    positions = positions or Positions("recipe", {})
    components = components or catalog()
    found: list[Problem] = []
    for sections, rule in _RULES:
        if not any(_touches(key, section) for key in suspect for section in sections):
            found += [_placed(problem, positions) for problem in rule(recipe, components)]
    return found


def _touches(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def _placed(problem: Problem, positions: Positions) -> Problem:
    path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in problem.key.split("."))
    return attrs.evolve(problem, where=positions.where(path))


def _problem(path: KeyPath, found: str, expected: str, hint: str = "") -> Problem:
    return Problem("", dotted(path), found, expected, hint)


# ---------------------------------------------------------------------------------------------------
# rules


def _validation_split(recipe: Recipe, _components: Catalog) -> list[Problem]:
    given = [name for name in ("valid", "valid_fraction") if getattr(recipe.data, name) is not None]
    if len(given) == 1:
        return []
    found = "both valid and valid_fraction" if given else "neither valid nor valid_fraction"
    hint = 'remove one, or set it to "none"' if given else "for example valid_fraction = 0.1"
    return [_problem(("data", "valid"), found, "one of the two", hint)]


def _missing_files(files: Sequence[FileName], components: Catalog | None) -> list[Problem]:
    found = []
    for name in files:
        data = DataFile.of(name.file)
        file = Path(name.file) if data.selection is None else data.path
        if file.is_file() or reader_for(data, components=components) is not None:
            continue
        text = (
            f"{file}, which is a folder that no reader of frames recognises"
            if file.is_dir()
            else f"{file}, which does not exist"
        )
        expected = " or ".join(["a file", *(f'"{word}"' for word in name.words)])
        found.append(_problem(name.key, text, expected, _file_hint(file, name.words)))
    return found


def _file_hint(file: Path, words: Sequence[str]) -> str:
    folder = file.parent
    if not folder.is_dir():
        return f"there is no folder {folder}; paths start at the recipe's folder"
    names = [name.name for name in folder.iterdir() if name.is_file()]
    word = nearest(file.name, words)
    if word is not None:
        return f'did you mean "{word}"?'
    near = nearest(file.name, names)
    return (
        f"did you mean {str(folder / near)!r}?"
        if near
        else f"paths start at the recipe's folder, here {folder}"
    )


def _elements(recipe: Recipe, _components: Catalog) -> list[Problem]:
    energies = recipe.data.atomic_energies
    tables = [(("data", "atomic_energies"), energies if isinstance(energies, dict) else {})]
    charges = _charges_option(recipe)
    tables.append((("model", "formal_charges"), charges if isinstance(charges, dict) else {}))
    symbols = chemical_symbols[1:]
    return [
        _problem((*path, name), f'"{name}"', "a chemical symbol", _symbol_hint(name, symbols))
        for path, table in tables
        for name in table
        if name not in symbols
    ]


def _symbol_hint(name: str, symbols: Sequence[str]) -> str:
    near = nearest(name, symbols)
    return f"did you mean {near!r}?" if near else "for example H, O, Na"


def _stage_names(recipe: Recipe, _components: Catalog) -> list[Problem]:
    counts = Counter(stage.name for stage in recipe.stages)
    seen: set[str] = set()
    found = []
    for index, stage in enumerate(recipe.stages):
        if stage.name in seen:
            text = f'"{stage.name}" for {counts[stage.name]} stages'
            found.append(_problem(("stages", index, "name"), text, "a name of its own for each stage"))
        seen.add(stage.name)
    return found


def _charges_option(recipe: Recipe) -> dict[str, float] | str | None:
    options = recipe.model.options
    return options.formal_charge_rule() if isinstance(options, HasFormalCharges) else None


def _mapped(recipe: Recipe) -> set[str]:
    heads = recipe.heads.values()
    return {name for head in heads for name in (*head.info_keys, *head.arrays_keys)}


def _loss_labels(recipe: Recipe, components: Catalog) -> list[Problem]:
    """A loss can only be computed where a head maps the label it is about."""
    mapped, found = _mapped(recipe), []
    for index, stage in enumerate(recipe.stages):
        for name in stage.loss:
            for requirement in components.entry("losses", name).requires:
                label, *others = requirement.split(" or ")
                if label in PROPERTIES and mapped.isdisjoint({label, *others}):
                    path = ("stages", index, "loss", name)
                    hint = f"add it, or remove the loss; mapped are: {', '.join(sorted(mapped)) or 'none'}"
                    quoted = " or ".join(f'"{name}"' for name in (label, *others))
                    found.append(_problem(path, f"no head that maps {quoted}", _mapping_text(label), hint))
    return found


def _mapping_text(label: str) -> str:
    table = "info_keys" if PROPERTIES[label].level == "frame" else "arrays_keys"
    return f'{label} = "its key in the file" in heads.<name>.{table}'


def _formal_charges(recipe: Recipe, _components: Catalog) -> list[Problem]:
    """Charges read from the frames need their key."""
    if _charges_option(recipe) != "from_data" or "charges" in _mapped(recipe):
        return []
    path = ("model", "formal_charges")
    return [_problem(path, '"from_data" and no head that maps "charges"', _mapping_text("charges"))]


def _model(recipe: Recipe, _components: Catalog) -> list[Problem]:
    options = recipe.model.options
    return options.problems(recipe, "") if isinstance(options, ChecksRecipe) else []


def _polarizability(recipe: Recipe, _components: Catalog) -> list[Problem]:
    """A polarizability is trained where the model has one."""
    options = recipe.model.options
    if isinstance(options, MayHavePolarizability) and options.polarizability:
        return []
    expected = "a model with one: LocalSplitCharges with model.polarizability = true"
    return [
        _problem(
            ("stages", index, "loss", "polarizability"),
            f"a model without polarizability, {recipe.model.use}",
            expected,
            "or remove the loss",
        )
        for index, stage in enumerate(recipe.stages)
        if "polarizability" in stage.loss
    ]


def _device(recipe: Recipe, _components: Catalog) -> list[Problem]:
    problem = device_problem(recipe.device)
    return [problem] if problem is not None else []


def _kernels(recipe: Recipe, components: Catalog) -> list[Problem]:
    """Kernels that need something have it: a package, a kind of device."""
    options = recipe.model.options
    if not isinstance(options, HasKernels) or options.kernels not in components.names("kernels"):
        return []
    if not components.entry("kernels", options.kernels).requires or device_problem(recipe.device):
        return []
    import torch

    device = torch.device(pick_device(recipe.device))
    missing = {
        name: components.entry("kernels", name).target().missing(device)
        for name in components.names("kernels")
    }
    if missing[options.kernels] is None:
        return []
    runnable = ", ".join(name for name, what in missing.items() if what is None)
    expected = f"one of those that run on {device.type!r}: {runnable}"
    return [_problem(("model", "kernels"), f'"{options.kernels}", but {missing[options.kernels]}', expected)]


Rule = Callable[[Recipe, Catalog], list[Problem]]

_RULES: Final[tuple[tuple[tuple[str, ...], Rule], ...]] = (
    (("data.valid", "data.valid_fraction"), _validation_split),
    (("model.formal_charges", "data.atomic_energies"), _elements),
    (("stages",), _stage_names),
    (("stages", "heads"), _loss_labels),
    (("model", "heads"), _formal_charges),
    (("model", "electrostatics"), _model),
    (("model", "stages"), _polarizability),
    (("device",), _device),
    (("model", "device"), _kernels),
)
"""Each rule with the keys it reads."""
