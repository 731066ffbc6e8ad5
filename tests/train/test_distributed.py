"""Two processes over Gloo: the loss, the weights and the files of one process with the same batches."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from test_real_model import SMALL
from test_stages import run
from tiny import load_fake, make_graph, make_graphs, make_recipe, make_splits

from lsf.errors import LsfError
from lsf.options import Component
from lsf.recipe.catalog import catalog, own_folder
from lsf.train.loop import distributed
from lsf.train.loop.distributed import ALONE, Group, device_of_process, is_main_process, world_of

PLATEAU = Component("plateau", catalog().options_class("schedulers", "plateau")(factor=0.5, patience=0))


def scenarios():
    """Return recipes and frames: uneven labels, left-over frames, one frame for two processes, schedules."""
    uneven = make_splits()
    # one process of a batch may hold no forces at all: the counts must be those of the whole batch
    uneven.train = [
        make_graph(i, 2 + i % 4, ("energy", "dipole", "atomic_multipoles") + (("forces",) if i % 3 else ()))
        for i in range(11)
    ]
    single = make_splits()
    single.train, single.valid = make_graphs(3), make_graphs(1, first=100)
    return {
        "uneven": (make_recipe((4, 3), clip_grad=5.0), uneven),
        "single": (make_recipe((3,), "schedulefree", scheduler=PLATEAU), single),
        "impatient": (make_recipe((20,), ema_decay=None, patience=2, scheduler=PLATEAU), make_splits()),
    }


SCRIPT = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from test_distributed import scenarios
    from test_stages import StopAfter, run
    from tiny import TinyModel, make_recipe, make_splits, tiny_evaluate
    from lsf.train.loop.distributed import world_of
    from lsf.train.loop.interrupt import TrainingInterrupted

    class SignalAfter(StopAfter):
        def __call__(self, *args, **kwargs):
            self.calls -= 1
            if self.calls == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return tiny_evaluate(*args, **kwargs)

    folder = Path(sys.argv[1])
    with world_of(torch.device("cpu")) as world:
        for name, (recipe, splits) in scenarios().items():
            # another seed: the first process's weights count
            model = TinyModel(seed=0 if world.main else 7)
            result = run(folder / name, recipe, splits, model=model, world=world)
            weights = [weight.detach() for weight in result.model.parameters()]
            torch.save(weights, folder / f"{name}_{world.rank}.pt")
        recipe, splits = scenarios()["uneven"]
        try:
            cut = StopAfter(14, RuntimeError("power cut"))
            run(folder / "cut", recipe, splits, world=world, evaluate=cut)
        except RuntimeError:
            pass
        world.any(False)
        run(folder / "cut", recipe, splits, model=TinyModel(seed=99), world=world)
        try:
            # only the second process is told to stop
            stop = SignalAfter(7 if world.rank == 1 else -1, None)
            run(folder / "stopped", make_recipe((6, 6)), make_splits(), evaluate=stop, world=world)
        except TrainingInterrupted as error:
            (folder / f"message_{world.rank}").write_text(str(error))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_processes(folder):
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder)],
            cwd=Path(__file__).parent,
            env={
                **os.environ,
                "WORLD_SIZE": "2",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Return the folder two processes have left."""
    folder = tmp_path_factory.mktemp("together")
    processes = start_processes(folder)
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return folder


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_numbers(one, other, tolerance=1e-10):
    """Compare records: sums over two processes round differently, and training carries that on."""
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        assert (first["kind"], first["epoch"], first["lr"]) == (second["kind"], second["epoch"], second["lr"])
        for key in ("loss", "rmse", "mae", "terms"):
            if isinstance(first.get(key), (float, dict)):
                assert first[key] == pytest.approx(second[key], rel=tolerance, abs=1e-12), key


@pytest.mark.parametrize("name", ["uneven", "single", "impatient"])
def test_two_processes_train_as_one(tmp_path, together, name):
    recipe, splits = scenarios()[name]
    alone = run(tmp_path, recipe, splits)
    assert_same_numbers(lines_of(tmp_path), lines_of(together / name))
    weights = [torch.load(together / f"{name}_{rank}.pt", weights_only=True) for rank in range(2)]
    for own, first, second in zip(alone.model.parameters(), *weights, strict=True):
        assert torch.equal(first, second)
        # the requirement: 1e-10 in float64
        assert torch.allclose(own, first, rtol=1e-10, atol=1e-10)


def test_only_the_first_process_writes_files(tmp_path, together):
    recipe, splits = scenarios()["uneven"]
    run(tmp_path, recipe, splits)
    names = [
        sorted(str(path.relative_to(top)) for path in top.rglob("*"))
        for top in (tmp_path, together / "uneven")
    ]
    assert names[0] == names[1]


def test_resume_of_two_processes_is_exact(together):
    assert [line | {"seconds": 0} for line in lines_of(together / "cut")] == [
        line | {"seconds": 0} for line in lines_of(together / "uneven")
    ]
    weights = [load_fake(together / name / "tiny.safetensors")[0] for name in ("cut", "uneven")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_signal_to_one_process_stops_all(together):
    texts = [(together / f"message_{rank}").read_text() for rank in range(2)]
    assert "stopped by another process after epoch" in texts[0]
    assert "stopped by SIGTERM after epoch" in texts[1]
    assert texts[0].split(" after ")[1] == texts[1].split(" after ")[1]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_shares_are_a_partition_and_the_first_is_not_empty(size, count):
    shares = [list(Group(rank, size, torch.device("cpu")).share(range(count))) for rank in range(size)]
    assert [item for share in shares for item in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert len(shares[0]) == max(map(len, shares))


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with world_of(torch.device("cpu")) as world:
        assert world is ALONE
    assert is_main_process()


def test_an_environment_that_is_not_torchruns(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(
            LsfError, match="WORLD_SIZE = 2 without RANK, MASTER_ADDR, MASTER_PORT in the environment"
        ),
        world_of(torch.device("cpu")),
    ):
        pass


def test_every_process_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        LsfError, match="process 2 on this machine finds no GPU of its own, there are 1: start fewer"
    ):
        device_of_process(torch.device("cuda"))
    assert device_of_process(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 2)
    assert device_of_process(torch.device("cuda")) == torch.device("cuda", 1)


@pytest.mark.slow
def test_torchrun_trains_a_recipe_as_one_process_does(tmp_path):
    recipe = own_folder("recipes") / "water_split.toml"
    small = [
        *SMALL,
        "stages.0.epochs=1",
        "stages.1.epochs=1",
        "dtype=float64",  # sums of single precision depend on what shares a batch
        "device=cpu",
        "data.test=none",
        "training.batch_size=1000",
    ]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, start in (("one", [sys.executable]), ("two", torchrun)):
        command = [*start, "-m", "lsf", "run", str(recipe), "--out", str(tmp_path / name), "--set", *small]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550)
        assert done.returncode == 0, done.stderr
        # one process speaks
        assert done.stdout.count("report  ") == 1
    one, two = lines_of(tmp_path / "one"), lines_of(tmp_path / "two")
    # the whole set is one batch: this is its loss before any step
    assert one[0]["loss"] == pytest.approx(two[0]["loss"], rel=1e-10)
    # Adam divides gradients by their size, rounding errors of small ones included: the order of the frames
    # in the batches of one process changes later losses by some 1e-9 as well
    assert_same_numbers(one, two, 1e-6)
    assert (tmp_path / "two" / "log.txt").read_text().count("Epoch 1/2") == 1
