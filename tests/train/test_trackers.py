"""Trackers: what they are told, with stand-ins for their packages; nothing is sent anywhere."""

import sys
import types

import attrs
import pytest
from test_stages import run
from tiny import make_recipe

from lsf.errors import MissingExtraError
from lsf.recipe.catalog import catalog
from lsf.recipe.schema import Chosen
from lsf.train.trackers import numbers_of, tracking


def with_tracker(use, /, **options):
    recipe = make_recipe((3,), eval_interval=2)
    return attrs.evolve(recipe, trackers={use: Chosen(catalog().options_class("trackers", use)(**options))})


def track(recipe, folder):
    """Train with a recipe's trackers as a run does."""
    with tracking(recipe, folder) as trackers:
        for tracker in trackers:
            tracker.begin("the model")
        return run(folder, recipe, observers=trackers)


class FakeWriter:
    written: list = []  # noqa: RUF012
    closed = 0

    def __init__(self, folder, purge_step):
        self.written.append(("open", folder, purge_step))

    def add_scalar(self, name, value, step):
        self.written.append((name, value, step))

    def close(self):
        FakeWriter.closed += 1


@pytest.fixture
def tensorboard(monkeypatch):
    FakeWriter.written, FakeWriter.closed = [], 0
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = FakeWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return FakeWriter


@pytest.mark.parametrize("folder", [None, "elsewhere"])
def test_tensorboard_gets_every_number_at_its_epoch(tmp_path, tensorboard, folder):
    result = track(with_tracker("tensorboard", folder=folder), tmp_path)
    opened, *numbers = tensorboard.written
    assert opened == ("open", str(tmp_path / "tensorboard") if folder is None else folder, 1)
    losses = [(value, step) for name, value, step in numbers if name == "train/loss"]
    assert losses == [(record["train_loss"], record["epoch"]) for record in result.history]
    forces = [(value, step) for name, value, step in numbers if name == "valid/rmse/forces"]
    assert [step for _, step in forces] == [2, 3]
    assert [value for value, _ in forces] == [
        record["rmse_forces"] for record in result.history if "rmse_forces" in record
    ]
    assert "final/test/mae/energy" in {name for name, _, _ in numbers}
    assert tensorboard.closed == 1


def failing(recipe, folder):
    with tracking(recipe, folder) as trackers:
        trackers[0]({"kind": "train", "epoch": 4, "loss": 1.0, "lr": 0.1, "terms": {}})
        raise RuntimeError("power cut")


def test_trackers_are_closed_when_a_run_fails(tmp_path, tensorboard):
    with pytest.raises(RuntimeError, match="power cut"):
        failing(with_tracker("tensorboard"), tmp_path)
    # a run taken up at epoch 4 replaces what was written from there on
    assert tensorboard.written[0][2] == 4
    assert tensorboard.closed == 1


class FakeRun:
    def __init__(self, settings):
        self.settings, self.logged, self.summary, self.watched, self.finished = settings, [], {}, [], 0

    def log(self, numbers, step):
        self.logged.append((step, numbers))

    def watch(self, model, log, log_freq):
        self.watched.append((model, log, log_freq))

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    module = types.ModuleType("wandb")
    module.runs = []

    def init(**settings):
        module.runs.append(FakeRun(settings))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_recipe_numbers_and_final_errors(tmp_path, wandb):
    recipe = with_tracker("wandb", project="water", entity="group", watch="all", watch_log_freq=7)
    result = track(recipe, tmp_path)
    (sent,) = wandb.runs
    assert sent.settings["project"] == "water"
    assert sent.settings["entity"] == "group"
    assert sent.settings["name"] == "tiny"
    assert sent.settings["dir"] == str(tmp_path)
    assert sent.settings["config"]["stages"][0]["lr"] == 0.01
    assert sent.settings["config"]["trackers"]["wandb"]["watch"] == "all"
    assert sent.watched == [("the model", "all", 7)]
    # train every epoch, valid every second one and at the end
    assert [step for step, _ in sent.logged] == [1, 2, 2, 3, 3]
    assert sent.logged[0][1]["train/loss"] == result.history[0]["train_loss"]
    assert sent.summary["final/valid/rmse/forces"] == result.metrics["valid"].errors["forces"].rmse
    assert sent.finished == 1


def test_wandb_with_a_name_and_a_folder_watches_nothing(tmp_path, wandb):
    track(with_tracker("wandb", name="first", folder="there"), tmp_path)
    assert wandb.runs[0].settings["name"] == "first"
    assert wandb.runs[0].settings["dir"] == "there"
    assert wandb.runs[0].watched == []


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"the tracker {name} needs the package '{name}', .*: pip install 'lsf\[trackers\]'"
    with pytest.raises(MissingExtraError, match=message), tracking(with_tracker(name), tmp_path):
        pass


def test_other_processes_track_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with tracking(with_tracker("wandb"), tmp_path) as trackers:
        assert trackers == []


def test_numbers_without_meaning_are_left_out():
    record = {
        "kind": "train",
        "epoch": 1,
        "loss": float("nan"),
        "lr": 0.1,
        "terms": {"forces": None, "energy": 2.0},
    }
    assert numbers_of(record) == {"train/lr": 0.1, "train/term/energy": 2.0}
    assert numbers_of({"kind": "data", "splits": {}}) == {}
