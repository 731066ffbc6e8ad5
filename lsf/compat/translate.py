"""From an old command line to a recipe: what it becomes, what has no effect, what is refused."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from lsf.compat.arguments import Assignment, Flags, read_flags
from lsf.compat.rules import RULES, left_to_foundation
from lsf.compat.table import Row, flag_rows, names_of
from lsf.errors import Problem, RecipeError, did_you_mean
from lsf.recipe.catalog import catalog
from lsf.recipe.read import apply_overrides, read_recipe_text
from lsf.recipe.toml import Positions, write_toml

ORDER: Final = (
    "schema",
    "name",
    "seed",
    "dtype",
    "device",
    "data",
    "heads",
    "model",
    "electrostatics",
    "training",
    "trackers",
    "stages",
)
"""Order of the recipe's keys in the text."""

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")


@attrs.frozen
class Translation:
    """A recipe made from an old command line.

    ``sources`` says which flag a recipe key comes from; ``notes`` are the lines about flags without effect.
    """

    flags: Flags
    table: dict[str, Any]
    sources: dict[str, str]

    @property
    def name(self) -> str:
        """Return the name of the run."""
        return str(self.flags["name"])

    @property
    def tag(self) -> str:
        """Return the name that files of the run begin with."""
        return f"{self.name}_run-{self.flags['seed']}"

    @property
    def notes(self) -> list[str]:
        """Return what was remarked, one line each."""
        return self.flags.notes

    def text(self) -> str:
        """Return the recipe as TOML, the remarks in front as comments."""
        comments = ["Translated from a command line of the older trainer.", *self.notes]
        header = "".join(f"# {' '.join(line.split())}\n" for line in comments)
        return f"{header}\n{write_toml(self.table)}"

    def explained(self, error: RecipeError) -> RecipeError:
        """Return an error about the recipe with the flags that its keys come from."""
        problems = [attrs.evolve(item, where=self._place(item)) for item in error.problems]
        return RecipeError("the command line cannot be used", problems)

    def _place(self, problem: Problem) -> str:
        known = [key for key in self.sources if problem.key == key or problem.key.startswith(f"{key}.")]
        return self.sources[max(known, key=len)] if known else problem.where


def translate(arguments: Sequence[str]) -> Translation:
    """Return the recipe an old command line, with the YAML config it names, asks for.

    Raises :class:`lsf.errors.RecipeError` with everything that is refused, unknown or unreadable.
    """
    flags = read_flags(arguments)
    assignments: list[Assignment] = []
    for rule in dict.fromkeys(row.rule for row in flag_rows().values() if row.rule):
        if any(row.applies_to(flags["model"]) for row in flag_rows().values() if row.rule == rule):
            assignments += RULES[rule](flags)
    assignments += _plain_assignments(flags)
    kept = [item for item in assignments if _exists(item, flags) and not left_to_foundation(item, flags)]
    _remarks(flags)
    _check_script_flags(flags)
    table, sources = _table(kept, flags)
    translation = Translation(flags, table, sources)
    flags.problems += apply_overrides(table, flags["set"] or [], Positions("--set", {}))
    known = len(flags.problems)
    problems = [*flags.problems, *_schema_problems(translation, only_given=known > 0)]
    if problems:
        raise RecipeError("the command line cannot be used", problems)
    return translation


def _schema_problems(translation: Translation, *, only_given: bool) -> list[Problem]:
    """Return what the recipe does not allow; with ``only_given``, of the values that are there only."""
    try:
        read_recipe_text(translation.text(), "translated recipe", translation.flags["work_dir"])
    except RecipeError as error:
        found = translation.explained(error).problems
        return [item for item in found if not only_given or item.key in translation.sources]
    return []


def _plain_assignments(flags: Flags) -> list[Assignment]:
    """Return what rows without a rule say, defaults of the older trainer included."""
    found = []
    for row in flag_rows().values():
        if row.kind != "mapped" or row.rule or not row.applies_to(flags["model"]):
            continue
        value = flags[row.name]
        if value is None:
            continue
        if row.values and isinstance(value, str) and value not in row.values:
            flags.refuse(row.name, repr(value), "one of the known words", did_you_mean(value, row.values))
            continue
        tables = {*names_of("error_tables"), *catalog().names("metrics")}
        if row.name == "error_table" and value not in tables:
            hint = did_you_mean(value, names_of("error_tables"))
            flags.refuse(row.name, repr(value), "the name of an error table", hint)
            continue
        found.append(Assignment(row.name, row.key, _plain(row, value)))
    return found


def _plain(row: Row, value: Any) -> Any:
    if row.name == "error_table":
        name = names_of("error_tables").get(value)
        return name.becomes if name is not None else value
    return "none" if value == "None" else row.new_value(value)


def _exists(item: Assignment, flags: Flags) -> bool:
    """Tell whether the recipe has the key; asking for what it does not have yet is a problem."""
    row = flag_rows()[item.flag]
    pending = row.pending
    if row.name == "error_table":
        name = names_of("error_tables").get(flags["error_table"])
        pending = name.pending if name is not None else ""
    if not pending:
        return True
    if flags.has(row.name) and flags[row.name] != row.default:
        flags.refuse(row.name, str(flags[row.name]), "to be left out for now", pending)
    return False


def _remarks(flags: Flags) -> None:
    """Say of every flag given whether it is without effect, and refuse those that are not supported."""
    for name, given in list(flags.given.items()):
        row = flag_rows()[name]
        if row.kind == "ignored":
            flags.note(name, f"no effect: {row.why}")
        elif row.kind == "refused":
            if given.value != row.default:
                flags.refuse(name, str(given.value), f"to be left out: {row.why}", f"instead: {row.instead}")
            else:
                flags.note(name, "no effect: it is the default")
        elif not row.applies_to(flags["model"]):
            flags.note(name, f"no effect with --model {flags['model']}")


def _check_script_flags(flags: Flags) -> None:
    level = str(flags["log_level"]).upper()
    if level not in LEVELS:
        flags.refuse("log_level", repr(flags["log_level"]), ", ".join(LEVELS), did_you_mean(level, LEVELS))
    if flags["launcher"] not in ("torchrun", "none"):
        hint = "let srun or mpirun start torchrun on every node"
        flags.refuse("launcher", repr(flags["launcher"]), "torchrun or none", hint)
    pending = flag_rows()["distributed"].pending
    if flags["distributed"] and pending:
        flags.refuse("distributed", "True", "to be left out for now", pending)
    elif flags["distributed"] and "WORLD_SIZE" not in os.environ:
        hint = "torchrun --nproc-per-node=2 -m lsf compat train … starts two processes on this machine"
        flags.refuse("distributed", "one process without torchrun", "a start by torchrun", hint)


def _table(assignments: Sequence[Assignment], flags: Flags) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the recipe as nested tables, and the place and flag of every key."""
    table: dict[str, Any] = {"schema": 1}
    sources = {}
    for flag, key, value in assignments:
        holder = table
        *parents, last = key.split(".")
        for part in parents:
            holder = holder.setdefault(part, {})
        holder[last] = value
        where = flags.given[flag].where if flags.has(flag) else "default of the older trainer"
        sources[key] = f"{where}: {flags.label(flag)}"
    return {key: table[key] for key in ORDER if key in table}, sources


def work_folder(translation: Translation) -> Path:
    """Return the folder everything is written to."""
    return Path(translation.flags["work_dir"])


def folder_of(translation: Translation, flag: str, name: str) -> Path:
    """Return the folder a flag names, or the folder ``name`` in the working folder."""
    given: Mapping[str, Any] = translation.flags.given
    return Path(translation.flags[flag]) if flag in given else work_folder(translation) / name
