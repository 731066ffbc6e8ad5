"""OpenMM: the force's numbers, dynamics, a field, a part of a system, XML."""

import importlib.util

import numpy as np
import pytest

from lsf.errors import LsfError
from tests.engines.engines import exported, reference, structures, water

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openmm") is None, reason="OpenMM is not installed: pip install 'lsf[openmm]'"
)
EV = 96.48533212331002  # kJ/mol


def system_of(atoms, force, barostat=False):
    """Return a System of the atoms with a force."""
    import openmm as mm

    system = mm.System()
    for mass in atoms.get_masses():
        system.addParticle(float(mass))
    if atoms.pbc.any():
        system.setDefaultPeriodicBoxVectors(*(np.array(atoms.cell) / 10.0))
    system.addForce(force)
    if barostat:
        system.addForce(mm.MonteCarloBarostat(1.0, 100.0, 2))
    return system


def context_of(atoms, system, platform="Reference"):
    import openmm as mm

    integrator = mm.VerletIntegrator(0.00025)
    context = mm.Context(system, integrator, mm.Platform.getPlatformByName(platform))
    context.setPositions(atoms.positions / 10.0)
    return context, integrator


def numbers(context):
    state = context.getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy()._value / EV
    return energy, state.getForces(asNumpy=True)._value / (10.0 * EV)


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize(("name", "boundary"), [("triclinic", "pbc"), ("cluster", "realspace")])
def test_the_force_gives_the_numbers_of_the_model(tmp_path, platform, name, boundary):
    from lsf.engines.openmm import FIELD, lsf_force

    loaded, path = exported(tmp_path, boundary)
    atoms = water(3) if name == "cluster" else structures()[name]
    periodic = bool(atoms.pbc.any())
    system = system_of(atoms, lsf_force(path, atoms.get_chemical_symbols(), periodic))
    context, _ = context_of(atoms, system, platform)
    energy, forces = numbers(context)
    expected = reference(loaded, atoms)
    # the CPU platform sums forces in fixed point, to 1e-10 of its unit
    assert energy == pytest.approx(expected["energy"], abs=1e-9)
    np.testing.assert_allclose(forces, expected["forces"], atol=2e-8)
    context.setParameter(FIELD[2], 0.02)
    energy, forces = numbers(context)
    expected = reference(loaded, atoms, [0.0, 0.0, 0.02])
    assert energy == pytest.approx(expected["energy"], abs=1e-9)
    np.testing.assert_allclose(forces, expected["forces"], atol=2e-8)


def test_positions_are_unwrapped(tmp_path):
    from lsf.engines.openmm import FIELD, lsf_force

    _, path = exported(tmp_path)
    atoms = structures()["ortho"]
    system = system_of(atoms, lsf_force(path, atoms.get_chemical_symbols(), True))
    context, _ = context_of(atoms, system)
    context.setParameter(FIELD[2], 0.02)
    before, _ = numbers(context)
    atoms.positions[3] += np.array(atoms.cell)[2]
    context.setPositions(atoms.positions / 10.0)
    assert numbers(context)[0] == pytest.approx(before, abs=1e-9)


def test_dynamics_with_and_without_a_barostat(tmp_path):
    import openmm as mm

    from lsf.engines.openmm import lsf_force

    _, path = exported(tmp_path)
    atoms = structures()["ortho"]
    for barostat in (False, True):
        system = system_of(atoms, lsf_force(path, atoms.get_chemical_symbols(), True), barostat)
        context, integrator = context_of(atoms, system)
        context.setVelocitiesToTemperature(100.0, 3)
        totals = []
        for steps in (0, 20):
            integrator.step(steps)
            state = context.getState(getEnergy=True)
            totals.append((state.getPotentialEnergy() + state.getKineticEnergy())._value / EV)
        if not barostat:
            # half a step between positions and velocities of the leapfrog; 5 fs
            assert totals[1] == pytest.approx(totals[0], abs=2e-3)
        assert isinstance(context.getState(), mm.State)


def test_a_part_of_a_system_and_a_round_trip_through_xml(tmp_path):
    import openmm as mm

    from lsf.engines.openmm import lsf_force

    loaded, path = exported(tmp_path, "realspace")
    both = water(2)
    force = lsf_force(path, ["O", "H", "H"], False, particles=[3, 4, 5])
    text = mm.XmlSerializer.serialize(system_of(both, force))
    system = mm.XmlSerializer.deserialize(text)
    energy, forces = numbers(context_of(both, system)[0])
    expected = reference(loaded, both[3:])
    assert energy == pytest.approx(expected["energy"], abs=1e-9)
    np.testing.assert_allclose(forces[3:], expected["forces"], atol=1e-9)
    np.testing.assert_array_equal(forces[:3], 0.0)


def test_what_is_refused_before_anything_moves(tmp_path):
    from lsf.engines.openmm import lsf_force

    _, path = exported(tmp_path)
    with pytest.raises(LsfError, match="periodic directions, not 0"):
        lsf_force(path, ["Na", "Cl"], False)
    with pytest.raises(LsfError, match="does not know K"):
        lsf_force(path, ["K"], True)
    with pytest.raises(LsfError, match="total_charge = 1: the model small does not see it"):
        lsf_force(path, ["Na"], True, total_charge=1.0)
    _, path = exported(tmp_path, charges="from_data")
    with pytest.raises(LsfError, match="needs formal_charges, one per particle"):
        lsf_force(path, ["Na"], True)
