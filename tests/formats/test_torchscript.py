"""TorchScript files: the same numbers as the model, alone with torch, and clear when they say no."""

import json
import subprocess
import sys
import tomllib
import zipfile

import numpy as np
import pytest
import torch
from ase import Atoms

import lsf
from lsf import cli
from lsf.electrostatics.boundary import METHODS, kinds_by_periodicity
from lsf.electrostatics.plan.coulomb_plan import plan_structure
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import ExportError, LsfError, ModelFileError
from lsf.formats import verify
from lsf.formats.torchscript.plan import ScriptPlanner
from lsf.formats.torchscript.read import METADATA_FILE, ScriptFile
from lsf.formats.torchscript.write import TorchScriptOptions, export_torchscript
from lsf.formats.write import export_file, exporter
from lsf.machine.torchscript import archive, script
from lsf.models.derivatives import evaluate
from tests import builders
from tests.builders import CHARGES, SALT, SPLIT, small_recipe
from tests.models.helpers import boxed_water, salt_slab, triclinic_salt, water


def model_file(
    folder, boundary="realspace", model="LocalSplitCharges", more="", degree=1, settings="", facts=SALT
):
    """Write a small untrained model; ``more`` and ``settings`` are lines of [model] and [electrostatics]."""
    charges = {} if model in ("LocalCharges", "MACE") else {"formal_charges": CHARGES}
    recipe = small_recipe(
        {"use": model, **charges, **tomllib.loads(more)},
        {"boundary": boundary, "multipoles_max_l": degree, **tomllib.loads(settings)},
        {"total_charge": "total_charge", "total_spin": "total_spin"},
    )
    return builders.model_file(folder, recipe, facts)


def exported(folder, dtype=None, **settings):
    """Write a small model as TorchScript and return both."""
    loaded = lsf.load(model_file(folder, **settings))
    path = folder / "small.pt"
    export_torchscript(loaded, path, TorchScriptOptions(dtype))
    return loaded, path


def batch(loaded, structures, settings=None):
    """Return the graphs of structures."""
    return verify.batch_of(loaded, structures, settings or loaded.recipe.electrostatics)


def expected(loaded, structures, settings=None):
    """Evaluate in Python."""
    graphs = batch(loaded, structures, settings)
    return evaluate(loaded.model, graphs, ("forces", "virial", "stress", "potential"))


def assert_equal(loaded, script, structures, tolerance=1e-11):
    """Compare all outputs; sums are made in another order, which costs some 1e-13 of numbers of order 100."""
    reference = expected(loaded, structures)
    found = script.evaluate(script.inputs(structures), detail=2)
    assert set(found) == set(reference)
    for name, value in reference.items():
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(found[name], value, rtol=0.0, atol=tolerance * scale, msg=name)


CASES = {
    "realspace": lambda: [water(1), water(11, seed=3)],
    "pbc": lambda: [triclinic_salt(4), triclinic_salt(5) * (2, 1, 2)],
    "slab": lambda: [salt_slab(4) * (2, 1, 1)],
    "molecule_in_box": lambda: [boxed_water(), water(4)],
    "mixed_periodic": lambda: [triclinic_salt(4), salt_slab(), boxed_water()],
    "auto": lambda: [salt_slab(), water(3), triclinic_salt(9) * (1, 2, 1)],
}


@pytest.mark.parametrize("boundary", CASES)
def test_the_file_gives_the_numbers_of_the_model(tmp_path, boundary):
    loaded, path = exported(tmp_path, boundary=boundary)
    script = ScriptFile(path)
    structures = CASES[boundary]()
    assert_equal(loaded, script, structures)  # one batch
    for atoms in structures:
        assert_equal(loaded, script, [atoms])


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("LocalCharges", ""),
        ("FixedChargeBaselinedMACE", ""),
        ("MACE", ""),
        ("LocalSplitCharges", 'polarizability = true\noxidation_mixer = "product"'),
        ("LocalSplitCharges", 'transfer = "symmetric"\nhidden_irreps = "3x0e + 3x1o + 3x2e"'),
    ],
)
def test_every_model_leaves_python(tmp_path, model, more):
    loaded, path = exported(tmp_path, boundary="auto", model=model, more=more)
    assert_equal(loaded, ScriptFile(path), [triclinic_salt(4) * (1, 1, 2), water(2)])


def test_quadrupoles_in_open_space_and_in_a_cell(tmp_path):
    more = 'hidden_irreps = "4x0e + 4x1o + 4x2e"'
    loaded = lsf.load(model_file(tmp_path, boundary="auto", more=more, degree=2))
    export_torchscript(loaded, tmp_path / "q.pt", TorchScriptOptions())
    assert_equal(loaded, ScriptFile(tmp_path / "q.pt"), [water(5), triclinic_salt(4), salt_slab()])


def test_single_precision_is_close(tmp_path):
    loaded, path = exported(tmp_path, dtype="float32", boundary="pbc")
    script = ScriptFile(path)
    assert script.metadata["dtype"] == "float32"
    # seven digits in the network, some lost in sums over neighbours
    assert_equal(loaded, script, [triclinic_salt(4) * (2, 1, 1)], tolerance=1e-5)


def test_formal_charges_from_the_frame_and_their_range(tmp_path):
    recipe = small_recipe({**SPLIT, "formal_charges": "from_data", "oxidation_range": [-3.0, 3.0]})
    loaded = lsf.load(builders.model_file(tmp_path, recipe))
    export_torchscript(loaded, tmp_path / "m.pt", TorchScriptOptions())
    script = ScriptFile(tmp_path / "m.pt")
    atoms = water(2)
    atoms.arrays["formal_charges"] = np.linspace(-1.0, 1.2, 6)
    assert_equal(loaded, script, [atoms])
    atoms.arrays["formal_charges"][0] = 3.1
    with pytest.raises(LsfError, match="outside of the range"):
        script.evaluate(script.inputs([atoms]))
    del atoms.arrays["formal_charges"]
    with pytest.raises(LsfError, match="needs the formal charge of every atom"):
        script.evaluate(script.inputs([atoms]))


def test_a_total_charge_that_the_model_sees(tmp_path):
    more = "total_charge_embedding = true\ntotal_spin_embedding = true\nlocalization_width = 0.05"
    loaded = lsf.load(model_file(tmp_path, model="LocalCharges", more=more))
    for parameter in loaded.model.charge_state.parameters():  # zero before training
        torch.nn.init.normal_(parameter)
    export_torchscript(loaded, tmp_path / "small.pt", TorchScriptOptions())
    script = ScriptFile(tmp_path / "small.pt")
    atoms = water(2)
    energies = []
    for charge in (0.0, 1.0):
        atoms.info["total_charge"] = charge
        assert_equal(loaded, script, [atoms])
        energies.append(float(script.evaluate(script.inputs([atoms]))["energy"][0]))
    assert abs(energies[0] - energies[1]) > 1e-3


def test_fields_act_and_forces_follow_the_energy(tmp_path):
    _, path = exported(tmp_path, boundary="realspace")
    script = ScriptFile(path)
    atoms = water(2)
    atoms.info["external_field"] = np.array([0.3, -0.2, 0.1])
    forces = script.evaluate(script.inputs([atoms]))["forces"]
    step, energies = 1.0e-4, []
    for sign in (1.0, -1.0):
        moved = atoms.copy()
        moved.positions[4, 1] += sign * step
        energies.append(float(script.evaluate(script.inputs([moved]), detail=0)["energy"]))
    # error of central differences: third derivatives of some 100 eV/Å³ times step² / 6
    assert float(forces[4, 1]) == pytest.approx(-(energies[0] - energies[1]) / (2.0 * step), abs=1e-6)


@pytest.mark.parametrize(
    ("boundary", "atoms", "message"),
    [
        ("pbc", water(1), "'pbc' of this model cannot treat a structure with 0 periodic directions"),
        ("realspace", triclinic_salt(), "'realspace' of this model cannot treat"),
        ("realspace", Atoms("He"), "atomic number 2"),
    ],
)
def test_structures_that_the_model_cannot_treat(tmp_path, boundary, atoms, message):
    _, path = exported(tmp_path, boundary=boundary)
    script = ScriptFile(path)
    with pytest.raises(LsfError, match=message):
        script.evaluate(script.inputs([atoms]))


def test_lists_are_those_of_python():
    rng = np.random.default_rng(3)
    for correction, atoms in (("exact", salt_slab()), ("dipole", salt_slab()), ("exact", triclinic_salt())):
        settings = Electrostatics(boundary="auto", correction=correction, backend="direct")
        planner = ScriptPlanner(settings, kinds_by_periodicity("auto"))
        atoms.cell[:] = np.array(atoms.cell) * rng.uniform(1.0, 3.0)
        cell, pbc = np.array(atoms.cell), atoms.pbc
        plan = plan_structure(settings, atoms.positions, cell, pbc)
        found = planner(
            torch.tensor(atoms.positions),
            torch.tensor(cell)[None],
            torch.tensor(pbc)[None],
            torch.zeros(len(atoms), dtype=torch.int64),
        )
        for name in found._fields[1:]:
            assert torch.equal(getattr(found, name), getattr(plan, name)), name
    for boundary, method in METHODS.items():
        kinds = kinds_by_periodicity(boundary)
        assert [kind for kind in kinds if kind >= 0]
        for count, kind in enumerate(kinds):
            if kind >= 0:
                assert method(np.arange(3) < count) == kind


def test_the_archive_needs_torch_alone(tmp_path):
    _, path = exported(tmp_path, boundary="realspace")
    code = (
        "import torch, sys, json\n"
        f"extra = {{'metadata.json': ''}}; m = torch.jit.load({str(path)!r}, _extra_files=extra)\n"
        "x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.97], [0.9, 0.0, -0.3]], dtype=torch.float64)\n"
        "e = torch.tensor([[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]])\n"
        "z = torch.zeros(1, 3, dtype=torch.float64); one = torch.zeros(1, dtype=torch.float64)\n"
        "r = m(x, torch.zeros(1, 3, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.bool),\n"
        "      torch.tensor([8, 1, 1]), e, torch.zeros(6, 3, dtype=torch.float64),\n"
        "      torch.zeros(3, dtype=torch.int64), z, torch.zeros(0, dtype=torch.float64), one, one)\n"
        "assert not {'lsf', 'e3nn', 'torch_geometric', 'ase'} & set(sys.modules)\n"
        "print(json.loads(extra['metadata.json'])['cutoff'], float(r['energy']).hex())"
    )
    answer = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    script = ScriptFile(path)
    atoms = Atoms("OHH", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.97], [0.9, 0.0, -0.3]])
    cutoff, energy = answer.stdout.split()
    assert float(cutoff) == 3.5
    found = float(script.evaluate(script.inputs([atoms]))["energy"])
    # another executor may sum in another order
    assert float.fromhex(energy) == pytest.approx(found, abs=1e-10)


def test_a_file_that_disagrees_is_not_written(tmp_path, monkeypatch):
    loaded = lsf.load(model_file(tmp_path))
    (tmp_path / "m.pt").write_text("older")
    monkeypatch.setitem(verify.TOLERANCES, torch.float64, -1.0)
    with pytest.raises(ExportError, match=r"differ by .* expected at most .* nothing was written"):
        export_torchscript(loaded, tmp_path / "m.pt", TorchScriptOptions())
    assert (tmp_path / "m.pt").read_text() == "older"


def test_the_command(tmp_path, capsys):
    path = model_file(tmp_path)
    assert cli.main(["export", str(path), "--format", "torchscript", "--dtype", "float32"]) == 0
    assert "small.pt" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "small.pt") as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(METADATA_FILE)]
        metadata = json.loads(archive.read(name))
    assert metadata["dtype"] == "float32"
    assert metadata["species"] == ["H", "O", "Na", "Cl"]
    assert metadata["verified"]["structures"] >= 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "torchscrip"], "did you mean 'torchscript'"),
        (["--format", "torchscript", "--out", "m.onnx"], r"files of the format torchscript end in .pt"),
        (["--format", "safetensors"], "is the model itself"),
        (["--format", "safetensors", "--dtype", "float32"], "has no option 'dtype'"),
    ],
)
def test_what_the_command_refuses(tmp_path, capsys, arguments, message):
    path = model_file(tmp_path)
    assert cli.main(["export", str(path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_model_file_can_be_written_anew(tmp_path):
    path = model_file(tmp_path)
    new = export_file(path, "safetensors", tmp_path / "new.safetensors", None, cli.terminal())
    assert new.read_bytes() == path.read_bytes()
    with pytest.raises(ExportError, match="no format 'onx'"):
        exporter("onx")


def test_what_is_no_exported_model(tmp_path):
    with pytest.raises(ModelFileError, match="no such model file"):
        ScriptFile(tmp_path / "m.pt")
    (tmp_path / "m.pt").write_text("text")
    with pytest.raises(ModelFileError, match="not a readable TorchScript file"):
        ScriptFile(tmp_path / "m.pt")
    (tmp_path / "m.pt").write_bytes(archive(script(torch.nn.Linear(2, 2)), {}))
    with pytest.raises(ModelFileError, match="not a model exported by lsf"):
        ScriptFile(tmp_path / "m.pt")
