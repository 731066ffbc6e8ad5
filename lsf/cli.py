"""The command line: ``lsf`` and ``python -m lsf``. Thin: every command calls one function.

Heavy imports stand inside the commands, so that ``lsf --version`` and ``lsf list`` answer at once. Errors and
exit status: :mod:`lsf.commands.terminal`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lsf
from lsf.commands.terminal import exit_status, terminal
from lsf.errors import LsfError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

Command = Callable[[argparse.Namespace, "Console"], None]

ANY_WORD = "\0"
"""A character no argument can begin with: a parser with this as its prefix hands on all words as they are."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    chosen = build_parser().parse_args(arguments)
    command: Command = chosen.command
    return exit_status(lambda: command(chosen, terminal()))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="lsf", description=lsf.__doc__)
    parser.add_argument("--version", action="version", version=f"lsf {lsf.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _add(commands, "run", run_command, "train a model as a recipe says; goes on where it was stopped")
    _add_recipe(run)
    run.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/<recipe name>)")
    run.add_argument("--fresh", action="store_true", help="start anew in a run folder that is in use")

    check = _add(commands, "check", check_command, "validate a recipe, read its data, print a summary")
    _add_recipe(check)

    listing = _add(commands, "list", list_command, "list the components of the registry and the recipes")
    listing.add_argument("kind", nargs="?", metavar="KIND", help="one kind only, for example models")

    describe = _add(commands, "describe", describe_command, "show a component and its options")
    describe.add_argument("kind", metavar="KIND", help="kind of component, or recipe")
    describe.add_argument("name", metavar="NAME", help="name of the component, or table of the recipe")

    _add_eval(_add(commands, "eval", eval_command, "label the frames of a file and print the errors"))

    _add_potential(
        _add(commands, "potential", potential_command, "draw the electrostatic potential of a structure")
    )

    _add_export(_add(commands, "export", export_command, "write a model in the format of another program"))

    show = _add(commands, "show", show_command, "show what a model file holds")
    show.add_argument("model", type=Path, metavar="MODEL", help="model file (.safetensors)")

    _add_shards(_add(commands, "shards", shards_command, "write the data of a recipe as folders of shards"))

    _add_import_mace(
        _add(commands, "import-mace", import_mace_command, "make a model file of a mace-torch model")
    )

    _add_scripts(commands)
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, command: Command, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(command=command)
    return parser


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", metavar="RECIPE", help="recipe file, or the name of one that comes with lsf"
    )
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="replace a value of the recipe, for example stages.0.epochs=1",
    )


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="model file (.safetensors)")
    parser.add_argument("data", type=Path, metavar="DATA", help="frames, a file ASE reads")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the labelled frames here (.xyz)")
    parser.add_argument("--prefix", default="lsf_", help="what the names of the labels begin with")
    for level, example in (("info", "energy=REF_energy"), ("array", "forces=REF_forces")):
        parser.add_argument(
            f"--{level}-key",
            action="append",
            default=[],
            metavar="PROPERTY=KEY",
            dest=f"{level}_keys",
            help=f"reference in DATA, for example {example} (default: as in the model's recipe)",
        )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    parser.add_argument("--batch-size", type=_positive_integer, default=8, help="frames evaluated at a time")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="model file (.safetensors)")
    parser.add_argument("--format", required=True, metavar="NAME", help="format: see lsf list exporters")
    parser.add_argument("--out", type=Path, metavar="FILE", help="new file (default: MODEL, other suffix)")
    parser.add_argument(
        "--dtype", choices=("float64", "float32"), help="precision of the network (default: the model's)"
    )


def _add_potential(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="model file (.safetensors)")
    parser.add_argument("structure", type=Path, metavar="STRUCTURE", help="a file ASE reads")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder (default: <STRUCTURE>_potential)")
    parser.add_argument("--frame", type=int, default=0, metavar="N", help="structure of the file, from 0")
    parser.add_argument(
        "--line",
        action="append",
        default=[],
        metavar="FROM:TO",
        dest="lines",
        help="cut along a line; ends are atoms or x,y,z in Å: 0:3, --line=-5,0,0:5,0,0 (default: three axes)",
    )
    parser.add_argument(
        "--slice",
        action="append",
        default=[],
        metavar="AXIS[=FRACTION]",
        dest="slices",
        help="plane at a fraction of an axis: c, a=0.25 (default: a, b and c in the middle)",
    )
    parser.add_argument(
        "--spacing", type=float, default=0.3, metavar="Å", help="of grid points (default: 0.3)"
    )
    parser.add_argument(
        "--probe-width",
        type=float,
        default=0.0,
        metavar="Å",
        help="average over a Gaussian of this standard deviation (default: 0, a point charge)",
    )
    parser.add_argument(
        "--cube",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write potential.cube and density.cube",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")


def _add_shards(parser: argparse.ArgumentParser) -> None:
    _add_recipe(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets one folder per split")
    parser.add_argument(
        "--frames-per-shard", type=_positive_integer, default=1000, metavar="N", help="default: 1000"
    )


def _add_import_mace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights", type=Path, metavar="WEIGHTS", help="file written by tools/export_mace_weights.py"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="model file to write (.safetensors)")
    parser.add_argument("--head", metavar="NAME", help="which head of a model with several")
    parser.add_argument(
        "--dtype", choices=("float64", "float32"), default="float64", help="of the weights written"
    )


def _add_scripts(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the scripts of mace-scf, which read their flags themselves."""
    text = "the scripts of mace-scf with their flags: train, eval, plot-losses, preprocess"
    parser = commands.add_parser("compat", help=text, description=f"{text[0].upper()}{text[1:]}.")
    scripts = parser.add_subparsers(required=True, metavar="SCRIPT")
    for name, command, what in (
        ("train", old_train_command, "run_train.py: translate the command line to a recipe and train"),
        ("eval", old_eval_command, "eval_local_charges.py: label the frames of a file"),
        ("plot-losses", old_plot_command, "plot_batch_losses.py: plot the terms of the loss"),
        ("preprocess", old_preprocess_command, "preprocess_data.py: write frames as shards"),
    ):
        script = scripts.add_parser(name, help=what, prefix_chars=ANY_WORD, add_help=False)
        script.add_argument("arguments", nargs="*")
        script.set_defaults(command=command)


def _positive_integer(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


# ---------------------------------------------------------------------------------------------------
# commands


def run_command(chosen: argparse.Namespace, console: Console) -> None:
    """Train a model."""
    recipe = find_recipe(chosen.recipe, console)
    from lsf.machine.allocator import keep_freed_memory

    kept = keep_freed_memory()
    from lsf.commands.train import run_recipe

    remarks = () if kept is None else (kept,)
    run_recipe(recipe, chosen.overrides, chosen.out, chosen.fresh, console, remarks=remarks)


def check_command(chosen: argparse.Namespace, console: Console) -> None:
    """Validate a recipe and its data."""
    recipe = find_recipe(chosen.recipe, console)
    from lsf.commands.train import check_recipe

    check_recipe(recipe, chosen.overrides, console)


def list_command(chosen: argparse.Namespace, console: Console) -> None:
    """List components and recipes."""
    from lsf.commands.listing import print_kinds

    print_kinds(chosen.kind, console)


def describe_command(chosen: argparse.Namespace, console: Console) -> None:
    """Show one component, or one table of the recipe."""
    from lsf.commands.listing import print_component, print_recipe_table

    if chosen.kind == "recipe":
        print_recipe_table(chosen.name, console)
    else:
        print_component(chosen.kind, chosen.name, console)


def eval_command(chosen: argparse.Namespace, console: Console) -> None:
    """Label frames and print the errors."""
    from lsf.recipe.quantities import array_properties, info_properties

    info_keys = key_mapping(chosen.info_keys, info_properties(), "--info-key")
    arrays_keys = key_mapping(chosen.array_keys, array_properties(), "--array-key")
    from lsf.commands.evaluate import evaluate_file

    evaluate_file(
        chosen.model,
        chosen.data,
        chosen.out,
        chosen.prefix,
        info_keys,
        arrays_keys,
        chosen.device,
        chosen.batch_size,
        console,
    )


def potential_command(chosen: argparse.Namespace, console: Console) -> None:
    """Draw the potential of a structure and write volumetric files."""
    from lsf.commands.potential import Request, draw_potential

    request = Request(
        tuple(chosen.lines), tuple(chosen.slices), chosen.spacing, chosen.probe_width, chosen.cube
    )
    draw_potential(chosen.model, chosen.structure, request, chosen.out, chosen.frame, chosen.device, console)


def export_command(chosen: argparse.Namespace, console: Console) -> None:
    """Write a model in another format."""
    from lsf.formats.write import export_file

    export_file(chosen.model, chosen.format, chosen.out, chosen.dtype, console)


def show_command(chosen: argparse.Namespace, console: Console) -> None:
    """Show what a model file holds."""
    from lsf.commands.listing import print_model

    print_model(chosen.model, console)


def shards_command(chosen: argparse.Namespace, console: Console) -> None:
    """Write the data of a recipe as shards."""
    recipe = find_recipe(chosen.recipe, console)
    from lsf.commands.shards import write_recipe_data

    write_recipe_data(recipe, chosen.overrides, chosen.out, chosen.frames_per_shard, console)


def import_mace_command(chosen: argparse.Namespace, console: Console) -> None:
    """Make a model file of the weights of a mace-torch model."""
    from lsf.compat.import_mace import import_file

    import_file(chosen.weights, chosen.out, chosen.head, chosen.dtype, console)


def old_train_command(chosen: argparse.Namespace, console: Console) -> None:
    """Train with the command line of mace-scf."""
    from lsf.compat.run_train import run

    run(chosen.arguments, console)


def old_eval_command(chosen: argparse.Namespace, console: Console) -> None:
    """Label frames with the command line of mace-scf."""
    from lsf.compat.eval_local_charges import run

    run(chosen.arguments, console)


def old_plot_command(chosen: argparse.Namespace, console: Console) -> None:
    """Plot losses with the command line of mace-scf."""
    from lsf.compat.batch_losses import run

    run(chosen.arguments, console)


def old_preprocess_command(chosen: argparse.Namespace, console: Console) -> None:
    """Write shards with the command line of mace-scf."""
    from lsf.compat.preprocess import run

    run(chosen.arguments, console)


# ---------------------------------------------------------------------------------------------------
# arguments


def find_recipe(name: str, console: Console) -> Path:
    """Return the recipe file; a name that is no file may be that of a recipe that comes with lsf."""
    path = Path(name)
    if path.exists():
        return path
    from lsf.recipe.catalog import own_folder

    folder = own_folder("recipes")
    for candidate in (path, path.with_suffix(".toml")):
        bundled = folder / candidate.name
        if candidate.parent in (Path(), Path("recipes")) and bundled.is_file():
            console.print(f"using the recipe that comes with lsf: {bundled}", highlight=False)
            return bundled
    return path


def key_mapping(pairs: Sequence[str], properties: Sequence[str], flag: str) -> dict[str, str] | None:
    """Return ``property=key`` texts as a mapping; None when there are none."""
    mapping: dict[str, str] = {}
    for pair in pairs:
        name, equals, key = pair.partition("=")
        if not equals or not key:
            example = f"{properties[0]}=REF_{properties[0]}"
            raise LsfError(f"{flag} {pair!r}: expected PROPERTY=KEY, for example {example}")
        if name not in properties:
            raise LsfError(f"{flag} {pair!r}: no such property; {did_you_mean(name, properties)}")
        mapping[name] = key
    return mapping or None
