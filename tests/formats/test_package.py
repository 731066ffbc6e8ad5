"""Model files: complete on their own, exact to the last bit, and clear when they cannot be read."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import lsf
from lsf.data.statistics import DataFacts
from lsf.errors import ModelFileError
from lsf.formats.model_file.file import FORMAT_VERSION, HEADER_KEY, load_model, read_header, save_model
from lsf.models.build import build_model
from lsf.models.derivatives import evaluate
from tests.builders import small_recipe
from tests.models.helpers import batch_of, water

FACTS = DataFacts((1, 8), {1: -13.605693, 8: -430.1234567890123}, 7.3, {"train": 4}, {"train": {"frames": 4}})


def small_model(dtype="float64"):
    recipe = small_recipe(dtype=dtype)
    return build_model(recipe, FACTS), recipe


def stored(tmp_path, dtype="float64"):
    model, recipe = small_model(dtype)
    return model, save_model(model, tmp_path / "small.safetensors", recipe, FACTS, {"epoch": "7"})


def energy(model, recipe):
    batch = batch_of([water(2)], model, recipe.electrostatics)
    return float(evaluate(model, batch, ())["energy"][0]).hex()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_another_process_gets_the_same_energy_to_the_last_bit(tmp_path, dtype):
    model, path = stored(tmp_path, dtype)
    _, recipe = small_model(dtype)
    script = (
        "import torch; torch.set_num_threads(1)\n"
        "import lsf; from tests.formats.test_package import energy\n"
        f"loaded = lsf.load({str(path)!r}); print(energy(loaded.model, loaded.recipe))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == energy(model, recipe)


def test_the_header_says_what_a_reader_needs(tmp_path):
    _, path = stored(tmp_path)
    header = read_header(path)
    assert header["format_version"] == FORMAT_VERSION
    assert header["species"] == ["H", "O"]
    assert header["cutoff"] == 3.5
    assert header["boundary"] == "realspace"
    assert header["units"]["dipole"] == "e·Å"
    assert header["training"] == {"epoch": "7"}
    loaded = lsf.load(path)
    assert loaded.facts == FACTS
    assert loaded.recipe.model.options.formal_charges["O"] == -2.0
    # weights only: constants of the architecture are computed again
    with safe_open(str(path), framework="pt") as file:
        names = set(file.keys())
    assert not [name for name in names if "coupling" in name or "table" in name]


def test_a_missing_file_names_its_neighbour(tmp_path):
    stored(tmp_path)
    with pytest.raises(ModelFileError, match=r"no such model file; did you mean 'small\.safetensors'"):
        lsf.load(tmp_path / "smal.safetensors")


def test_what_is_not_a_model_is_refused(tmp_path):
    text = tmp_path / "text.safetensors"
    text.write_text("not tensors at all")
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        load_model(text)
    save_file({"a": torch.zeros(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ModelFileError, match="not a model written by lsf"):
        load_model(tmp_path / "other.safetensors")


def rewritten(path, change):
    """Write a model file anew with a changed header and tensors."""
    with safe_open(str(path), framework="pt") as file:
        header = json.loads(file.metadata()[HEADER_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, str(path), metadata={HEADER_KEY: json.dumps(header)})
    return path


def test_missing_weights_are_named(tmp_path):
    _, path = stored(tmp_path)
    rewritten(path, lambda _, tensors: tensors.pop("readout.out"))
    with pytest.raises(ModelFileError, match=r"(?s)do not fit the stored recipe.*readout\.out"):
        lsf.load(path)


def test_a_truncated_file_is_refused(tmp_path):
    _, path = stored(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        lsf.load(path)


def test_show_names_the_elements(tmp_path, capsys):
    from lsf.cli import main

    _, path = stored(tmp_path)
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "H -13.6057 eV, O -430.123 eV" in shown
    assert "LocalSplitCharges" in shown
