"""The two commands and the versions they install."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import lsf

ROOT = Path(__file__).resolve().parents[1]


def workflow(job):
    return yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"][job]


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


def test_the_workflow_tests_the_lowest_and_newest_torch_of_the_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (torch,) = (Requirement(text) for text in project["dependencies"] if Requirement(text).name == "torch")
    matrix = workflow("torch")["strategy"]["matrix"]
    lowest, newest = (Version(item["torch"]) for item in matrix["include"])
    bounds = {item.operator: Version(item.version) for item in torch.specifier}
    assert lowest in torch.specifier
    assert newest in torch.specifier
    assert lowest.release[:2] == bounds[">="].release
    assert (newest.major, newest.minor + 1) == bounds["<"].release


def test_the_workflow_and_the_classifiers_name_the_same_versions_of_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [text.removeprefix("Programming Language :: Python :: ") for text in project["classifiers"]]
    assert workflow("fast")["strategy"]["matrix"]["python"] == [text for text in named if "3." in text]


def test_the_workflow_calls_the_targets_of_the_local_run():
    steps = [step["run"] for job in ("fast", "all") for step in workflow(job)["steps"] if "run" in step]
    local = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [step.split()[1] for step in steps] == [
        line.split()[1] for line in local if line.startswith("make ")
    ]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == lsf.__version__
    assert citation["license"] == "MIT"
