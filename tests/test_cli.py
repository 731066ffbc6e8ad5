from __future__ import annotations

import errno
import subprocess
import sys
import types
from pathlib import Path

import pytest

import lsf
from lsf import cli
from lsf.errors import LsfError, Problem, RecipeError
from lsf.machine.files import MachineError
from lsf.recipe.catalog import catalog, own_folder


@pytest.fixture
def fake(monkeypatch):
    """Put a module with one recorded function in place of the real one and return the calls."""

    def install(module: str, *functions: str, error: BaseException | None = None) -> list[tuple]:
        calls: list[tuple] = []

        def called(*arguments, **_named):
            calls.append(arguments)
            if error is not None:
                raise error

        stand_in = types.ModuleType(module)
        for name in functions:
            setattr(stand_in, name, called)
        monkeypatch.setitem(sys.modules, module, stand_in)
        return calls

    return install


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "r.toml"
    path.touch()
    return path


def python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder, timeout=120
    )
    return done.stdout


# ------------------------------------------------------------------------------ light commands


@pytest.mark.parametrize(
    "code",
    [
        "import lsf",
        "import lsf, lsf.cli",
        "import lsf.cli; lsf.cli.main(['list'])",
        "import lsf.cli; lsf.cli.main(['list', 'models'])",
        "import lsf.cli; lsf.cli.main(['describe', 'models', 'LocalSplitCharges'])",
        "import lsf.cli\ntry: lsf.cli.main(['--version'])\nexcept SystemExit: pass",
        "import lsf.cli\ntry: lsf.cli.main(['--help'])\nexcept SystemExit: pass",
    ],
)
def test_light_commands_leave_torch_alone(code, tmp_path):
    heavy = "('torch', 'ase', 'e3nn', 'torch_geometric', 'matplotlib')"
    output = python(
        f"{code}\nimport sys; print('loaded', [name for name in {heavy} if name in sys.modules])", tmp_path
    )
    assert output.endswith("loaded []\n")


def test_python_m_lsf_is_lsf(tmp_path):
    command = [sys.executable, "-m", "lsf", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=120)
    assert done.stdout == f"lsf {lsf.__version__}\n"


def test_output_cut_short_says_nothing(tmp_path):
    code = "import os, sys, lsf.cli; read, write = os.pipe(); os.close(read); os.dup2(write, 1);"
    code += "sys.exit(lsf.cli.main(['list']))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert (done.returncode, done.stderr) == (1, "")


# ------------------------------------------------------------------------------ list and describe


def test_list_shows_every_component_and_recipe(capsys):
    assert cli.main(["list"]) == 0
    output = capsys.readouterr().out
    for kind in catalog().kinds():
        assert all(f"\n{name} " in output for name in catalog().names(kind))
    for file in own_folder("recipes").glob("*.toml"):
        assert f"\n{file.name} " in output


def test_list_one_kind(capsys):
    assert cli.main(["list", "optimizers"]) == 0
    output = capsys.readouterr().out
    assert "adam" in output
    assert "LocalCharges" not in output


def test_list_a_wrong_kind(capsys):
    assert cli.main(["list", "modles"]) == 2
    assert capsys.readouterr().err == (
        "error: there is nothing of the kind 'modles' to list; did you mean 'models'?\n"
    )


def test_describe_a_component(capsys):
    assert cli.main(["describe", "models", "LocalSplitCharges"]) == 0
    output = capsys.readouterr().out
    entry = catalog().entry("models", "LocalSplitCharges")
    assert entry.summary in output
    assert entry.references[0] in output
    line = next(line for line in output.splitlines() if line.startswith("r_max "))
    assert all(
        text in line for text in ("a number, above 0", "6.0", "Cutoff radius of the neighbour list in Å.")
    )
    line = next(line for line in output.splitlines() if line.startswith("formal_charges "))
    assert 'a table of numbers or "from_data"' in line
    assert " required " in line


def test_describe_wrong_names(capsys):
    assert cli.main(["describe", "models", "LocalSplitCharge"]) == 2
    assert "did you mean 'LocalSplitCharges'?" in capsys.readouterr().err
    assert cli.main(["describe", "model", "LocalSplitCharges"]) == 2
    assert "no kind 'model'; did you mean 'models'?" in capsys.readouterr().err


def test_describe_a_table_of_the_recipe(capsys):
    assert cli.main(["describe", "recipe", "training"]) == 0
    output = capsys.readouterr().out
    assert "an integer, at least 1" in output
    assert 'use = "adam"' in output
    assert cli.main(["describe", "recipe", "trainig"]) == 2
    assert "a recipe has no table 'trainig'; did you mean 'training'?" in capsys.readouterr().err


# ------------------------------------------------------------------------------ run and check


def test_run_passes_its_arguments_on(fake, recipe):
    calls = fake("lsf.commands.train", "run_recipe")
    assert (
        cli.main(["run", str(recipe), "--set", "a=1", "b.c=2", "--set", "d=3", "--out", "o", "--fresh"]) == 0
    )
    assert calls[0][:4] == (recipe, ["a=1", "b.c=2", "d=3"], Path("o"), True)
    assert cli.main(["run", str(recipe)]) == 0
    assert calls[1][:4] == (recipe, [], None, False)


def test_check_passes_its_arguments_on(fake, recipe):
    calls = fake("lsf.commands.train", "check_recipe")
    assert cli.main(["check", str(recipe), "--set", "a=1"]) == 0
    assert calls[0][:2] == (recipe, ["a=1"])


@pytest.mark.parametrize(
    "name", ["water_split", "water_split.toml", "recipes/water_split.toml", "recipes/water_split"]
)
def test_a_bundled_recipe_is_found_by_name(fake, capsys, tmp_path, monkeypatch, name):
    calls = fake("lsf.commands.train", "check_recipe")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", name]) == 0
    bundled = own_folder("recipes") / "water_split.toml"
    assert calls[0][0] == bundled
    assert capsys.readouterr().out == f"using the recipe that comes with lsf: {bundled}\n"


def test_a_file_of_ones_own_comes_first(fake, tmp_path, monkeypatch, capsys):
    calls = fake("lsf.commands.train", "check_recipe")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "water_split.toml").touch()
    assert cli.main(["check", "water_split.toml"]) == 0
    assert calls[0][0] == Path("water_split.toml")
    assert capsys.readouterr().out == ""


def test_other_folders_are_not_searched(fake, tmp_path, monkeypatch):
    calls = fake("lsf.commands.train", "check_recipe")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "mine/water_split.toml"]) == 0
    assert calls[0][0] == Path("mine/water_split.toml")


# ------------------------------------------------------------------------------ eval and show


def test_eval_passes_its_arguments_on(fake):
    calls = fake("lsf.commands.evaluate", "evaluate_file")
    assert cli.main(["eval", "m.safetensors", "d.xyz"]) == 0
    assert calls[0][:8] == (Path("m.safetensors"), Path("d.xyz"), None, "lsf_", None, None, "auto", 8)
    arguments = ["eval", "m", "d", "--out", "o.xyz", "--prefix", "x_", "--device", "cpu", "--batch-size", "2"]
    keys = ["--info-key", "energy=E=0", "--info-key", "dipole=mu", "--array-key", "forces=F"]
    assert cli.main([*arguments, *keys]) == 0
    assert calls[1][2:8] == (
        Path("o.xyz"),
        "x_",
        {"energy": "E=0", "dipole": "mu"},
        {"forces": "F"},
        "cpu",
        2,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--info-key", "energi=E"], "--info-key 'energi=E': no such property; did you mean 'energy'?"),
        (["--array-key", "energy=E"], "--array-key 'energy=E': no such property; valid names: "),
        (
            ["--info-key", "energy"],
            "--info-key 'energy': expected PROPERTY=KEY, for example energy=REF_energy",
        ),
        (
            ["--array-key", "forces="],
            "--array-key 'forces=': expected PROPERTY=KEY, for example forces=REF_forces",
        ),
    ],
)
def test_eval_refuses_wrong_mappings(fake, capsys, arguments, message):
    assert fake("lsf.commands.evaluate", "evaluate_file") == []
    assert cli.main(["eval", "m", "d", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0", "-1", "1.5", "x"])
def test_eval_refuses_a_wrong_batch_size(capsys, size):
    with pytest.raises(SystemExit):
        cli.main(["eval", "m", "d", f"--batch-size={size}"])
    assert f"'{size}' is not a whole number above 0" in capsys.readouterr().err


def test_show_prints_the_header(monkeypatch, capsys):
    package = types.ModuleType("lsf.formats.model_file.file")
    header = {
        "name": "water", "model": "LocalCharges", "species": ["H", "O"], "cutoff": 6.0, "boundary": "auto",
        "dtype": "float64", "units": {"energy": "eV"}, "training": {"epoch": 3, "loss": 0.12345678},
        "facts": {"atomic_energies": {"1": -13.6, "8": -2040.0}},
        "lsf_version": "0.1", "torch_version": "2", "format_version": 1,
    }  # fmt: skip
    package.read_header = lambda _path: header
    monkeypatch.setitem(sys.modules, "lsf.formats.model_file.file", package)
    assert cli.main(["show", "m.safetensors"]) == 0
    output = capsys.readouterr().out
    for text in ("H -13.6 eV, O -2040 eV", "6 Å", "epoch 3, loss 0.123457", "energy eV", "LocalCharges"):
        assert text in output


def test_show_a_file_that_is_not_there(capsys, tmp_path):
    assert cli.main(["show", str(tmp_path / "m.safetensors")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'm.safetensors'}: there is no such model file\n"


# ------------------------------------------------------------------------------ shards, mace-torch, mace-scf


def test_shards_passes_its_arguments_on(fake, recipe, capsys):
    calls = fake("lsf.commands.shards", "write_recipe_data")
    assert cli.main(["shards", str(recipe), "--out", "o"]) == 0
    assert calls[0][:4] == (recipe, [], Path("o"), 1000)
    line = ["shards", str(recipe), "--out", "o", "--frames-per-shard", "20", "--set", "a=1", "b=2"]
    assert cli.main(line) == 0
    assert calls[1][:4] == (recipe, ["a=1", "b=2"], Path("o"), 20)
    with pytest.raises(SystemExit):
        cli.main(["shards", str(recipe), "--out", "o", "--frames-per-shard", "0"])
    assert "'0' is not a whole number above 0" in capsys.readouterr().err


def test_import_mace_passes_its_arguments_on(fake):
    calls = fake("lsf.compat.import_mace", "import_file")
    assert cli.main(["import-mace", "w.safetensors", "m.safetensors"]) == 0
    assert calls[0][:4] == (Path("w.safetensors"), Path("m.safetensors"), None, "float64")
    assert cli.main(["import-mace", "w", "m", "--head", "dft", "--dtype", "float32"]) == 0
    assert calls[1][:4] == (Path("w"), Path("m"), "dft", "float32")


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("train", "run_train"),
        ("eval", "eval_local_charges"),
        ("plot-losses", "batch_losses"),
        ("preprocess", "preprocess"),
    ],
)
def test_the_scripts_of_mace_scf_get_their_words_as_they_are(fake, name, module):
    calls = fake(f"lsf.compat.{module}", "run")
    words = ["--name", "a", "b", "--version", "--set", "x=1", "-h", "--r_max=3", "", "-1.5"]
    assert cli.main(["compat", name, *words]) == 0
    assert cli.main(["compat", name]) == 0
    assert [call[0] for call in calls] == [words, []]


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    for name in ("run", "check", "list", "describe", "eval", "potential", "export", "show", "shards",
                 "import-mace", "compat"):  # fmt: skip
        assert f"\n    {name} " in shown or f"\n    {name}\n" in shown, name
    with pytest.raises(SystemExit):
        cli.main(["compat", "--help"])
    shown = capsys.readouterr().out
    for name in ("train", "eval", "plot-losses", "preprocess"):
        assert f"\n    {name} " in shown or f"\n    {name}\n" in shown, name


# ------------------------------------------------------------------------------ how commands end

PROBLEM = Problem("r.toml:3", "seed", "true", "an integer")


NO_SPACE = "No space left on device"
NO_MEMORY = "error: out of memory; smaller batches need less: training.batch_size, --batch-size\n"


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (LsfError("what to do"), 2, "error: what to do\n"),
        (RecipeError("r.toml cannot be used", [PROBLEM]), 2,
         "error: r.toml cannot be used (1 problem)\n  - r.toml:3: seed: found true; expected an integer\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyboardInterrupt("stopped after epoch 3; the same command goes on"), 130,
         "interrupted: stopped after epoch 3; the same command goes on\n"),
        (OSError(errno.ENOSPC, NO_SPACE, "runs/x"), 1, f"error: runs/x: {NO_SPACE}\n"),
        (OSError(errno.ENOSPC, NO_SPACE), 1, f"error: {NO_SPACE}\n"),
        (MachineError(f"cannot write runs/x: {NO_SPACE}"), 1, f"error: cannot write runs/x: {NO_SPACE}\n"),
        (OSError("odd"), 1, "error: odd\n"),
        (MemoryError(), 1, NO_MEMORY),
        (OutOfMemoryError("CUDA"), 1, NO_MEMORY),
    ],
)  # fmt: skip
def test_an_error_is_one_message_and_a_status(fake, recipe, capsys, error, status, message):
    fake("lsf.commands.train", "run_recipe", error=error)
    assert cli.main(["run", str(recipe)]) == status
    captured = capsys.readouterr()
    assert captured.err == message
    assert captured.out == ""


def test_a_mistake_of_ours_keeps_its_traceback(fake, recipe):
    fake("lsf.commands.train", "run_recipe", error=RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["run", str(recipe)])


def test_no_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
