"""Model files of all formats there have been, and the steps that bring older ones to the present format."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import lsf
from lsf.errors import ModelFileError
from lsf.formats.model_file import file as package
from lsf.formats.model_file import upgrades
from lsf.formats.model_file.file import HEADER_KEY, read_header
from lsf.formats.model_file.upgrades import FORMAT_VERSION, UPGRADES, Upgrade
from tests.formats.make_samples import FOLDER, MODELS, results
from tests.formats.test_package import rewritten, stored

SAMPLES = sorted(FOLDER.glob("*.safetensors"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_samples_give_the_numbers_stored_beside_them(sample):
    found, expected = results(sample), json.loads(sample.with_suffix(".json").read_text())
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        for one, other in zip(found[name], values, strict=True):
            # later versions may add up in another order; energies are some 1000 eV
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-10, err_msg=name)


def test_there_is_a_sample_of_every_format_and_a_step_from_every_older_one():
    expected = {f"format_{version}_{name}" for version in range(1, FORMAT_VERSION + 1) for name in MODELS}
    assert {path.stem for path in SAMPLES} == expected
    assert set(UPGRADES) == set(range(1, FORMAT_VERSION))


def test_steps_change_header_and_weights_one_after_the_other(tmp_path, monkeypatch):
    model, path = stored(tmp_path)
    name = next(iter(model.state_dict()))

    def older(header, tensors):
        header["elements"] = header.pop("species")
        header["format_version"] = 1
        tensors["oldest"] = tensors.pop(name) * 2.0

    rewritten(path, older)
    with pytest.raises(ModelFileError, match="oldest"):
        lsf.load(path)

    def renamed(header):
        return {key if key != "elements" else "symbols": value for key, value in header.items()}

    def again(header):
        return {key if key != "symbols" else "species": value for key, value in header.items()}

    steps = {
        1: Upgrade(renamed, lambda tensors: {**tensors, "older": tensors["oldest"]}),
        2: Upgrade(tensors=lambda tensors: {k: v for k, v in tensors.items() if k != "oldest"}),
        3: Upgrade(again, lambda tensors: {k.replace("older", name): v for k, v in tensors.items()}),
    }
    monkeypatch.setattr(upgrades, "UPGRADES", steps)
    for module in (upgrades, package):
        monkeypatch.setattr(module, "FORMAT_VERSION", 4)
    assert read_header(path)["species"] == ["H", "O"]
    assert read_header(path)["format_version"] == 4
    loaded = lsf.load(path)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value * (2.0 if key == name else 1.0))


@pytest.mark.parametrize("version", [None, "1", 0, True])
def test_a_format_that_is_no_number_is_damage(tmp_path, version):
    _, path = stored(tmp_path)
    rewritten(path, lambda header, _: header.update(format_version=version))
    with pytest.raises(ModelFileError, match=r"damaged: format_version is .*expected a number from 1"):
        lsf.load(path)


def test_a_newer_format_is_one_clear_error(tmp_path):
    _, path = stored(tmp_path)
    rewritten(path, lambda header, _: header.update(format_version=FORMAT_VERSION + 3, lsf_version="9.0"))
    message = f"written by lsf 9.0 in format {FORMAT_VERSION + 3}; this lsf .* reads formats up to"
    for read in (read_header, lsf.load):
        with pytest.raises(ModelFileError, match=message):
            read(path)


def test_a_header_that_is_no_json_is_damage(tmp_path):
    _, path = stored(tmp_path)
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, str(path), metadata={HEADER_KEY: "{"})
    with pytest.raises(ModelFileError, match="header is not JSON"):
        lsf.load(path)


@pytest.mark.parametrize(
    ("boundary", "said"), [("mixed_periodic", True), ("molecule_in_box", True), ("auto", False)]
)
def test_older_models_with_boxes_say_that_molecules_without_a_cell_have_none(tmp_path, boundary, said):
    _, path = stored(tmp_path)
    rewritten(path, lambda header, _: header.update(format_version=1, boundary=boundary))
    if said:
        with pytest.warns(
            UserWarning, match="small.safetensors: the model was trained .* now summed in open space"
        ):
            lsf.load(path)
    else:
        lsf.load(path)
