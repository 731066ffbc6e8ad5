"""Imported models against mace-torch itself, which runs in an environment of its own (``make mace-parity``).

``LSF_MACE_PYTHON`` names the interpreter of that environment; without it these tests are skipped. The
public foundation models cannot be shipped: their settings are reproduced with random weights.
"""

import os
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.compat.mace import make_models
from tests.compat.mace_files import SAMPLES, deviations, imported

PYTHON = os.environ.get("LSF_MACE_PYTHON")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="LSF_MACE_PYTHON names no interpreter with mace-torch"),
]


def heads_of(case):
    return make_models.CASES[case].get("heads", ["Default"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder with weights and predictions of all cases, made by mace-torch."""
    folder = tmp_path_factory.mktemp("mace")
    script = Path(make_models.__file__)
    # absolute, but not resolved: an interpreter of a virtual environment is a link to another one
    command = [str(Path(PYTHON).absolute()), "-W", "ignore", str(script), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize(
    ("case", "head"), [(case, head) for case in make_models.CASES for head in heads_of(case)]
)
def test_energies_forces_and_stresses_agree(case, head, made, tmp_path):
    loaded = imported(made / f"{case}.weights.safetensors", tmp_path / "model.safetensors", head)
    found = deviations(loaded, made / f"{case}.predictions.safetensors", head)
    # a model stored in float32 has its coupling constants rounded to that: 2e-7 eV of 50 eV were measured
    limit = 2e-6 if case == "float32" else 1e-9
    assert found["energy"] < limit
    assert found["forces"] < limit
    assert found["stress"] < limit


@pytest.mark.parametrize("sample", ["sample", "sample_scalars"])
def test_the_stored_samples_are_what_mace_torch_says(sample, made):
    stored = load_file(SAMPLES / f"{sample}.predictions.safetensors")
    again = load_file(made / f"{sample}.predictions.safetensors")
    assert stored.keys() == again.keys()
    assert all(abs(stored[name] - again[name]).max() < 1e-9 for name in stored)
