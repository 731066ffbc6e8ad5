"""The older trainer's command line: translated to a recipe, then run like any recipe."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
from rich.console import Console

from lsf.compat.table import flag_rows
from lsf.compat.translate import Translation, folder_of, translate, work_folder
from lsf.errors import DataError, LsfError, Problem, RecipeError
from lsf.machine.files import replacing
from lsf.recipe.read import read_recipe_text

USAGE = """usage: lsf compat train --name NAME --config CONFIG.yaml --train_file FILE [flags of mace-scf]

Translates the command line to a recipe, saves and prints it, and runs it as `lsf run` does.
New: --print-recipe stops after printing; --set KEY=VALUE replaces values of the recipe.
"""


def run(arguments: Sequence[str], console: Console) -> None:
    """Translate the command line, save and print the recipe, and train."""
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(f"{USAGE}\n{_flag_list()}\n")
        return
    translation = translate(arguments)
    if not translation.flags["print_recipe"]:
        _refuse_other_settings(translation)
    path = save_recipe(translation)
    if _is_first_process():
        for line in translation.notes:
            sys.stderr.write(f"{line}\n")
        sys.stdout.write(translation.text())
        sys.stderr.write(f"the recipe is saved in {path}; lsf run {path} trains the same model\n")
        sys.stdout.flush()
    if not translation.flags["print_recipe"]:
        run_translated(translation, path, console)


def _flag_list() -> str:
    lines = []
    for row in flag_rows().values():
        fate = {"mapped": row.key, "script": row.means, "ignored": "no effect", "refused": "refused"}[
            row.kind
        ]
        lines.append(f"  --{row.name:42} {fate}")
    return "\n".join(lines)


def _is_first_process() -> bool:
    """Tell whether this is the process that writes, of those torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


def save_recipe(translation: Translation) -> Path:
    """Write the translated recipe beside the run and return where."""
    path = work_folder(translation) / f"{translation.tag}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(translation.text(), encoding="utf-8")
    return path


def run_folder(translation: Translation) -> Path:
    """Return the folder everything `lsf run` leaves is in."""
    return work_folder(translation) / "runs" / translation.tag


def _refuse_other_settings(translation: Translation) -> None:
    """Refuse to go on with a run of other settings, before its recipe is overwritten."""
    from lsf.commands.train import other_settings

    folder = run_folder(translation)
    if not translation.flags["restart_latest"] or not folder.is_dir():
        return
    recipe = read_recipe_text(translation.text(), "translated recipe", work_folder(translation))
    found = other_settings(folder, recipe)
    if found:
        listed = "".join(f"\n  - {item}" for item in found)
        raise LsfError(
            f"{folder} holds a run of the same name and seed with other settings: give another --name, "
            f"--seed or --work_dir, or start anew with --no-restart_latest, overwriting it{listed}"
        )


def run_translated(translation: Translation, path: Path, console: Console) -> None:
    """Train as the saved recipe says, with files and log lines where and as they used to be."""
    from lsf.commands.train import resolved_recipe, run_recipe
    from lsf.compat.outputs import OldOutputs, log_handlers

    try:
        recipe = resolved_recipe(path)
    except RecipeError as error:
        raise _with_cpu_hint(translation.explained(error)) from None
    folder = run_folder(translation)
    fresh = not translation.flags["restart_latest"]
    if not _is_first_process():
        run_recipe(path, (), folder, fresh, console)
        return
    level = str(translation.flags["log_level"]).upper()
    handlers = log_handlers(folder_of(translation, "log_dir", "logs"), translation.tag, level)
    log = logging.Logger("lsf.compat", logging.DEBUG)
    for handler in handlers:
        log.addHandler(handler)
    outputs = OldOutputs(
        translation.name,
        translation.tag,
        folder,
        folder_of(translation, "results_dir", "results"),
        folder_of(translation, "model_dir", "."),
        folder_of(translation, "checkpoints_dir", "checkpoints"),
        log,
    )
    for line in translation.notes:
        log.info("%s", line)
    try:
        result = run_recipe(path, (), folder, fresh, console, [outputs], handlers)
    except DataError as error:
        raise DataError(f"{error.title}; --set KEY=VALUE sets keys of the recipe", error.problems) from None
    finally:
        outputs.publish()
    # the run has closed the handlers; a file handler opens its file again for the table
    outputs.table(recipe.training.error_table, result.training.metrics, next(iter(recipe.heads)))
    for handler in handlers:
        handler.close()


def _with_cpu_hint(error: RecipeError) -> RecipeError:
    """Say how to run on the CPU in the words of this command line."""
    problems: list[Problem] = [
        attrs.evolve(item, expected="a device that is there", hint="to run on the CPU: --device cpu")
        if item.key == "device"
        else item
        for item in error.problems
    ]
    return RecipeError(error.title, problems)
