"""Compiled packages: the same numbers as the model, and clear when they say no."""

import json
import zipfile

import numpy as np
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError

import lsf
from lsf.engines.ase.compiled import CompiledCalculator
from lsf.errors import ExportError, LsfError, ModelFileError
from lsf.formats.aoti import write as aoti
from lsf.formats.aoti.read import METADATA_FILE, PackageFile, read_metadata
from lsf.formats.aoti.write import AotiOptions, export_aoti
from lsf.formats.write import exporter
from lsf.machine import compilers
from tests.formats.test_torchscript import batch, expected, model_file
from tests.models.helpers import salt_slab, triclinic_salt, water


def test_without_a_compiler_nothing_is_done(tmp_path, monkeypatch):
    loaded = lsf.load(model_file(tmp_path, more="num_interactions = 1"))
    monkeypatch.setattr(compilers.shutil, "which", lambda _: None)
    with pytest.raises(
        LsfError, match=r"the format aoti needs a C\+\+ compiler and found none: install g\+\+"
    ):
        exporter("aoti")(loaded, tmp_path / "small.pt2")
    assert not (tmp_path / "small.pt2").exists()


def test_what_cannot_be_compiled_is_said(tmp_path, monkeypatch):
    loaded = lsf.load(model_file(tmp_path, more="num_interactions = 1"))

    def refuse(*_, **__):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(aoti, "recorded", lambda *_, **__: _graph())
    monkeypatch.setattr(torch.export, "export", refuse)
    with pytest.raises(ExportError, match=r"cannot be compiled \(RuntimeError: no such operation\)"):
        export_aoti(loaded, tmp_path / "small.pt2", AotiOptions())
    assert not (tmp_path / "small.pt2").exists()


def _graph():
    from lsf.formats.graph import FlatGraph

    module = torch.fx.symbolic_trace(torch.nn.Identity())
    return FlatGraph(module, ("positions",), ("energy",), (torch.zeros(4, 3),))


def package(path, metadata, name=METADATA_FILE):
    """Write an archive with metadata and no code."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"small/{name}", json.dumps(metadata))
    return path


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "other"}, "a package, but not a model exported by lsf"),
        ({"format": "lsf-aoti", "format_version": 99, "lsf_version": "9"}, "in format 99; .* update lsf"),
        (
            {"format": "lsf-aoti", "format_version": 1, "lsf_version": "0.1"},
            "of format 1, by lsf 0.1; .* export the model again",
        ),
    ],
)
def test_foreign_older_and_newer_packages_are_refused(tmp_path, metadata, message):
    with pytest.raises(ModelFileError, match=message):
        read_metadata(package(tmp_path / "small.pt2", metadata))


def test_missing_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="there is no such model file"):
        PackageFile(tmp_path / "none.pt2")
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(ModelFileError, match="not a readable package"):
        PackageFile(tmp_path / "text.pt2")
    with pytest.raises(LsfError, match="compute on the CPU"):
        PackageFile(tmp_path / "none.pt2", device="cuda")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A package of a small model and that model."""
    folder = tmp_path_factory.mktemp("aoti")
    more = "num_interactions = 2\ncorrelation = 1\ntotal_charge_embedding = true\nlocalization_width = 0.05"
    loaded = lsf.load(model_file(folder, boundary="auto", more=more, settings='backend = "mesh"'))
    told = export_aoti(loaded, folder / "small.pt2", AotiOptions())
    return loaded, folder / "small.pt2", told


@pytest.mark.slow
def test_a_package_gives_the_numbers_of_the_model(written):
    loaded, path, told = written
    assert told.startswith("agrees with the model on")
    file = PackageFile(path)
    assert file.metadata["verified"]["structures"] > 8
    mixed = [salt_slab(2), triclinic_salt(4), water(3)]
    mixed[2].info["total_charge"] = 1.0
    for structures in (mixed, [triclinic_salt(5) * (2, 1, 2)], [water(1)[[0]]]):
        found, reference = file.model(batch(loaded, structures)), expected(loaded, structures)
        assert set(found) == set(reference)
        for name, value in reference.items():
            scale = max(1.0, float(value.abs().max()))
            torch.testing.assert_close(found[name], value, rtol=0.0, atol=1e-10 * scale, msg=name)


@pytest.mark.slow
def test_sums_in_a_package_are_torchs(written):
    _, path, _ = written
    with zipfile.ZipFile(path) as archive:
        sources = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".cpp")]
    assert any("aoti_torch_index_put_out" in source for source in sources)
    # TorchInductor's atomic additions may write outside of their array
    assert not any("atomic_add" in source for source in sources)


@pytest.mark.slow
def test_the_calculator_of_a_package(written):
    loaded, path, _ = written
    calculator, reference = CompiledCalculator(path), loaded.ase_calculator()
    for atoms in (triclinic_salt(4), water(3)):
        for name in ("energy", "forces", "energies", "charges", "dipole"):
            found = np.array(calculator.get_property(name, atoms))
            assert np.allclose(found, reference.get_property(name, atoms), rtol=0.0, atol=1e-9), name
    atoms = triclinic_salt(4)
    assert np.allclose(calculator.get_stress(atoms), reference.get_stress(atoms), rtol=0.0, atol=1e-10)
    (many,) = calculator.evaluate_many([atoms])
    assert many["energy"] == pytest.approx(calculator.get_potential_energy(atoms), abs=1e-9)
    with pytest.raises(PropertyNotImplementedError, match="hold first derivatives"):
        calculator.get_property("hessian", atoms)
    with pytest.raises(LsfError, match="hold first derivatives"):
        calculator.evaluate_many([atoms], ("born_charges",))
