"""i-PI: the driver's numbers, and runs of the server."""

import importlib.util
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from ase.io import write

from lsf.errors import LsfError
from tests.engines.engines import exported, reference, structures, water

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ipi") is None, reason="i-PI is not installed: pip install 'lsf[ipi]'"
)


def driver(tmp_path, atoms, path, **options):
    """Return the driver of a structure."""
    from lsf.engines.ipi import LsfDriver

    write(tmp_path / "start.xyz", atoms)
    return LsfDriver(template=str(tmp_path / "start.xyz"), model=str(path), **options)


@pytest.mark.parametrize(("name", "boundary"), [("triclinic", "pbc"), ("slab", "slab")])
def test_the_driver_gives_the_numbers_of_the_model(tmp_path, name, boundary):
    from ipi.utils.units import unit_to_internal, unit_to_user

    loaded, path = exported(tmp_path, boundary)
    atoms = structures()[name]
    made = driver(tmp_path, atoms, path)
    bohr, electronvolt = (
        unit_to_internal("length", "angstrom", 1.0),
        unit_to_user("energy", "electronvolt", 1.0),
    )
    energy, forces, virial, extras = made(np.array(atoms.cell).T * bohr, atoms.positions * bohr)
    expected = reference(loaded, atoms)
    assert energy * electronvolt == pytest.approx(expected["energy"], abs=1e-9)
    # start.xyz holds elements and periodicity alone: positions come with every call
    np.testing.assert_allclose(forces * electronvolt * bohr, expected["forces"], atol=1e-9)
    if "stress" in expected:
        stress = -virial * electronvolt / atoms.get_volume()
        np.testing.assert_allclose(stress, expected["stress"], atol=1e-10)
    extras = json.loads(extras)
    np.testing.assert_allclose(extras["charges"], expected["charges"], atol=1e-10)
    np.testing.assert_allclose(extras["dipole"], expected["dipole"], atol=1e-9)


def energy_of(made, atoms):
    """Return a driver's energy in eV."""
    from ipi.utils.units import unit_to_internal, unit_to_user

    bohr = unit_to_internal("length", "angstrom", 1.0)
    energy, *_ = made(np.array(atoms.cell).T * bohr, atoms.positions * bohr)
    return energy * unit_to_user("energy", "electronvolt", 1.0)


def test_the_field_is_the_physical_one(tmp_path):
    loaded, path = exported(tmp_path)
    atoms = structures()["ortho"]
    fields = {"field_x": "0.02", "field_y": "-0.01", "field_z": "0.1"}
    found = energy_of(driver(tmp_path, atoms, path, unwrapped="true", **fields), atoms)
    expected = reference(loaded, atoms, electric_field=[0.02, -0.01, 0.1])["energy"]
    assert found == pytest.approx(expected, abs=1e-9)
    assert abs(found - reference(loaded, atoms)["energy"]) > 1e-3


def test_formal_charges_are_read_from_the_template_where_the_model_needs_them(tmp_path):
    loaded, path = exported(tmp_path, charges="from_data")
    atoms = structures()["ortho"]
    atoms.arrays["formal_charges"] *= 0.5
    found = energy_of(driver(tmp_path, atoms, path), atoms)
    assert found == pytest.approx(reference(loaded, atoms)["energy"], abs=1e-9)
    del atoms.arrays["formal_charges"]
    with pytest.raises(LsfError, match="needs a column formal_charges"):
        driver(tmp_path, atoms, path)


def test_what_the_driver_refuses(tmp_path):
    _, path = exported(tmp_path)
    atoms = structures()["ortho"]
    with pytest.raises(LsfError, match="needs positions that are not wrapped"):
        driver(tmp_path, atoms, path, field_z="0.1")
    driver(tmp_path, atoms, path, field_z="0.1", unwrapped="true")
    with pytest.raises(LsfError, match=r"total_charge = 1: the model \w+ does not see it"):
        driver(tmp_path, atoms, path, total_charge="1")
    with pytest.raises(LsfError, match=r"total_spin = 2: the model \w+ does not see it"):
        driver(tmp_path, atoms, path, total_spin="2")
    with pytest.raises(LsfError, match="periodic directions, not 0"):
        driver(tmp_path, water(1), path)
    atoms.symbols[0] = "K"
    with pytest.raises(LsfError, match="does not know K"):
        driver(tmp_path, atoms, path)


INPUT = """<simulation verbosity="low">
  <output prefix="run">
    <properties stride="1" filename="out">
      [ step, conserved{electronvolt}, potential{electronvolt} ]</properties>
    <trajectory filename="dipole" stride="1" extra_type="dipole"> extras </trajectory>
  </output>
  <total_steps>4</total_steps>
  <ffsocket name="lsf" mode="unix" pbc="false"><address>ADDRESS</address><latency>1e-3</latency></ffsocket>
  <system>
    <initialize nbeads="BEADS"><file mode="ase" units="angstrom">start.xyz</file>
      <velocities mode="thermal" units="kelvin">100</velocities></initialize>
    <forces><force forcefield="lsf"/></forces>
    <motion mode="dynamics">
      <dynamics mode="nve"><timestep units="femtosecond">0.25</timestep></dynamics></motion>
    <ensemble><temperature units="kelvin">100</temperature></ensemble>
  </system>
</simulation>
"""


@pytest.mark.slow
@pytest.mark.parametrize("beads", [1, 4])
def test_a_run_of_the_server(tmp_path, beads):
    loaded, path = exported(tmp_path)
    atoms = structures()["ortho"]
    write(tmp_path / "start.xyz", atoms)
    address = f"lsf{uuid.uuid4().hex[:8]}"
    (tmp_path / "input.xml").write_text(INPUT.replace("ADDRESS", address).replace("BEADS", str(beads)))
    tools = Path(sys.executable).parent
    file = subprocess.run(
        [sys.executable, "-m", "lsf.engines.ipi"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    server = subprocess.Popen(
        [tools / "i-pi", "input.xml"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        client = [tools / "i-pi-py_driver", "-u", "-a", address, "-m", "custom", "-P", file]
        client += ["-o", f"template={tmp_path / 'start.xyz'},model={path}"]
        for _ in range(100):
            if Path(f"/tmp/ipi_{address}").exists() or server.poll() is not None:
                break
            try:
                server.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        done = subprocess.run(
            client, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        output = server.communicate(timeout=60)[0].decode()
    finally:
        server.kill()
    assert server.returncode == 0, output + done.stderr
    table = np.loadtxt(tmp_path / "run.out")
    # eight decimals of the start file, and the beads start together
    assert table[0, 2] == pytest.approx(reference(loaded, atoms)["energy"], abs=1e-5)
    assert np.ptp(table[:, 1]) < 2e-4
    assert list(tmp_path.glob("run.dipole*"))
