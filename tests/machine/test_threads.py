"""The number of CPU threads of a run."""

import logging

import pytest
import torch

from lsf.machine.threads import SMALL_BATCH, threads_for


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_small_batches_use_one_thread_and_say_so(caplog):
    log = logging.getLogger("lsf.test")
    with caplog.at_level(logging.INFO), threads_for(150.0, log):
        assert torch.get_num_threads() == 1
    assert "one CPU thread, since batches hold 150 atoms only" in caplog.text
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_large_batches_and_a_number_from_the_environment_are_left_alone(monkeypatch):
    log = logging.getLogger("lsf.test")
    with threads_for(SMALL_BATCH, log):
        assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with threads_for(10.0, log):
        assert torch.get_num_threads() == 2
