import io
import json
import random
import re
import signal as signals
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from rich.console import Console
from tiny import (
    LOG,
    FixedClock,
    Splits,
    TinyModel,
    load_fake,
    loss_terms,
    make_graphs,
    make_recipe,
    make_splits,
    save_fake,
    tiny_evaluate,
)

from lsf.train.loop import session
from lsf.train.loop.checkpoint import SHARE_OF_TIME, SaveClock
from lsf.train.loop.stages import train
from lsf.train.objective.evaluation import EvaluationSet, parameters_of
from lsf.train.objective.losses import build_stage_loss


def run(folder, recipe=None, splits=None, **kwargs):
    arguments = {"save": save_fake, "identity": "tiny", "evaluate": tiny_evaluate, "clock": FixedClock()}
    arguments |= kwargs
    model = arguments.pop("model", None) or TinyModel()
    return train(recipe or make_recipe(), model, splits or make_splits(), folder, LOG, **arguments)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "schedulefree"])
def test_training_lowers_the_loss_and_leaves_all_files(tmp_path, optimizer):
    result = run(tmp_path, make_recipe((30, 10), optimizer))
    first, last = result.history[0], result.history[29]
    assert last["valid_loss"] < first["valid_loss"]
    assert last["train_loss"] < 0.9 * first["train_loss"]
    assert len(result.history) == 40
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "tiny.safetensors",
        "tiny_stage1.safetensors",
        "tiny_stage2.safetensors",
    ]
    assert (tmp_path / "checkpoints" / "last.pt").exists()
    assert (tmp_path / "checkpoints" / "best_stage1.pt").exists()
    assert result.model_file == tmp_path / "tiny.safetensors"
    assert set(result.metrics) == {"train", "valid", "test"}
    assert [row[0] for row in result.table.rows[:3]] == ["train", "train: ion", "train: water"]


def test_best_weights_are_chosen_per_stage_and_kept_in_the_model(tmp_path):
    result = run(tmp_path, make_recipe((8, 8)))
    stage2 = [record for record in result.history if record["stage"] == "stage2"]
    best = min(stage2, key=lambda record: record["valid_loss"])
    assert result.best_epoch == best["epoch"]
    assert result.best_loss == best["valid_loss"]
    stored, metadata = load_fake(result.model_file)
    for name, weight in result.model.state_dict().items():
        assert torch.equal(weight, stored[name])
    assert metadata == {
        "stage": "stage2",
        "epoch": str(best["epoch"]),
        "validation_loss": repr(best["valid_loss"]),
    }
    # the same weights give the loss of the best epoch again, so they are the averaged ones of that epoch
    loss = build_stage_loss(make_recipe((8, 8)).stages[1].loss)
    metrics = EvaluationSet.build(make_splits().valid, 4, torch.device("cpu")).metrics(
        result.model, parameters_of(result.model), loss, tiny_evaluate
    )
    assert metrics.loss == best["valid_loss"]


def test_the_file_of_a_stages_best_weights_holds_them_by_name(tmp_path):
    result = run(tmp_path, make_recipe((4, 2)))
    for stage in ("stage1", "stage2"):
        content = torch.load(tmp_path / "checkpoints" / f"best_{stage}.pt", weights_only=True)
        stored, metadata = load_fake(tmp_path / f"tiny_{stage}.safetensors")
        assert sorted(content["weights"]) == sorted(stored)
        assert all(torch.equal(weight, stored[name]) for name, weight in content["weights"].items())
        assert metadata["epoch"] == str(content["epoch"])
        assert content["loss"] == min(
            record["valid_loss"] for record in result.history if record["stage"] == stage
        )


def test_best_weights_are_written_when_they_are_new(tmp_path, monkeypatch):
    written = []
    original = session.write_best

    def spy(path, fingerprint, best, names):
        written.append((best.stage, best.epoch))
        original(path, fingerprint, best, names)

    monkeypatch.setattr(session, "write_best", spy)
    result = run(tmp_path, make_recipe((12,)))
    losses = [record["valid_loss"] for record in result.history]
    # a checkpoint after every epoch, with new best weights in those that are better than all before
    better = [epoch for epoch, loss in enumerate(losses, 1) if loss == min(losses[:epoch])]
    assert written == [(0, epoch) for epoch in better]


def test_evaluates_every_n_epochs_and_at_the_end_of_a_stage(tmp_path):
    result = run(tmp_path, make_recipe((5, 2), eval_interval=3))
    assert [record["epoch"] for record in result.history if "valid_loss" in record] == [3, 5, 7]


def test_metrics_are_json_lines(tmp_path):
    result = run(tmp_path, make_recipe((2,)))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["train", "eval"] * 2 + ["final"] * 3
    assert set(lines[0]["terms"]) == {"energy_per_atom", "forces", "atomic_multipoles"}
    assert lines[1]["rmse"]["forces"] > 0.0
    assert lines[1]["lr"] == 0.01
    # a loss that is not that of any stage is NaN, which JSON does not know
    assert lines[-1]["loss"] is None
    assert result.history[1]["rmse_forces"] == lines[3]["rmse"]["forces"]


def test_validation_loss_does_not_depend_on_the_batches(tmp_path):
    losses = [
        run(tmp_path / str(size), make_recipe((1,), valid_batch_size=size)).history[0]["valid_loss"]
        for size in (1, 3, 5)
    ]
    # sums over frames in another order: rounding only
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-12)


def test_without_validation_frames_the_training_loss_decides(tmp_path, caplog):
    splits = Splits(make_graphs(6), [])
    result = run(tmp_path, make_recipe((2,)), splits)
    assert "the best weights are chosen by the training loss" in caplog.text
    assert result.best_loss == min(record["train_loss"] for record in result.history)
    assert set(result.metrics) == {"train"}


class StopAfter:
    """A fake of the evaluation that raises after so many calls."""

    def __init__(self, calls, error):
        self.calls, self.error = calls, error

    def __call__(self, *args, **kwargs):
        self.calls -= 1
        if self.calls < 0:
            raise self.error
        return tiny_evaluate(*args, **kwargs)


def comparable(folder: Path):
    """Return everything a run leaves that must not depend on interruptions."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
    models = {path.name: load_fake(path) for path in folder.glob("*.safetensors")}
    return lines, models


def assert_same_run(folder, other):
    lines, models = comparable(folder)
    other_lines, other_models = comparable(other)
    assert lines == other_lines
    assert sorted(models) == sorted(other_models)
    for name, (weights, metadata) in models.items():
        assert metadata == other_models[name][1]
        for key, weight in weights.items():
            assert torch.equal(weight, other_models[name][0][key]), (name, key)


def position_in(folder):
    """Return where the last checkpoint of a run stands, as plain data."""
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["position"]


CALLS_PER_EPOCH = 5  # of the evaluation: three steps and two batches of validation frames


@pytest.mark.parametrize("after_epoch", [True, False], ids=["after every epoch", "after stages only"])
@pytest.mark.parametrize("optimizer", ["adam", "schedulefree"])
@pytest.mark.parametrize("calls", [2, 9, 21, 26, 31])
def test_resume_is_exact_bit_for_bit(tmp_path, optimizer, calls, after_epoch):
    recipe = make_recipe((3, 3), optimizer)
    run(tmp_path / "straight", recipe)
    stop = StopAfter(calls, RuntimeError("power cut"))
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", recipe, evaluate=stop, clock=FixedClock(after_epoch))
    stage, epoch = divmod(calls // CALLS_PER_EPOCH, 3)
    position = position_in(tmp_path / "cut")
    assert (position["stage"], position["epoch"]) == (stage, epoch if after_epoch else 0)
    run(tmp_path / "cut", recipe, model=TinyModel(seed=99))
    assert_same_run(tmp_path / "straight", tmp_path / "cut")


def test_resume_in_the_middle_of_an_epoch_is_exact(tmp_path):
    recipe = make_recipe((3,))
    run(tmp_path / "straight", recipe)
    stop = StopAfter(7, RuntimeError("power cut"))
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", recipe, evaluate=stop, clock=FixedClock(after_step=True))
    position = position_in(tmp_path / "cut")
    assert (position["epoch"], position["step"]) == (1, 2)
    run(tmp_path / "cut", recipe, model=TinyModel(seed=99))
    assert_same_run(tmp_path / "straight", tmp_path / "cut")


def test_checkpoints_take_a_twentieth_of_the_time_at_most():
    time_now = 100.0
    clock = SaveClock(now=lambda: time_now)
    assert clock.due()  # nothing was ever written, so nothing is known about the cost
    with clock.writing():
        time_now += 0.5
    assert not clock.due()
    time_now += 0.5 / SHARE_OF_TIME - 0.25
    assert not clock.due()
    time_now += 0.25
    assert clock.due()
    assert SHARE_OF_TIME == 0.05


def test_within_an_epoch_a_checkpoint_is_due_after_five_minutes():
    time_now = 0.0
    clock = SaveClock(now=lambda: time_now)
    time_now = 300.0
    assert not clock.due_within_epoch()
    time_now = 300.25
    assert clock.due_within_epoch()


@pytest.mark.parametrize("optimizer", ["adam", "schedulefree"])
def test_training_draws_no_random_numbers(tmp_path, optimizer):
    """So that a checkpoint needs no state of a generator: batches follow from seed and epoch."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    run(tmp_path, make_recipe((2, 1), optimizer))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert all(np.array_equal(*pair) for pair in zip(np.random.get_state(), before[2], strict=True))


def test_a_checkpoint_of_an_older_version_holds_a_random_state_and_is_taken_up(tmp_path):
    recipe = make_recipe((3,))
    run(tmp_path / "straight", recipe)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", recipe, evaluate=StopAfter(9, RuntimeError("power cut")))
    path = tmp_path / "cut" / "checkpoints" / "last.pt"
    content = torch.load(path, weights_only=True)
    assert "random" not in content
    torch.save({**content, "random": {"cpu": torch.get_rng_state()}}, path)
    run(tmp_path / "cut", recipe, model=TinyModel(seed=99))
    assert_same_run(tmp_path / "straight", tmp_path / "cut")


def test_finished_run_is_not_trained_again(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path, model=TinyModel(seed=99))
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert again.history == first.history
    assert again.metrics["test"].errors == first.metrics["test"].errors


def test_without_resume_the_run_starts_anew(tmp_path):
    run(tmp_path, make_recipe((4,)))
    result = run(tmp_path, make_recipe((2,)), resume=False, identity="another")
    assert len(result.history) == 2


SCRIPT = """
    import sys, time
    from pathlib import Path
    from tiny import *
    from lsf.train.loop.stages import train

    def slow(*args, **kwargs):
        time.sleep(float(sys.argv[2]))
        return tiny_evaluate(*args, **kwargs)

    train(make_recipe((6, 6)), TinyModel(), make_splits(), Path(sys.argv[1]), LOG, save=save_fake,
          identity="tiny", evaluate=slow)
"""


def start_process(folder, delay):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder), str(delay)],
        cwd=Path(__file__).parent,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_epochs(folder, count):
    file = folder / "metrics.jsonl"
    deadline = time.monotonic() + 60.0
    while not (file.exists() and file.read_text().count('"train"') >= count):
        assert time.monotonic() < deadline, "the process does not train"
        time.sleep(0.01)


def test_killed_process_resumes_bit_for_bit(tmp_path):
    run(tmp_path / "straight", make_recipe((6, 6)))
    process = start_process(tmp_path / "killed", 0.02)
    wait_for_epochs(tmp_path / "killed", 3)
    process.kill()
    process.wait()
    process.stderr.close()
    assert not (tmp_path / "killed" / "tiny.safetensors").exists()
    run(tmp_path / "killed", make_recipe((6, 6)), model=TinyModel(seed=99))
    assert_same_run(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
def test_interrupted_process_saves_and_says_how_to_resume(tmp_path, signal):
    process = start_process(tmp_path / "stopped", 0.02)
    wait_for_epochs(tmp_path / "stopped", 2)
    process.send_signal(getattr(signals, signal))
    _, error = process.communicate(timeout=60)
    message = error.strip().splitlines()[-1]
    assert f"TrainingInterrupted: stopped by {signal} after epoch " in message
    assert "last.pt: run the same command again to resume" in message
    run(tmp_path / "straight", make_recipe((6, 6)))
    run(tmp_path / "stopped", make_recipe((6, 6)), model=TinyModel(seed=99))
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_stages_set_the_learning_rate_and_keep_the_optimizer_state(tmp_path):
    result = run(tmp_path, make_recipe((3, 3)))
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert checkpoint["optimizer"]["param_groups"][0]["lr"] == 0.002
    # three batches an epoch, six epochs: Adam's step count went on through both stages
    assert int(checkpoint["optimizer"]["state"][0]["step"]) == 18
    assert [record["lr"] for record in result.history] == [0.01] * 3 + [0.002] * 3


def test_only_what_the_losses_need_is_computed_in_training(tmp_path):
    asked = []

    def spy(model, batch, compute, create_graph=False):
        asked.append((frozenset(compute), create_graph))
        return tiny_evaluate(model, batch, compute, create_graph)

    recipe = make_recipe((1,))
    recipe = evolve(recipe, stages=(evolve(recipe.stages[0], loss=loss_terms(energy_per_atom=1.0)),))
    run(tmp_path, recipe, evaluate=spy)
    assert {compute for compute, training in asked if training} == {frozenset()}
    # evaluation states the errors of all labels
    assert {compute for compute, training in asked if not training} == {frozenset({"forces"})}


def test_progress_bar_and_time_left(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    run(tmp_path, make_recipe((2,)), console=console)
    text = console.file.getvalue()
    assert "stage1" in text
    assert "6/6" in text


def test_epoch_line_of_the_log(tmp_path, caplog):
    caplog.set_level("INFO")
    run(tmp_path, make_recipe((2,)))
    errors = r"E=[\d.]+ meV/atom, F=[\d.]+ meV/Å, DMA=[\d.]+ me·Å\^l, mu=[\d.]+ me·Å"
    assert re.search(rf"Epoch 2/2 stage1: loss=[\d.]+, {errors}; 0 s left", caplog.text)
