"""Whole runs of a tiny model on a few bundled frames: what they leave, refuse, survive and say."""

import errno
import json
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import attrs
import pytest
import torch
from rich.console import Console

import lsf
from lsf.cli import main
from lsf.commands import train as pipeline
from lsf.commands.train import check_recipe, run_recipe
from lsf.errors import DataError, LsfError, RecipeError
from lsf.formats.model_file.file import read_header
from lsf.recipe.catalog import own_folder
from lsf.recipe.read import read_recipe
from lsf.train.loop.interrupt import TrainingInterrupted

RECIPE = """
schema = 1
name = "tiny"
seed = 1
[data]
train = "train.xyz"
valid = "valid.xyz"
test = "test.xyz"
[heads.default.info_keys]
energy = "REF_energy"
dipole = "REF_dipole"
total_charge = "total_charge"
[heads.default.arrays_keys]
forces = "REF_forces"
[model]
use = "LocalSplitCharges"
r_max = 3.0
hidden_irreps = "4x0e + 4x1o"
num_interactions = 1
correlation = 1
max_ell = 1
radial_mlp = [4]
formal_charges = {H = 1.0, O = -2.0}
[electrostatics]
boundary = "realspace"
[training]
batch_size = 4
[[stages]]
name = "first"
epochs = 1
lr = 0.01
loss = {dipole = 1.0, forces = 1.0}
[[stages]]
name = "second"
epochs = 1
lr = 0.001
loss = {energy_per_atom = 10.0, forces = 1.0}
"""


def frames(split: str, count: int, step: int = 1) -> str:
    """Every ``step``-th frame of a bundled file, as text."""
    lines = (own_folder("recipes") / "data" / f"water_clusters_{split}.xyz").read_text().splitlines()
    blocks, start = [], 0
    while start < len(lines):
        end = start + int(lines[start]) + 2
        blocks.append("\n".join(lines[start:end]))
        start = end
    return "\n".join(blocks[: count * step : step]) + "\n"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a recipe and its data."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "tiny.toml").write_text(RECIPE)
    for split, count, step in (("train", 12, 30), ("valid", 4, 15), ("test", 4, 20)):
        (folder / f"{split}.xyz").write_text(frames(split, count, step))
    return folder


@attrs.frozen
class Run:
    """A run and what it printed."""

    result: pipeline.RunResult
    shown: str


def run(recipe: Path, out: Path, *overrides: str, fresh: bool = False, observers=()) -> Run:
    stream = StringIO()
    console = Console(file=stream, width=400)
    result = run_recipe(recipe, overrides, out, fresh, console, observers)
    return Run(result, stream.getvalue())


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory) -> Run:
    """A run from recipe to report."""
    return run(inputs / "tiny.toml", tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def no_report(monkeypatch):
    """Leave out the pictures, which take longer than the training."""
    monkeypatch.setattr(pipeline, "write_report", lambda folder, *_: folder / "index.html")


def lines_of(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


# ---------------------------------------------------------------------------------------------------
# what a run leaves


def test_a_run_leaves_exactly_its_files(finished):
    folder = finished.result.folder
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {
        "recipe.resolved.toml",
        "log.txt",
        "metrics.jsonl",
        "checkpoints/last.pt",
        "checkpoints/best_first.pt",
        "checkpoints/best_second.pt",
        "tiny_first.safetensors",
        "tiny_second.safetensors",
        "tiny.safetensors",
        "report/index.html",
        "report/losses.png",
        "report/parity_valid.png",
        "report/parity_test.png",
    }


def test_its_files_say_what_was_done(finished):
    folder = finished.result.folder
    assert [record["epoch"] for record in lines_of(folder, "train")] == [1, 2]
    assert [record["stage"] for record in lines_of(folder, "eval")] == ["first", "second"]
    assert [record["split"] for record in lines_of(folder, "final")] == ["train", "valid", "test"]
    log = (folder / "log.txt").read_text()
    for message in ("atomic energies", "LocalSplitCharges with", "Epoch 1/2 first", "Epoch 2/2 second"):
        assert message in log
    stored = read_header(folder / "tiny.safetensors")
    assert stored["recipe"] == (folder / "recipe.resolved.toml").read_text()
    assert stored["training"]["stage"] == "second"
    page = (folder / "report" / "index.html").read_text()
    assert "Errors of tiny" in page
    assert "hidden_irreps = &quot;4x0e + 4x1o&quot;" in page


def test_the_resolved_recipe_is_a_recipe_of_its_own(finished, inputs):
    resolved = read_recipe(finished.result.folder / "recipe.resolved.toml")
    assert resolved == read_recipe(inputs / "tiny.toml")


def test_the_end_of_a_run_fits_a_screen(finished):
    shown = finished.shown
    table = shown[shown.index("Errors of tiny") :]
    rows = [line.split("│")[1].strip() for line in table.splitlines() if line.startswith("│")]
    # four config types in the test set: with the three sets, few enough to be shown
    assert rows[:3] == ["train", "valid", "test"]
    assert all(row.startswith("test: ") for row in rows[3:])
    assert len(rows) == 7
    for name in ("tiny.safetensors", "report/losses.png", "report/index.html"):
        assert str(finished.result.folder / name) in table
    assert "The report has the errors of every config type." in table
    assert "Errors of tiny by config type" in finished.result.report.read_text()


def test_the_model_of_a_run_is_used_in_two_lines(finished, inputs):
    from ase.io import read

    atoms = read(inputs / "test.xyz", index=0)
    atoms.calc = lsf.load(finished.result.model_file).ase_calculator()
    assert atoms.get_potential_energy() < 0.0
    assert atoms.calc.results["total_charge"] == pytest.approx(0.0, abs=1e-10)  # rounding of float64


@pytest.mark.usefixtures("no_report")
def test_the_same_recipe_gives_the_same_model_to_the_last_bit(finished, inputs, tmp_path):
    again = run(inputs / "tiny.toml", tmp_path / "again")
    first, second = (lsf.load(item.result.model_file).model.state_dict() for item in (finished, again))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_check_trains_nothing_and_leaves_nothing(inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stream = StringIO()
    check_recipe(inputs / "tiny.toml", (), Console(file=stream, width=200))
    assert "The recipe and its data are fine; nothing was trained." in stream.getvalue()
    assert "12 │" in stream.getvalue()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------
# the same folder again


@pytest.mark.usefixtures("no_report")
def test_a_finished_run_says_so_and_is_not_trained_again(inputs, tmp_path):
    first = run(inputs / "tiny.toml", tmp_path / "run")
    model = first.result.model_file.read_bytes()
    again = run(inputs / "tiny.toml", tmp_path / "run")
    assert "all epochs are done: nothing is left to train" in again.shown
    assert "Errors of tiny" in again.shown
    assert again.result.model_file.read_bytes() == model
    assert len(lines_of(tmp_path / "run", "train")) == 2


@pytest.mark.usefixtures("no_report")
def test_another_recipe_in_the_same_folder_is_refused(inputs, tmp_path):
    run(inputs / "tiny.toml", tmp_path / "run")
    before = (tmp_path / "run" / "tiny.safetensors").read_bytes()
    with pytest.raises(LsfError, match=r"holds a run of another recipe: .*--out, or start anew .*--fresh"):
        run(inputs / "tiny.toml", tmp_path / "run", "seed=2")
    assert (tmp_path / "run" / "tiny.safetensors").read_bytes() == before
    other = run(inputs / "tiny.toml", tmp_path / "run", "seed=2", fresh=True)
    assert other.result.model_file.read_bytes() != before
    assert (tmp_path / "run" / "log.txt").read_text().count("Epoch 1/2") == 1


@pytest.mark.usefixtures("no_report")
def test_other_frames_under_the_same_name_are_refused(inputs, tmp_path):
    for file in inputs.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    run(tmp_path / "tiny.toml", tmp_path / "run")
    (tmp_path / "train.xyz").write_text(frames("train", 10, 30))
    with pytest.raises(LsfError, match="another recipe or other data; write to another folder"):
        run(tmp_path / "tiny.toml", tmp_path / "run")


@pytest.mark.usefixtures("no_report")
def test_runs_go_to_a_folder_of_their_name(inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_recipe(inputs / "tiny.toml", (), None, False, Console(quiet=True))
    assert result.folder == Path("runs/tiny")
    assert (tmp_path / "runs" / "tiny" / "tiny.safetensors").is_file()


# ---------------------------------------------------------------------------------------------------
# bad input


def test_bad_data_leave_no_folder_behind(inputs, tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    for name in ("valid.xyz", "test.xyz"):
        (tmp_path / name).write_bytes((inputs / name).read_bytes())
    (tmp_path / "train.xyz").write_text("\n".join(frames("train", 2).splitlines()[:-1]))
    with pytest.raises(DataError, match=r"(?s)train\.xyz, frame 1, line 6: .*the file is truncated"):
        run(tmp_path / "tiny.toml", tmp_path / "run")
    (tmp_path / "train.xyz").unlink()
    with pytest.raises(RecipeError, match=r"data\.train: found .*train\.xyz, which does not exist"):
        run(tmp_path / "tiny.toml", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_without_labels_is_noticed_before_anything_is_written(inputs, tmp_path):
    """Also by ``lsf check``, which trains nothing."""
    for name in ("valid.xyz", "test.xyz"):
        (tmp_path / name).write_bytes((inputs / name).read_bytes())
    (tmp_path / "tiny.toml").write_text(RECIPE)
    weightless = frames("train", 12, 30).replace(
        'config_dipole_weight="1.0 1.0 1.0"', 'config_dipole_weight="0 0 0"'
    )
    (tmp_path / "train.xyz").write_text(weightless)
    for attempt in (
        lambda: run(tmp_path / "tiny.toml", tmp_path / "run"),
        lambda: check_recipe(tmp_path / "tiny.toml", (), Console(quiet=True)),
    ):
        with pytest.raises(DataError, match=r"dipole \(loss of stage 'first'\): found no frame"):
            attempt()
    assert not (tmp_path / "run").exists()


def test_a_wrong_recipe_leaves_no_folder_behind(inputs, tmp_path, capsys):
    arguments = ["run", str(inputs / "tiny.toml"), "--out", str(tmp_path / "run"), "--set", "model.r_mx=3.0"]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "r_max" in message
    assert "Traceback" not in message
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------------
# interrupted


def stop_after(epoch: int):
    """Return an observer that presses Ctrl-C after an epoch."""

    def observe(record):
        if record["kind"] == "train" and record["epoch"] == epoch:
            signal.raise_signal(signal.SIGINT)

    return observe


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.usefixtures("no_report")
def test_an_interrupted_run_resumes_to_the_same_model(finished, inputs, tmp_path, epoch):
    with pytest.raises(
        TrainingInterrupted, match=r"saved in .*last\.pt: run the same command again"
    ) as caught:
        run(inputs / "tiny.toml", tmp_path / "run", observers=[stop_after(epoch)])
    assert f"stopped by SIGINT after epoch {epoch}/2" in str(caught.value)
    again = run(inputs / "tiny.toml", tmp_path / "run")
    assert "resuming from" in again.shown
    assert [record["epoch"] for record in lines_of(tmp_path / "run", "train")] == [1, 2]
    first, second = (lsf.load(item.result.model_file).model.state_dict() for item in (finished, again))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.usefixtures("no_report")
def test_an_interrupt_after_the_training_says_how_to_get_the_report(inputs, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_report", interrupted)
        with pytest.raises(
            TrainingInterrupted, match=r"saved in .*run: run the same command again to resume"
        ):
            run(inputs / "tiny.toml", tmp_path / "run")
    assert (tmp_path / "run" / "tiny.safetensors").is_file()
    again = run(inputs / "tiny.toml", tmp_path / "run")
    assert again.result.report == tmp_path / "run" / "report" / "index.html"
    assert "nothing is left to train" in again.shown


def test_ctrl_c_on_the_command_line_is_one_line(inputs, tmp_path):
    folder = tmp_path / "run"
    arguments = [str(inputs / "tiny.toml"), "--out", str(folder), "--set", "stages.0.epochs=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lsf", "run", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120.0
        while not (folder / "metrics.jsonl").is_file() and process.poll() is None:
            assert time.monotonic() < deadline, "no epoch in two minutes"
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, message = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, output + message
    assert message.startswith("interrupted: stopped by SIGINT after epoch ")
    assert message.count("\n") == 1
    assert "run the same command again to resume" in message
    assert (folder / "checkpoints" / "last.pt").is_file()


# ---------------------------------------------------------------------------------------------------
# full disk


@pytest.mark.usefixtures("no_report")
def test_a_full_disk_while_the_model_is_written_loses_no_training(inputs, tmp_path, monkeypatch):
    write = Path.write_bytes

    def full(path: Path, content) -> int:
        if path.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        message = r"cannot write .*tiny_first\.safetensors: No space left on device"
        with pytest.raises(LsfError, match=message):
            run(inputs / "tiny.toml", tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.safetensors"))
    again = run(inputs / "tiny.toml", tmp_path / "run")
    assert again.result.model_file.is_file()
    assert [record["epoch"] for record in lines_of(tmp_path / "run", "train")] == [1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device without space")
@pytest.mark.usefixtures("no_report")
def test_a_log_that_cannot_be_written_does_not_stop_the_run(inputs, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "log.txt").symlink_to("/dev/full")
    done = run(inputs / "tiny.toml", folder)
    assert done.result.model_file.is_file()
    assert done.shown.count("No space left on device; going on without it") == 1
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_made_is_one_message(inputs, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(LsfError, match=r"cannot write .*recipe\.resolved\.toml"):
        run(inputs / "tiny.toml", tmp_path / "file" / "run")
