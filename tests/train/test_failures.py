"""Bad numbers, damaged or foreign checkpoints, full disks: one clear message, nothing lost."""

import errno
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from attrs import evolve
from test_stages import assert_same_run, run
from tiny import (
    Splits,
    TinyModel,
    loss_terms,
    make_graph,
    make_graphs,
    make_recipe,
    make_splits,
    save_fake,
    tiny_evaluate,
)

from lsf.errors import DataError, LsfError
from lsf.train.loop import checkpoint
from lsf.train.loop.checkpoint import CheckpointError, fingerprint_of
from lsf.train.loop.epoch import TrainingError, frame_names
from lsf.train.progress import MetricsFile, duration_text


def poisoned_splits(value: float) -> Splits:
    splits = make_splits()
    splits.train[6].target_energy[0] = value
    return splits


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200])
def test_bad_numbers_stop_with_the_frame_and_keep_good_weights(tmp_path, value):
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, splits=poisoned_splits(value))
    message = str(caught.value)
    assert (
        "the loss or its gradient is not a finite number in\n  - train.xyz, frame 6 (ion, 4 atoms)" in message
    )
    assert message.count("frame ") == 1
    assert "lower stages.0.lr = 0.01" in message
    stored = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert all(bool(torch.isfinite(weight).all()) for weight in stored["model"].values())


def test_bad_numbers_in_validation_stop_too(tmp_path):
    splits = make_splits()
    splits.valid[0].target_energy[0] = float("nan")
    with pytest.raises(TrainingError, match="the validation loss is not a finite number; lower"):
        run(tmp_path, splits=splits)


def test_long_lists_of_frames_are_cut():
    names = frame_names(make_graphs(14), "a.xyz")
    assert names.count("a.xyz") == 10
    assert names.endswith("and 4 more")


def test_losses_that_no_weight_changes_are_an_error(tmp_path):
    def constant(model, batch, compute, create_graph=False):
        output = tiny_evaluate(model, batch, compute, create_graph)
        return {**output, "total_charge": torch.zeros_like(output["total_charge"]).detach()}

    recipe = make_recipe((1,))
    recipe = evolve(recipe, stages=(evolve(recipe.stages[0], loss=loss_terms(total_charge=1.0)),))
    splits = Splits(make_graphs(4, ("total_charge",)), [])
    with pytest.raises(TrainingError, match="losses total_charge do not depend on any trainable weight"):
        run(tmp_path, recipe, splits, evaluate=constant)


def test_a_loss_without_any_label_is_an_error(tmp_path):
    splits = Splits(make_graphs(4, ("energy",)), make_graphs(2))
    with pytest.raises(DataError, match=r"\(4 problems\)") as caught:
        run(tmp_path, splits=splits)
    assert "train.xyz: forces (loss of stage 'stage1'): found no frame" in str(caught.value)
    assert "train.xyz: dipole (loss of stage 'stage2'): found no frame" in str(caught.value)
    assert not (tmp_path / "checkpoints").exists()


def test_another_recipe_or_other_frames_cannot_resume(tmp_path):
    run(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"belongs to a run with another recipe or other data; .*--out DIR"
    ):
        run(tmp_path, identity="changed")
    splits = make_splits()
    splits.train[0].positions[0, 0] += 0.1
    with pytest.raises(CheckpointError, match="another recipe or other data"):
        run(tmp_path, splits=splits)


def test_fingerprint_sees_recipe_and_frames():
    graphs = make_graphs(3)
    prints = {fingerprint_of("a", graphs), fingerprint_of("b", graphs), fingerprint_of("a", graphs[:2])}
    assert len(prints) == 3


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_damaged_checkpoint(tmp_path, content):
    run(tmp_path, make_recipe((1,)))
    path = tmp_path / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:700] if content is None else content)
    with pytest.raises(
        CheckpointError, match=r"last.pt is not a readable checkpoint \(.+\); delete it to start"
    ):
        run(tmp_path, make_recipe((1,)))


def test_checkpoint_with_code_is_refused(tmp_path):
    run(tmp_path, make_recipe((1,)))
    torch.save({"format": 1, "fingerprint": Path.cwd}, tmp_path / "checkpoints" / "last.pt")
    with pytest.raises(CheckpointError, match="is not a readable checkpoint"):
        run(tmp_path, make_recipe((1,)))


def test_checkpoint_of_another_format(tmp_path, monkeypatch):
    run(tmp_path, make_recipe((1,)))
    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    with pytest.raises(CheckpointError, match="has checkpoint format 2; this version of lsf reads 3"):
        run(tmp_path, make_recipe((1,)))


def test_full_disk_keeps_the_older_checkpoint(tmp_path, monkeypatch):
    recipe = make_recipe((4,))
    run(tmp_path / "straight", recipe)
    folder = tmp_path / "full"
    written = []

    def write(self, data):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(self)
        with self.open("wb") as file:
            return file.write(data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        with pytest.raises(LsfError, match=r"cannot write .*last.pt: No space left on device"):
            run(folder, recipe)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best_stage1.pt", "last.pt"]
    run(folder, recipe, model=TinyModel(seed=99))
    assert_same_run(tmp_path / "straight", folder)


LIMITED = """
    import resource, sys
    from pathlib import Path
    from tiny import *
    from lsf.errors import LsfError
    from lsf.train.loop.stages import train

    def limited(*args, **kwargs):
        if len(list(Path(sys.argv[1]).glob("checkpoints/last.pt"))):
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        return tiny_evaluate(*args, **kwargs)

    try:
        train(make_recipe((3,)), TinyModel(), make_splits(), Path(sys.argv[1]), LOG, save=save_fake,
              identity="tiny", evaluate=limited)
    except LsfError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="file size limits need a POSIX system")
def test_writes_that_the_system_refuses_end_in_one_message(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "cannot write" in process.stdout, process.stderr
    assert "File too large" in process.stdout
    # what had been written before can be taken up
    run(tmp_path, make_recipe((3,)), model=TinyModel(seed=99))


def test_metrics_file_that_cannot_be_written(tmp_path):
    file = MetricsFile(tmp_path / "folder")
    file.path.mkdir()
    with pytest.raises(LsfError, match=r"cannot write .*folder: Is a directory; checkpoints are intact"):
        file.append({"epoch": 1})


def test_failing_model_file_loses_no_training(tmp_path):
    def broken(*_):
        raise OSError("broken writer")

    recipe = make_recipe((3,))
    with pytest.raises(OSError, match="broken writer"):
        run(tmp_path / "cut", recipe, save=broken)
    run(tmp_path / "cut", recipe, model=TinyModel(seed=99), save=save_fake)
    run(tmp_path / "straight", recipe)
    assert_same_run(tmp_path / "straight", tmp_path / "cut")


def test_leftovers_of_a_killed_write_are_removed(tmp_path):
    run(tmp_path, make_recipe((1,)))
    leftover = tmp_path / "checkpoints" / ".last.123.pt"
    leftover.write_bytes(b"half")
    run(tmp_path, make_recipe((1,)))
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89.0, "89 s"), (200.0, "3 min"), (7500.0, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text


def test_single_frame_and_single_atom(tmp_path):
    labels = ("energy", "forces", "dipole", "atomic_multipoles")
    result = run(tmp_path, splits=Splits([make_graph(0, 1, labels)], [make_graph(1, 1, labels)]))
    assert result.metrics["train"].n_frames == 1
