"""Weights of mace-torch models become lsf models; here on stored samples, without mace-torch.

The samples (``tests/compat/mace/make_models.py`` made them with mace-torch 0.3.16) have random weights.
"""

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lsf import cli
from lsf.compat.mace_settings import read_mace
from lsf.errors import ModelFileError
from lsf.formats.model_file.file import load_model
from tests.compat.mace_files import SAMPLES, deviations, imported

SAMPLE = SAMPLES / "sample.weights.safetensors"


def main(arguments: list[str]) -> int:
    return cli.main(["import-mace", *arguments])


# Both sides are float64 and add the same terms in another order: 1e-9 eV is far above rounding (1e-13 here)
# and far below anything a wrong factor would do.
@pytest.mark.parametrize(
    ("sample", "head"), [("sample", "dft"), ("sample", "mp2"), ("sample_scalars", "Default")]
)
def test_energies_forces_and_stresses_are_those_of_mace_torch(sample, head, tmp_path):
    weights = SAMPLES / f"{sample}.weights.safetensors"
    loaded = imported(weights, tmp_path / "model.safetensors", head)
    found = deviations(loaded, SAMPLES / f"{sample}.predictions.safetensors", head)
    assert found["energy"] < 1e-9
    assert found["forces"] < 1e-9
    assert found["stress"] < 1e-9


def test_the_script_writes_a_model_file(tmp_path, capsys):
    out = tmp_path / "foundation.safetensors"
    assert main([str(SAMPLE), str(out), "--head", "dft", "--dtype", "float32"]) == 0
    assert "ScaleShiftMACE for H, C, O" in capsys.readouterr().out
    loaded = load_model(out)
    assert loaded.model.dtype == torch.float32
    assert loaded.metadata["training"]["imported_from"] == "mace-torch 0.3.16"
    assert loaded.metadata["training"]["head"] == "dft"
    options = loaded.recipe.model.options
    assert (options.interaction_first, options.interaction) == ("density", "residual")
    assert (options.distance_transform, options.pair_repulsion, options.last_layer) == (
        "agnesi",
        True,
        "scalars",
    )
    assert (options.scale, options.shift, options.avg_num_neighbors) == (0.8, 0.17, 11.3)


def changed(tmp_path, tensors=None, **facts):
    """Write the sample with other settings or weights and return its path."""
    with safe_open(str(SAMPLE), framework="pt") as file:
        stored = json.loads(file.metadata()["mace"])
    for name, value in facts.items():
        holder, (*parts, last) = stored, name.split("__")
        for part in parts:
            holder = holder[int(part) if part.isdigit() else part]
        holder[last] = value
    path = tmp_path / "changed.safetensors"
    save_file({**load_file(SAMPLE), **(tensors or {})}, path, metadata={"mace": json.dumps(stored)})
    return path


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"class": "BOTNet"}, r"class: found BOTNet; expected MACE or ScaleShiftMACE"),
        ({"apply_cutoff": False}, r"apply_cutoff: found False; expected True"),
        ({"radial_type": "ChebychevBasis"}, r"radial_type: found ChebychevBasis; expected BesselBasis or"),
        ({"use_so3": True}, r"use_so3: found True"),
        ({"embedding": "{'total_charge': 1}"}, r"embedding_specs: found .*total_charge"),
        ({"distance_transform": "Other"}, r"distance_transform: found Other"),
        (
            {"interactions__1__class": "RealAgnosticResidualNonLinearInteractionBlock"},
            r"interactions\.1: found",
        ),
        ({"interactions__1__paths": None}, r"interactions\.1: found a converted layer"),
        ({"interactions__1__edge_inputs": "8x0e"}, r"edge_irreps: found 8x0e"),
        ({"interactions__1__avg_num_neighbors": 3.0}, r"avg_num_neighbors: found different values"),
        ({"products__0__correlation": 4}, r"correlation: found 4; expected from 1 to 3"),
        ({"products__0__correlation": None}, r"products\.0: found a converted product"),
        (
            {"products__0__outputs": "4x0e+2x1o"},
            r"hidden_irreps: found '4x0e\+2x1o'; .*same number of channels",
        ),
        ({"products__0__outputs": "2x1o+2x0e"}, r"hidden_irreps: .*degrees rising"),
        ({"readouts": []}, r"use_last_readout_only: found 0 readouts; expected 2"),
        (
            {"readouts__1__class": "NonLinearBiasReadoutBlock"},
            r"readouts\.1: found NonLinearBiasReadoutBlock",
        ),
        ({"readouts__1__gate": {"name": "gelu", "scale": 1.0}}, r"gate: found gelu; expected silu or tanh"),
        ({"max_ell": 5}, r"max_ell: found 5; expected at most 4"),
    ],
)
def test_settings_that_lsf_lacks_are_refused_by_name(facts, message, tmp_path, capsys):
    assert main([str(changed(tmp_path, **facts)), str(tmp_path / "out.safetensors"), "--head", "dft"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "out.safetensors").exists()


def test_trained_radial_functions_are_refused(tmp_path, capsys):
    moved = {"radial_embedding.bessel_fn.bessel_weights": torch.tensor([1.0, 2.0, 3.0, 4.1]).double()}
    assert main([str(changed(tmp_path, moved)), str(tmp_path / "out"), "--head", "dft"]) == 2
    assert "bessel_weights: found trained values" in capsys.readouterr().err


def test_couplings_outside_of_the_equivariant_polynomials_are_refused(tmp_path, capsys):
    name = "products.0.symmetric_contractions.contractions.1.U_matrix_2"
    broken = load_file(SAMPLE)[name].clone()
    broken[0, 0, 0] += 0.1
    path = changed(tmp_path, {name: broken})
    assert main([str(path), str(tmp_path / "out.safetensors"), "--head", "dft"]) == 2
    assert "U_matrix_2: found couplings of which" in capsys.readouterr().err


def test_the_head_has_to_be_named_and_known():
    with pytest.raises(ModelFileError, match="has the heads dft, mp2; choose one with --head"):
        read_mace(SAMPLE)
    with pytest.raises(ModelFileError, match="has no head 'mp3'; did you mean 'mp2'"):
        read_mace(SAMPLE, "mp3")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="there is no such file"):
        read_mace(tmp_path / "missing.safetensors")
    pickle = tmp_path / "mace.model"
    pickle.write_bytes(b"PK not a safetensors file")
    with pytest.raises(ModelFileError, match=r"tools/export_mace_weights\.py"):
        read_mace(pickle)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="not one written by"):
        read_mace(tmp_path / "other.safetensors")
