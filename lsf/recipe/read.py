"""Reading and writing recipes: TOML text, ``--set`` overrides, all schema problems at once.

What needs the world outside the file (do the data files exist, is there a GPU) or several settings
together is checked in :mod:`lsf.recipe.rules`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from lsf.errors import Problem, RecipeError, did_you_mean, nearest
from lsf.options import Chosen, Component
from lsf.recipe.catalog import Catalog, catalog
from lsf.recipe.convert import INVALID, FileName, Structurer
from lsf.recipe.old_names import replace_old_names
from lsf.recipe.quantities import array_properties, info_properties
from lsf.recipe.schema import Head, LossTerm, Recipe
from lsf.recipe.toml import KeyPath, Positions, dotted, parse_toml, write_toml
from lsf.recipe.type_names import NONE_WORD, Field, found_text

Complete = Callable[[dict[str, Any], Path], None]
"""Adds to the tables of a recipe what follows from files they name."""


@attrs.frozen
class Draft:
    """A recipe as far as it could be read, with everything wrong so far and the place of every key.

    ``recipe`` is None when required parts are missing or refused; ``files`` are those it names.
    """

    recipe: Recipe | None
    problems: tuple[Problem, ...]
    positions: Positions
    files: tuple[FileName, ...]


def read_recipe(path: str | Path, overrides: Sequence[str] = (), components: Catalog | None = None) -> Recipe:
    """Return the recipe in a TOML file, with ``key=value`` overrides applied and defaults filled in.

    Raises RecipeError with every schema problem: file and line, key, found, expected, nearest name.
    """
    return finished(draft_recipe(path, overrides, components))


def read_recipe_text(
    text: str, source: str, folder: str | Path = ".", components: Catalog | None = None
) -> Recipe:
    """Return the recipe in a TOML text; ``source`` names it in errors, ``folder`` anchors its paths."""
    return finished(_draft(text, source, Path(folder), (), components))


def finished(draft: Draft) -> Recipe:
    """Return the draft's recipe, or raise RecipeError with all its problems."""
    if draft.problems or draft.recipe is None:
        raise RecipeError(f"{draft.positions.source} cannot be used", in_order(draft.problems))
    return draft.recipe


def in_order(problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems by line; those without one, of ``--set`` and of missing tables, come last."""

    def line(problem: Problem) -> float:
        number = problem.where.rpartition(":")[2]
        return int(number) if number.isdecimal() else float("inf")

    return sorted(problems, key=line)


def draft_recipe(
    path: str | Path,
    overrides: Sequence[str] = (),
    components: Catalog | None = None,
    complete: Complete | None = None,
) -> Draft:
    """Return the recipe in a TOML file as far as it can be read, with its problems.

    ``complete`` may add to its tables before defaults are filled in; it gets them and the recipe's folder.
    Raises RecipeError when there is no text to read or it is not TOML.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        names = [other.name for other in path.parent.glob("*.toml")]
        near = nearest(path.name, names)
        hint = f"did you mean {str(path.with_name(near))!r}?" if near else ""
        problem = Problem(str(path), "", "no such file", "a recipe (TOML)", hint)
        raise RecipeError("there is no such recipe", [problem]) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8 text"
        problem = Problem(str(path), "", f"{reason}", "a readable text file (TOML)")
        raise RecipeError("the recipe cannot be read", [problem]) from error
    return _draft(text, str(path), path.absolute().parent, overrides, components, complete)


def _draft(
    text: str,
    source: str,
    folder: Path,
    overrides: Sequence[str],
    components: Catalog | None,
    complete: Complete | None = None,
) -> Draft:
    table = parse_toml(text, source)
    positions = Positions.of(text, source)
    problems = apply_overrides(table, overrides, positions)
    replace_old_names(table)
    if complete is not None:
        complete(table, folder)
    structurer = Structurer(
        positions,
        components or catalog(),
        folder.absolute(),
        {LossTerm: _loss_term, Head: _head, Chosen: _chosen},
    )
    recipe = structurer.table(Recipe, table, ())
    found = (*problems, *structurer.problems)
    return Draft(None if recipe is INVALID else recipe, found, positions, tuple(structurer.files))


# ---------------------------------------------------------------------------------------------------
# parts of the recipe with a rule of their own


def _loss_term(structurer: Structurer, value: Any, path: KeyPath, _field: Field | None) -> Any:
    """A number is a weight; a table holds the weight and the options of the loss named by its key."""
    known = len(structurer.problems)
    table = value if isinstance(value, Mapping) else {}
    options = {key: item for key, item in table.items() if key != "weight"}
    built = structurer.options("losses", options, str(path[-1]), path, path)
    if isinstance(value, Mapping):
        weight = {key: item for key, item in table.items() if key == "weight"}
        term = structurer.table(LossTerm, weight, path)
    else:
        term = _plain_weight(structurer, value, path)
    if len(structurer.problems) > known:
        return INVALID
    return attrs.evolve(term, options=built)


def _chosen(structurer: Structurer, value: Any, path: KeyPath, field: Field | None) -> Any:
    """A table holds the options of the component named by its key; an empty one its defaults."""
    kind = field.metadata["registry"] if field is not None else ""
    if not isinstance(value, Mapping):
        return structurer.refuse(
            path, found_text(value), f"a table with the options of {path[-1]}, or an empty one"
        )
    options = structurer.options(kind, value, str(path[-1]), path, path)
    return INVALID if options is INVALID else Chosen(options)


def _plain_weight(structurer: Structurer, value: Any, path: KeyPath) -> Any:
    weight = structurer.value(float, value, path)
    if weight is INVALID:
        return INVALID
    if weight < 0.0:
        return structurer.refuse(path, found_text(value), "a number, at least 0")
    return LossTerm(weight)


def _head(structurer: Structurer, value: Any, path: KeyPath, _field: Field | None) -> Any:
    """Property names are the valid keys of both tables of a head."""
    if not isinstance(value, Mapping):
        return structurer.refuse(path, found_text(value), "a table with info_keys and arrays_keys")
    for part, names, other in (
        ("info_keys", info_properties(), array_properties()),
        ("arrays_keys", array_properties(), info_properties()),
    ):
        mapped = value.get(part, {})
        for name in mapped if isinstance(mapped, Mapping) else ():
            if name in other:
                place = "arrays_keys" if part == "info_keys" else "info_keys"
                whole = "the whole frame" if part == "info_keys" else "every atom"
                expected = f"a property of {whole}"
                structurer.refuse((*path, part, name), f'"{name}"', expected, f"move it to {place}")
            elif name not in names:
                structurer.refuse(
                    (*path, part, name),
                    "an unknown name",
                    "one of the properties lsf knows",
                    did_you_mean(name, names),
                )
    return structurer.table(Head, value, path)


# ---------------------------------------------------------------------------------------------------
# overrides


def apply_overrides(table: dict[str, Any], overrides: Sequence[str], positions: Positions) -> list[Problem]:
    """Apply ``a.b=value`` texts to a parsed document in place and return what is wrong with them.

    A value is read as TOML; what is not TOML is taken as a string, so that words need no quotes. List
    items are addressed by index: ``stages.0.epochs=1``.
    """
    problems = []
    for text in overrides:
        key, equals, value = text.partition("=")
        path = _override_path(key.strip())
        if not equals or path is None:
            problems.append(
                Problem("--set", "", f'"{text}"', "key=value", "for example --set stages.0.epochs=1")
            )
            continue
        problem = _assign(table, path, _override_value(value.strip()))
        if problem is None:
            positions.override(path)
        else:
            problems.append(problem)
    return problems


def _override_path(key: str) -> KeyPath | None:
    """Return the parts of a dotted key, digits as list indices; None when it is not a key."""
    try:
        parsed: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return None
    path: KeyPath = ()
    while isinstance(parsed, dict):
        part, parsed = next(iter(parsed.items()))
        path = (*path, int(part) if part.isdecimal() else part)
    return path


def _override_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(table: dict[str, Any], path: KeyPath, value: Any) -> Problem | None:
    holder: Any = table
    for depth, part in enumerate(path):
        here, last = path[: depth + 1], depth == len(path) - 1
        if isinstance(holder, list):
            if not isinstance(part, int) or part >= len(holder):
                return Problem(
                    "--set", dotted(here), f'"{part}" after a list of {len(holder)}', _index_text(len(holder))
                )
        elif isinstance(holder, dict):
            part = str(part)
        else:
            return Problem("--set", dotted(here), f"{found_text(holder)} before .{part}", "a table or a list")
        if last:
            holder[part] = value
        else:
            holder = holder.setdefault(part, {}) if isinstance(holder, dict) else holder[part]
    return None


def _index_text(length: int) -> str:
    return f"an index from 0 to {length - 1}" if length else "no index: the list is empty"


# ---------------------------------------------------------------------------------------------------
# writing


def resolved_toml(recipe: Recipe) -> str:
    """Return the whole recipe as TOML, all defaults written out; reading it gives an equal recipe."""
    return write_toml(as_table(recipe))


def as_table(value: Any) -> Any:
    """Return options as tables, lists and scalars; None becomes the word "none"."""
    if value is None:
        return NONE_WORD
    if isinstance(value, Component):
        return {"use": value.use, **as_table(value.options)}
    if isinstance(value, Chosen):
        return as_table(value.options)
    if isinstance(value, LossTerm):
        options = {} if value.options is None else as_table(value.options)
        return {"weight": value.weight, **options} if options else value.weight
    if attrs.has(type(value)):
        return {field.name: as_table(getattr(value, field.name)) for field in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {key: as_table(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [as_table(item) for item in value]
    return value
