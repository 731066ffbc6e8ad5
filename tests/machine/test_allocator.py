"""Memory settings of a run; in processes of their own, since they cannot be taken back."""

import platform
import subprocess
import sys

import pytest

from lsf.engines.openmm import LsfEnergy
from lsf.formats.torchscript.read import ScriptFile
from lsf.machine import allocator
from lsf.machine.allocator import keep_freed_memory
from tests.engines.engines import exported

GLIBC = platform.libc_ver()[0] == "glibc"

PROGRAM = """
import resource, sys
from lsf.machine.allocator import keep_freed_memory
import numpy as np
said = keep_freed_memory({})
def use():
    for _ in range(20):
        np.ones(4_000_000)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, said)
"""


@pytest.mark.skipif(not GLIBC, reason="the settings are glibc's")
def test_freed_memory_is_used_again():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    faults, said = run.stdout.split(" ", 1)
    # 20 arrays of 32 MB are 160 000 pages of 4 kB when each is mapped afresh
    assert int(faults) < 1000
    assert "LSF_ALLOCATOR=system undoes it" in said


def test_simulations_say_it_once(caplog, monkeypatch):
    said = iter(["kept", "kept again"])
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: next(said))
    allocator.keep_freed_memory_in_simulations.cache_clear()
    with caplog.at_level("INFO", "lsf"):
        allocator.keep_freed_memory_in_simulations()
        allocator.keep_freed_memory_in_simulations()
    assert caplog.messages == ["kept"]


def test_a_simulation_changes_the_allocator_and_reading_a_file_does_not(tmp_path, monkeypatch):
    _, path = exported(tmp_path, "realspace")
    calls = []
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: calls.append("kept"))
    allocator.keep_freed_memory_in_simulations.cache_clear()
    ScriptFile(path)
    assert not calls
    LsfEnergy(path, ["O", "H", "H"], periodic=False)
    assert calls == ["kept"]
    allocator.keep_freed_memory_in_simulations.cache_clear()


@pytest.mark.parametrize(
    "environment",
    [{"LSF_ALLOCATOR": "system"}, {"MALLOC_TOP_PAD_": "1"}, {"LD_PRELOAD": "libjemalloc.so"}],
    ids=str,
)
def test_what_the_user_has_set_is_left_alone(environment):
    assert keep_freed_memory(environment) is None


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory({}) is None
