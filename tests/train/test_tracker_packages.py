"""Trackers with their real packages, offline: what they write is read back. Skipped where not installed."""

from __future__ import annotations

import json
import time

import pytest
from test_stages import run
from test_trackers import with_tracker

from lsf.train.trackers import tracking

pytestmark = pytest.mark.filterwarnings("default")  # these packages are not ours to keep free of warnings


def track(recipe, folder):
    from tiny import TinyModel

    model = TinyModel()
    with tracking(recipe, folder) as trackers:
        for tracker in trackers:
            tracker.begin(model)
        return run(folder, recipe, observers=trackers, model=model)


def scalars(folder):
    """Return (step, value) by name from TensorBoard's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_event_files_hold_every_number(tmp_path):
    pytest.importorskip("tensorboard")
    result = track(with_tracker("tensorboard"), tmp_path)
    read = scalars(tmp_path / "tensorboard")
    assert [step for step, _ in read["train/loss"]] == [1, 2, 3]
    # event files hold single precision
    assert [value for _, value in read["train/loss"]] == pytest.approx(
        [record["train_loss"] for record in result.history], rel=1e-6
    )
    assert [step for step, _ in read["valid/rmse/forces"]] == [2, 3]
    ((step, value),) = read["final/test/rmse/energy"]
    assert (step, value) == (result.best_epoch, pytest.approx(result.metrics["test"].errors["energy"].rmse))


def test_a_run_taken_up_replaces_what_it_goes_through_again(tmp_path):
    pytest.importorskip("tensorboard")
    recipe = with_tracker("tensorboard")

    def write(epochs, loss):
        with tracking(recipe, tmp_path) as (tracker,):
            for epoch in epochs:
                tracker({"kind": "train", "epoch": epoch, "loss": loss, "lr": 0.1, "terms": {}})

    write((1, 2, 3), 9.0)
    write((3, 4), 1.0)
    assert scalars(tmp_path / "tensorboard")["train/loss"] == [(1, 9.0), (2, 9.0), (3, 1.0), (4, 1.0)]


def records_of(path):
    """Return the protobuf records that are whole: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts, records = path.read_bytes(), 7, b"", []
    block = 32768
    while place + 7 <= len(content):
        if block - place % block < 7:  # no header fits into the rest of a block
            place += block - place % block
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if place + 7 + size > len(content):
            break
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def finished_records(path):
    """Return the records of a finished run. wandb's service still writes when finish() returns: it is told
    of the end without an answer (wandb.sdk.lib.service.service_connection, inform_finish)."""
    deadline = time.monotonic() + 60
    while not (records := records_of(path)) or not records[-1].HasField("exit"):
        assert time.monotonic() < deadline, f"{path.name} has {len(records)} records and no end"
        time.sleep(0.05)
    return records


def items(entries):
    return {entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


def test_wandb_offline_keeps_history_summary_and_recipe(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    result = track(with_tracker("wandb", project="water", watch="all", watch_log_freq=1), tmp_path)
    assert wandb.run is None, "the run is finished"
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = finished_records(file)
    (begun,) = [record.run for record in records if record.HasField("run")][:1]
    assert (begun.project, begun.display_name) == ("water", "tiny")
    assert items(begun.config.update)["stages"][0]["lr"] == 0.01
    history = [items(record.history.item) for record in records if record.HasField("history")]
    losses = {row["_step"]: row["train/loss"] for row in history if "train/loss" in row}
    assert losses == {record["epoch"]: record["train_loss"] for record in result.history}
    assert [row["_step"] for row in history if "valid/rmse/forces" in row] == [2, 3]
    summary = {}
    for record in records:
        if record.HasField("summary"):
            summary |= items(record.summary.update)
    assert summary["final/valid/rmse/forces"] == result.metrics["valid"].errors["forces"].rmse
