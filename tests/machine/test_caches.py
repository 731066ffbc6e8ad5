"""Caches never change a result, and one switch turns all of them off."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lsf.errors import LsfError
from lsf.machine import caches

ROOT = Path(__file__).resolve().parents[2]

ENERGY = """
import numpy, torch
from lsf.electrostatics import Electrostatics, PlanCache, coulomb_energy
from lsf.machine import caches
generator = torch.Generator().manual_seed(1)
found, plans = [], PlanCache()
for boundary, pbc in (("pbc", [True] * 3), ("slab", [True, True, False]), ("realspace", [False] * 3)):
    settings = Electrostatics(boundary=boundary, smearing_width=1.0)
    cell = torch.eye(3, dtype=torch.float64)[None] * 11.0
    for step in range(3):
        positions = torch.rand(70, 3, dtype=torch.float64, generator=generator) * 9.0
        coefficients = torch.randn(70, 4, dtype=torch.float64, generator=generator)
        plan = plans(settings, positions.numpy(), cell[0].numpy(), numpy.array(pbc))
        batch = torch.zeros(70, dtype=torch.int64)
        positions.requires_grad_(True)
        energy = coulomb_energy(coefficients, positions, cell, batch, plan, settings)
        forces = torch.autograd.grad(energy.sum(), positions)[0]
        found += [float(energy).hex(), float(forces.abs().sum()).hex()]
print(caches.enabled(), *found)
"""


def test_the_switch_changes_no_result() -> None:
    shown = {}
    for word in ("on", "off"):
        command = [sys.executable, "-c", ENERGY]
        environment = {"LSF_CACHES": word, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        enabled, *shown[word] = result.stdout.split()
        assert enabled == str(word == "on")
    assert len(shown["on"]) == 18
    assert shown["on"] == shown["off"]


def test_a_constant_is_made_once_and_anew_when_switched_off() -> None:
    calls: list[int] = []

    @caches.constant
    def square(x: int) -> int:
        calls.append(x)
        return x * x

    assert (square(3), square(3), calls) == (9, 9, [3])
    with caches.switched_off():
        assert square(3) == 9
    assert calls == [3, 3]


def test_values_belong_to_unchanged_tensors() -> None:
    known: caches.ByIdentity[int] = caches.ByIdentity()
    owner, other = torch.zeros(2), torch.ones(2)
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    assert [known.find(owner, [other], "key", make) for _ in range(2)] == [0, 0]
    assert known.find(owner, [other], "another key", make) == 1
    assert known.find(owner, [other.clone()], "another key", make) == 2
    owner[0] = 1.0  # a change in place
    third = known.find(owner, [other], "another key", make)
    assert third == 3
    assert known.find(owner, [other], "another key", make, serves=lambda value: value != third) == 4
    with caches.switched_off():
        assert known.find(owner, [other], "another key", make) == 5


def test_memory_is_fresh_when_switched_off() -> None:
    like = torch.zeros(1)
    assert caches.kept_scratch("test", like) is caches.kept_scratch("test", like)
    pool = caches.Pool()
    pool.give_back(torch.full((4,), 7.0))
    with caches.switched_off():
        assert caches.kept_scratch("test", like) is not caches.kept_scratch("test", like)
        assert pool.take(like, 4).numel() == 4
    assert pool.take(like, 4).eq(7.0).all()


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(caches.SWITCH, "no")
    with pytest.raises(LsfError, match='LSF_CACHES = \'no\'; expected "on" or "off"'):
        caches.enabled()


def test_there_are_no_other_caches() -> None:
    """Whoever keeps results elsewhere escapes the switch."""
    pattern = re.compile(r"lru_cache|functools\.cache|@cache\b|WeakIdKeyDictionary|WeakKeyDictionary")
    found = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "lsf").rglob("*.py"))
        if path.name != "caches.py" and pattern.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
