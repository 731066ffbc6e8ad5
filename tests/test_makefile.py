"""The two commands and the versions they install."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def test_every_package_that_is_asked_for_is_pinned_within_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = project["optional-dependencies"]
    # what CI installs
    installed = ("test", "gpu", "trackers", "lammps", "ipi", "openmm", "torchsim", "onnx", "metatomic")
    wanted = [*project["dependencies"], *(item for extra in installed for item in extras[extra])]
    for requirement in map(Requirement, wanted):
        assert requirement.name in pins, f"constraints.txt has no pin for {requirement.name}"
        assert requirement.specifier.contains(pins[requirement.name]), requirement
    assert set(pins) == {Requirement(text).name for text in wanted}


@needs_make
def test_make_says_what_to_install_when_no_python_is_new_enough(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "make", "cat"):
        (tools / tool).symlink_to(shutil.which(tool))
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        [shutil.which("make"), "demo", f"VENV={tmp_path / 'env'}", "PYTHON="],
        cwd=ROOT,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "lsf needs Python 3.11 or newer" in done.stderr
    assert "make demo PYTHON=/path/to/python" in done.stderr
    assert not (tmp_path / "env").exists()


@needs_make
def test_make_alone_lists_the_commands():
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for command in ("make demo", "make test", "make test-all", "make wheel-test", "make mace-parity"):
        assert command in shown
