"""The slab method: any normal, no dependence on vacuum or third vector, thick and thin, charged or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from structures import TRICLINIC, derivatives, energy, random_structure

from lsf.electrostatics import slab as layer
from lsf.electrostatics.plan import coulomb_plan
from lsf.electrostatics.settings import Electrostatics

CONVERGED = Electrostatics(boundary="slab", smearing_width=1.0, kspace_cutoff_factor=3.0)
# Gaussians of neighbouring images overlap by erfc(5) = 2e-12, times energies of order 10 eV
OVERLAP = 1.0e-9


def converged(degree: int) -> Electrostatics:
    return Electrostatics(
        boundary="slab", multipoles_max_l=degree, smearing_width=1.0, kspace_cutoff_factor=3.0
    )


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_internal_length_does_not_matter(axis: int, degree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Net charge included: k-sum, charge terms and layer term together give one number."""
    pbc = tuple(i != axis for i in range(3))
    structure = random_structure(axis, 6, TRICLINIC, pbc, degree)
    reference = derivatives(structure, converged(degree))
    for gap in (11.0, 14.0, 23.0):
        monkeypatch.setattr(coulomb_plan, "SLAB_GAP", gap)
        other = derivatives(structure, converged(degree))
        for found, expected in zip(other, reference, strict=True):
            torch.testing.assert_close(found, expected, rtol=0.0, atol=10 * OVERLAP)


def test_third_vector_does_not_matter() -> None:
    structure = random_structure(0, 6, TRICLINIC, (True, True, False), 1)
    reference = energy(structure, CONVERGED)
    for third in ([0.0, 0.0, 0.0], [3.0, 9.0, 20.0], [0.5, 0.0, -7.0]):
        cell = structure.cell.clone()
        cell[2] = torch.tensor(third, dtype=torch.float64)
        # the same lists, the same numbers: only rounding
        found = energy(structure._replace(cell=cell), CONVERGED)
        torch.testing.assert_close(found, reference, rtol=0.0, atol=1e-11)


def test_rows_may_stand_in_any_order() -> None:
    """The same slab with its normal as first, second or third row."""
    structure = random_structure(0, 6, TRICLINIC, (True, True, False), 1)
    reference = energy(structure, CONVERGED)
    for order in ([2, 0, 1], [0, 2, 1], [1, 0, 2], [1, 2, 0]):
        pbc = tuple(structure.pbc[i] for i in order)
        found = energy(structure._replace(cell=structure.cell[order], pbc=pbc), CONVERGED)
        torch.testing.assert_close(found, reference, rtol=0.0, atol=1e-11)


def test_wide_and_thick_slabs_stay_finite_and_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the dipole formula alone fails (wide cells) and naive exponentials overflow (thick slabs)."""
    wide = random_structure(1, 5, np.diag([40.0, 35.0, 20.0]), (True, True, False), 1)
    stack = random_structure(2, 8, np.diag([4.0, 4.5, 1.0]), (True, True, False), 1, size=4.0)
    thick = stack._replace(positions=stack.positions * torch.tensor([1.0, 1.0, 300.0], dtype=torch.float64))
    chosen = Electrostatics(boundary="slab", smearing_width=1.5, kspace_cutoff_factor=2.2)
    for structure in (wide, thick):
        reference = energy(structure, chosen)
        assert torch.isfinite(reference)
        with monkeypatch.context() as patch:
            patch.setattr(coulomb_plan, "SLAB_GAP", 13.0)
            # charged slab 1200 Å thick: terms of 1e5 eV cancel, 1e-16 of which is 1e-11
            torch.testing.assert_close(energy(structure, chosen), reference, rtol=1e-9, atol=1e-9)


def test_field_of_a_charged_plate() -> None:
    """A test charge far above a plate of charge Q feels 2π k_e Q q / A: no vacuum is felt."""
    cell = np.diag([5.0, 5.0, 10.0])
    structure = random_structure(0, 2, cell, (True, True, False), 0)
    structure.coefficients[:, 0] = torch.tensor([1.0, 0.25])
    structure.positions[:] = torch.tensor([[1.0, 1.0, 0.0], [2.0, 3.0, 60.0]])
    found = derivatives(structure, Electrostatics("slab", 0, 1.0, 3.0)).forces[1]
    expected = 2.0 * np.pi * 14.3996454784 * 0.25 / 25.0
    torch.testing.assert_close(
        found, torch.tensor([0.0, 0.0, expected], dtype=torch.float64), rtol=1e-9, atol=1e-9
    )


def test_slab_converges_to_open_molecule_when_the_cell_grows() -> None:
    """A neutral molecule in a wide slab cell: error of its images' dipoles, of order L⁻³."""
    molecule = random_structure(3, 5, np.zeros((3, 3)), (False, False, False), 1, size=3.0)
    molecule.coefficients[:, 0] -= molecule.coefficients[:, 0].mean()
    isolated = energy(molecule, Electrostatics(boundary="realspace"))
    errors = []
    for edge in (25.0, 50.0):
        slab = molecule._replace(
            cell=torch.diag(torch.tensor([edge, edge, 1.0]).double()), pbc=(True, True, False)
        )
        chosen = Electrostatics(boundary="slab", kspace_cutoff_factor=2.0)
        errors.append(abs(float(energy(slab, chosen) - isolated)))
    assert errors[0] / errors[1] == pytest.approx(8.0, rel=0.1)


def test_chunks_of_atoms_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    slab = random_structure(4, 40, np.diag([12.0, 13.0, 30.0]), (True, True, False), 1, size=9.0)
    whole = derivatives(slab, Electrostatics("slab"))
    monkeypatch.setattr(layer, "CHUNK_ELEMENTS", 1)  # sixteen atoms at a time, the fewest there are
    for found, expected in zip(derivatives(slab, Electrostatics("slab")), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-11)
