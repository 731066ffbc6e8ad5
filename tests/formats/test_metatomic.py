"""Files of metatomic: ASE's calculator and i-PI's driver of it give the numbers of the model."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from lsf.errors import ExportError, MissingExtraError
from lsf.formats.write import exporter
from tests.engines.engines import exported, reference, structures, water

has_metatomic = importlib.util.find_spec("metatomic") is not None
needs_metatomic = pytest.mark.skipif(
    not has_metatomic, reason="metatomic is not installed: pip install 'lsf[metatomic]'"
)

# a process of its own: metatensor has to be imported before torch-geometric
SCRIPT = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import torch
torch.set_num_threads(1)
from metatomic.torch import ModelOutput
from metatomic_ase import MetatomicCalculator
from ase import Atoms
path, given, template, route = sys.argv[1:]
found = []
for item in json.load(open(given)):
    atoms = Atoms(item["numbers"], item["positions"], cell=item["cell"], pbc=item["pbc"])
    if route == "ase":
        more = {"charge": ModelOutput(unit="e", sample_kind="atom")}
        atoms.calc = MetatomicCalculator(path, additional_outputs=more, check_consistency=True)
        one = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces().tolist()}
        one["charges"] = atoms.calc.additional_outputs["charge"].block().values.reshape(-1).tolist()
        if all(atoms.pbc):
            one["stress"] = atoms.get_stress(voigt=False).tolist()
    else:
        from ase import units
        from ipi.pes.metatomic import MetatomicDriver
        atoms.write(template)
        driver = MetatomicDriver(template=template, model=path, device="cpu")
        cell = atoms.cell.array.T / units.Bohr
        energy, forces, virial, extras = driver.compute_structure(cell, atoms.positions / units.Bohr)
        one = {"energy": float(energy) * units.Hartree, "forces": None}
        one["forces"] = (forces.reshape(-1, 3) * units.Hartree / units.Bohr).tolist()
    found.append(one)
print(json.dumps(found))
"""


def answers(folder, path, atoms, route):
    """Return what metatomic's own programs find."""
    given = folder / "structures.json"
    keys = {"numbers": "numbers", "positions": "positions", "cell": "cell", "pbc": "pbc"}
    given.write_text(
        json.dumps(
            [{name: np.array(getattr(item, key)).tolist() for name, key in keys.items()} for item in atoms]
        )
    )
    command = [sys.executable, "-c", SCRIPT, str(path), str(given), str(folder / "template.xyz"), route]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@needs_metatomic
@pytest.mark.slow
def test_ase_and_ipi_give_the_numbers_of_the_model(tmp_path):
    loaded, _ = exported(tmp_path, "auto")
    path = tmp_path / "small.metatomic"
    told = exporter("metatomic")(loaded, path)
    assert "largest difference to the model" in told
    molecule = water(2)
    molecule.info.clear()
    atoms = [structures()["triclinic"], structures()["ortho"], molecule]
    for item, found in zip(atoms, answers(tmp_path, path, atoms, "ase"), strict=True):
        expected = reference(loaded, item)
        assert found["energy"] == pytest.approx(expected["energy"], abs=1e-9)
        for name in ("forces", "charges", *(["stress"] if all(item.pbc) else [])):
            np.testing.assert_allclose(found[name], expected[name], rtol=0.0, atol=1e-9)
    if importlib.util.find_spec("ipi") is None:
        return
    (found,) = answers(tmp_path, path, atoms[:1], "ipi")
    expected = reference(loaded, atoms[0])
    # constants of i-PI and ASE differ in the ninth digit
    assert found["energy"] == pytest.approx(expected["energy"], rel=1e-7)
    np.testing.assert_allclose(found["forces"], expected["forces"], atol=1e-6)


@needs_metatomic
@pytest.mark.slow
def test_what_metatomic_has_no_place_for_is_refused(tmp_path):
    loaded, _ = exported(tmp_path, "auto", charges="from_data")
    with pytest.raises(ExportError, match="reads formal charges from data"):
        exporter("metatomic")(loaded, tmp_path / "small.metatomic")
    assert not (tmp_path / "small.metatomic").exists()


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"lsf\[metatomic\]"):
        exporter("metatomic")(None, tmp_path / "small.metatomic")
