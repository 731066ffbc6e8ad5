"""Finite differences, symmetries and sums of every model under every boundary method."""

import numpy as np
import pytest
import torch

from lsf.electrostatics.settings import Electrostatics
from lsf.models.derivatives import evaluate
from tests.models.helpers import (
    CHARGES,
    MODELS,
    STRUCTURES,
    batch_of,
    make_model,
    salt_slab,
    triclinic_salt,
    water,
)

FIELD = np.array([0.03, -0.02, 0.05])


def settings_for(boundary, **changes):
    return Electrostatics(boundary=boundary, smearing_width=1.0, **changes)


def with_field(atoms):
    atoms.info["external_field"] = FIELD
    return atoms


def energy_of(atoms, model, settings):
    return float(evaluate(model, batch_of([atoms], model, settings), ())["energy"][0])


@pytest.mark.parametrize("boundary", list(STRUCTURES))
@pytest.mark.parametrize("name", list(MODELS))
def test_forces_are_the_derivative_of_the_energy(name, boundary):
    settings = settings_for(boundary)
    model = make_model(name, settings)
    atoms = with_field(STRUCTURES[boundary]())
    forces = evaluate(model, batch_of([atoms], model, settings))["forces"].numpy()
    rng = np.random.default_rng(0)
    step = 1e-4
    direction = rng.normal(size=forces.shape)
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions += sign * step * direction
        energies.append(energy_of(moved, model, settings))
    slope = (energies[0] - energies[1]) / (2 * step)
    # central difference: error step² · third derivative, about 1e-8 · 10 here
    assert slope == pytest.approx(-float((forces * direction).sum()), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("boundary", ["pbc", "slab", "molecule_in_box", "auto"])
@pytest.mark.parametrize("name", ["LocalCharges", "LocalSplitCharges", "FixedChargeBaselinedMACE", "MACE"])
def test_stress_is_the_strain_derivative_with_ase_sign(name, boundary):
    settings = settings_for(boundary)
    model = make_model(name, settings)
    atoms = with_field(STRUCTURES[boundary]())
    outputs = evaluate(model, batch_of([atoms], model, settings), ("stress", "virial"))
    rng = np.random.default_rng(1)
    shape = rng.normal(size=(3, 3))
    shape = 0.5 * (shape + shape.T)
    if boundary == "slab":
        shape[2], shape[:, 2] = 0.0, 0.0  # only in-plane strain is defined for a slab
        shape[2, 2] = 0.7  # thickness scales with the atoms
    step, energies = 1e-5, []
    for sign in (1, -1):
        strained = atoms.copy()
        strained.set_cell(atoms.cell @ (np.eye(3) + sign * step * shape), scale_atoms=False)
        strained.positions = atoms.positions @ (np.eye(3) + sign * step * shape)
        energies.append(energy_of(strained, model, settings))
    slope = (energies[0] - energies[1]) / (2 * step)
    stress = outputs["stress"][0].numpy()
    # rounding 1e-13 · |E| / step ≈ 1e-6 eV; truncation is smaller
    assert slope == pytest.approx(float((stress * shape).sum()) * atoms.cell.volume, rel=1e-6, abs=2e-5)
    assert np.allclose(outputs["virial"][0].numpy(), -stress * atoms.cell.volume)


@pytest.mark.parametrize("name", ["LocalCharges", "LocalSplitCharges", "FixedChargeBaselinedMACE"])
def test_stress_is_symmetric_in_a_field(name):
    settings = settings_for("pbc")
    model = make_model(name, settings)
    atoms = with_field(triclinic_salt())
    stress = evaluate(model, batch_of([atoms], model, settings), ("stress",))["stress"][0]
    # both halves are the same sum, and a product by 1/V: rounding only
    assert torch.allclose(stress, stress.mT, rtol=0.0, atol=1e-15)
    assert float(stress.abs().max()) > 1e-4
    # a field that stays while the cell turns: the energy does change, and a strain that is not symmetrised
    # would have the slope in its antisymmetric part
    turn = np.array([[0.0, 0.3, -0.8], [-0.3, 0.0, 0.5], [0.8, -0.5, 0.0]])
    step, energies = 1e-4, []
    for sign in (1, -1):
        turned = atoms.copy()
        turned.set_cell(atoms.cell @ (np.eye(3) + sign * step * turn), scale_atoms=True)
        energies.append(energy_of(turned, model, settings))
    assert abs(energies[0] - energies[1]) / (2 * step) > 1e-3  # eV, far above its rounding


@pytest.mark.parametrize("name", list(MODELS))
def test_parts_sum_to_the_energy(name):
    settings = settings_for("realspace")
    model = make_model(name, settings)
    out = evaluate(model, batch_of([with_field(water(2)), water(1)], model, settings), ())
    parts = sum(out[f"energy_{part}"] for part in ("atomic", "short_range", "coulomb", "field"))
    assert torch.allclose(out["energy"], parts, atol=1e-12)
    per_graph = torch.zeros(2, dtype=torch.float64)
    per_graph.index_add_(0, torch.tensor([0] * 6 + [1] * 3), out["node_energy"])
    assert torch.allclose(per_graph, out["energy_atomic"] + out["energy_short_range"], atol=1e-10)
    if name != "MACE":
        assert (out["energy_coulomb"].abs() > 1e-3).all()
        assert float(out["energy_field"][1]) == 0.0


@pytest.mark.parametrize("name", list(MODELS))
def test_rotation_reflection_translation_permutation(name):
    settings = settings_for("realspace")
    model = make_model(name, settings)
    atoms = water(3)
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    order = rng.permutation(len(atoms))
    moved = atoms.copy()
    # neutral overall, so that the dipole does not see the shift
    moved.positions = atoms.positions @ turn.T + rng.normal(size=3)
    moved = moved[order]
    compute = ("forces", "born_charges", "potential")
    before = evaluate(model, batch_of([atoms], model, settings), compute)
    after = evaluate(model, batch_of([moved], model, settings), compute)
    turn = torch.from_numpy(turn)
    assert torch.allclose(after["energy"], before["energy"], atol=1e-10, rtol=0)
    assert torch.allclose(after["forces"], before["forces"][order] @ turn.T, atol=1e-10)
    assert torch.allclose(after["partial_charges"], before["partial_charges"][order], atol=1e-10)
    assert torch.allclose(after["partial_dipoles"], before["partial_dipoles"][order] @ turn.T, atol=1e-10)
    assert torch.allclose(after["potential"], before["potential"][order], atol=1e-10)
    if name != "LocalCharges":  # its total charge is not fixed, so its dipole depends on the origin
        born = torch.einsum("ab,ibc,dc->iad", turn, before["born_charges"][order], turn)
        assert torch.allclose(after["born_charges"], born, atol=1e-10)
        assert torch.allclose(after["dipole"], before["dipole"] @ turn.T, atol=1e-10)
    if "polarizability" in before:
        expected = turn @ before["polarizability"][0] @ turn.T
        assert torch.allclose(after["polarizability"][0], expected, atol=1e-10)
        assert float(expected.abs().max()) > 1e-3


@pytest.mark.parametrize("boundary", ["pbc", "slab"])
@pytest.mark.parametrize("name", ["LocalCharges", "LocalSplitCharges", "FixedChargeBaselinedMACE"])
def test_lattice_translations_and_supercells(name, boundary):
    settings = settings_for(boundary, kspace_cutoff_factor=2.5)
    model = make_model(name, settings)
    atoms = STRUCTURES[boundary]()
    moved = atoms.copy()
    moved.positions[0] += 2 * atoms.cell[0] - atoms.cell[1]
    doubled = atoms.repeat((1, 2, 1))
    out = evaluate(model, batch_of([atoms, moved, doubled], model, settings), ("forces", "potential"))
    n = len(atoms)
    assert float(out["energy"][1] - out["energy"][0]) == pytest.approx(0, abs=1e-9)
    assert torch.allclose(out["forces"][n : 2 * n], out["forces"][:n], atol=1e-9)
    # the two cells have other k-lists: equal to the error of the k cutoff
    assert float(out["energy"][2]) == pytest.approx(2 * float(out["energy"][0]), abs=1e-7)
    assert torch.allclose(out["forces"][2 * n :], out["forces"][:n].repeat(2, 1), atol=1e-7)


def test_batch_equals_one_by_one_for_mixed_boundaries():
    settings = settings_for("auto")
    model = make_model("LocalSplitCharges", settings)
    structures = [water(2), triclinic_salt(), salt_slab(), water(1, seed=5)]
    compute = ("forces", "stress", "potential", "born_charges")
    together = evaluate(model, batch_of(structures, model, settings), compute)
    start = 0
    for index, atoms in enumerate(structures):
        alone = evaluate(model, batch_of([atoms], model, settings), compute)
        part = slice(start, start + len(atoms))
        start += len(atoms)
        assert float(together["energy"][index] - alone["energy"][0]) == pytest.approx(0, abs=1e-10)
        assert torch.allclose(together["stress"][index], alone["stress"][0], atol=1e-11)
        for key in ("forces", "potential", "born_charges", "density_coefficients"):
            assert torch.allclose(together[key][part], alone[key], atol=1e-10)


@pytest.mark.parametrize("name", ["LocalSplitCharges", "LocalSplitCharges-data-product"])
def test_split_charges_conserve_charge_and_polarization_jumps_by_the_formal_charge(name):
    settings = settings_for("pbc")
    model = make_model(name, settings)
    atoms = triclinic_salt()
    moved = atoms.copy()
    moved.positions[3] += atoms.cell[2]
    out = evaluate(model, batch_of([atoms, moved], model, settings), ())
    assert torch.allclose(out["total_charge"], torch.zeros(2, dtype=torch.float64), atol=1e-12)
    jump = (out["dipole"][1] - out["dipole"][0]).numpy()
    assert jump == pytest.approx(CHARGES[atoms.symbols[3]] * np.array(atoms.cell[2]), abs=1e-10)
    transferred = out["partial_charges"][: len(atoms)] - torch.tensor(atoms.arrays["formal_charges"])
    assert float(transferred.abs().max()) > 1e-6


def test_born_charges_are_the_derivative_of_the_polarization_in_index_order():
    settings = settings_for("pbc")
    model = make_model("LocalSplitCharges", settings)
    atoms = triclinic_salt()
    born = evaluate(model, batch_of([atoms], model, settings), ("born_charges",))["born_charges"].numpy()
    step = 1e-5
    for atom, axis in ((0, 1), (5, 2)):
        polarizations = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            polarizations.append(evaluate(model, batch_of([moved], model, settings), ())["dipole"][0].numpy())
        slope = (polarizations[0] - polarizations[1]) / (2 * step)
        assert born[atom, :, axis] == pytest.approx(slope, abs=1e-7)
    # acoustic sum rule: moving everything moves the (zero) total charge
    assert born.sum(0) == pytest.approx(np.zeros((3, 3)), abs=1e-9)


def test_potential_is_the_derivative_of_the_coulomb_energy():
    # fixed charges, so that the potential can be had by changing them
    settings = settings_for("pbc")
    model = make_model("FixedChargeBaselinedMACE", settings)
    atoms = triclinic_salt()
    potential = evaluate(model, batch_of([atoms], model, settings), ("potential",))["potential"]
    energies, step = [], 1e-4
    for sign in (1, -1):
        changed = atoms.copy()
        changed.arrays["formal_charges"][2] += sign * step
        energies.append(float(evaluate(model, batch_of([changed], model, settings), ())["energy_coulomb"][0]))
    # quadratic in the charge: a central difference is exact
    assert float(potential[2]) == pytest.approx((energies[0] - energies[1]) / (2 * step), abs=1e-8)


def test_field_energy_has_the_sign_of_the_convention():
    settings = settings_for("realspace")
    model = make_model("LocalSplitCharges", settings)
    plain = evaluate(model, batch_of([water(1)], model, settings), ())
    field = evaluate(model, batch_of([with_field(water(1))], model, settings), ())
    expected = float((plain["dipole"][0] * torch.from_numpy(FIELD)).sum())
    assert float(field["energy"][0] - plain["energy"][0]) == pytest.approx(expected, abs=1e-10)


def test_hessian_is_the_derivative_of_the_forces():
    settings = settings_for("realspace")
    model = make_model("LocalCharges", settings)
    atoms = water(1)
    hessian = evaluate(model, batch_of([atoms], model, settings), ("hessian",))["hessian"].numpy()
    moved, forces = atoms.copy(), []
    for sign in (1, -1):
        moved.positions = atoms.positions
        moved.positions[1, 2] += sign * 1e-4
        forces.append(evaluate(model, batch_of([moved], model, settings))["forces"].numpy().ravel())
    slope = -(forces[0] - forces[1]) / 2e-4
    assert hessian[5] == pytest.approx(slope, rel=1e-5, abs=1e-5)
    assert hessian == pytest.approx(hessian.T, abs=1e-9)


@pytest.mark.parametrize("name", ["LocalSplitCharges", "LocalCharges"])
def test_energy_is_smooth_where_an_atom_crosses_the_cutoff(name):
    settings = settings_for("realspace")
    model = make_model(name, settings)
    r_max = model.r_max
    energies, forces = [], []
    offsets = np.array([-2e-4, -1e-4, 1e-4, 2e-4])
    for offset in offsets:
        atoms = water(1)
        other = water(1, seed=7)
        other.positions += np.array([r_max + offset, 0, 0]) + atoms.positions[0] - other.positions[0]
        out = evaluate(model, batch_of([atoms + other], model, settings))
        energies.append(float(out["energy"][0]))
        forces.append(float(out["forces"][3, 0]))
    # linear extrapolation from one side meets the other: no jump in energy or force at the cutoff
    slopes = np.diff(energies) / np.diff(offsets)
    assert slopes[0] == pytest.approx(slopes[2], abs=5e-3)
    assert abs(energies[2] - energies[1] - slopes[0] * 2e-4) < 1e-6
    assert abs(forces[2] - forces[1]) < 1e-2 * max(1.0, abs(forces[1]))


@pytest.mark.parametrize("boundary", list(STRUCTURES))
def test_float32_model_keeps_the_coulomb_part_in_float64(boundary):
    settings = settings_for(boundary)
    single = make_model("FixedChargeBaselinedMACE", settings, torch.float32)
    double = make_model("FixedChargeBaselinedMACE", settings, torch.float64)
    atoms = STRUCTURES[boundary]()
    low = evaluate(single, batch_of([atoms], single, settings))
    high = evaluate(double, batch_of([atoms], double, settings))
    assert low["energy"].dtype == torch.float64
    assert torch.equal(low["energy_coulomb"], high["energy_coulomb"])
    assert torch.equal(low["energy_atomic"], high["energy_atomic"])
    # float32 rounding of a short-range energy of some eV
    assert torch.allclose(low["energy"], high["energy"], atol=2e-4)
    scale = float(high["forces"].abs().max())
    assert torch.allclose(low["forces"], high["forces"], atol=2e-5 * max(1.0, scale))


def test_kernels_agree_on_a_whole_model():
    settings = settings_for("pbc")
    native = make_model("LocalSplitCharges", settings)
    reference = make_model("LocalSplitCharges", settings, kernels="e3nn")
    atoms = triclinic_salt()
    ours = evaluate(native, batch_of([atoms], native, settings), ("forces", "stress"))
    theirs = evaluate(reference, batch_of([atoms], reference, settings), ("forces", "stress"))
    for key in ("energy", "forces", "stress", "density_coefficients", "polarizability"):
        assert torch.allclose(ours[key], theirs[key], atol=1e-10)


def test_charge_gradients_reach_every_parameter():
    settings = settings_for("realspace")
    model = make_model("LocalSplitCharges-data-product", settings)
    out = evaluate(model, batch_of([water(2)], model, settings), ("forces",), create_graph=True)
    loss = (out["forces"] ** 2).sum() + (out["density_coefficients"] ** 2).sum() + out["energy"].sum()
    loss.backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # weights of species that do not occur aside, everything takes part
    assert dead == []


def test_unknown_output_and_element_are_named():
    settings = settings_for("realspace")
    model = make_model("MACE", settings)
    batch = batch_of([water(1)], model, settings)
    with pytest.raises(ValueError, match="cannot compute \\['force'\\]"):
        evaluate(model, batch, ("force",))
    batch.atomic_numbers[0] = 7
    with pytest.raises(ValueError, match=r"atomic numbers \[7\]"):
        evaluate(model, batch)
    two = batch_of([water(1), water(1)], model, settings)
    with pytest.raises(ValueError, match="one structure at a time"):
        evaluate(model, two, ("hessian",))
