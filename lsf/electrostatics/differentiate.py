"""From an energy to forces, virial, stress, potential and Born charges: one routine for all.

Models in Python, exported files and the calculator of given multipoles share these functions. They are plain
enough that TorchScript compiles them and that they can be recorded into graphs.

Conventions as in :mod:`lsf.units`: the strain ε acts on positions and cell alike, r → r (1 + ε), and by its
symmetric part alone, so that virial and stress are symmetric also where a field exerts a torque.
"""

from __future__ import annotations

import torch
from torch import Tensor


def deformable(positions: Tensor, cell: Tensor, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what to differentiate by, and what an energy is to be computed from.

    Parameters
    ----------
    positions : (n_atoms, 3) Å
    cell : (n_graphs, 3, 3) Å, rows are lattice vectors
    batch : (n_atoms,) structure of each atom

    Returns
    -------
    positions (n_atoms, 3) and a strain of zeros (n_graphs, 3, 3), both leaves that require gradients;
    positions and cell that they deform, of the same values as those given
    """
    leaves = positions.detach().requires_grad_(True)
    strain = torch.zeros_like(cell).requires_grad_(True)
    moved, strained = deform(leaves, cell, batch, strain)
    return leaves, strain, moved, strained


def deform(positions: Tensor, cell: Tensor, batch: Tensor, strain: Tensor) -> tuple[Tensor, Tensor]:
    """Return positions and cells deformed by the symmetric part ε of ``strain`` (n_graphs, 3, 3)."""
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    moved = torch.bmm(positions.unsqueeze(1), symmetric.index_select(0, batch)).squeeze(1)
    return positions + moved, cell + torch.bmm(cell, symmetric)


def derivatives(
    energy: Tensor, inputs: list[Tensor], retain_graph: bool, create_graph: bool = False
) -> list[Tensor]:
    """Return dE/dx for all ``inputs`` x, for E the sum of ``energy``; zeros where E does not depend on x."""
    found = torch.autograd.grad(
        [energy.sum()], inputs, retain_graph=retain_graph, create_graph=create_graph, allow_unused=True
    )
    gradients: list[Tensor] = []
    for index, value in enumerate(inputs):
        gradient = found[index]
        gradients.append(torch.zeros_like(value) if gradient is None else gradient)
    return gradients


def virial_and_stress(by_strain: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``-dE/dε`` in eV and ``+(1/V) dE/dε`` in eV/Å³, (n_graphs, 3, 3); no stress without a volume."""
    return -by_strain, by_strain * inverse_volume(cell).reshape(-1, 1, 1)


def inverse_volume(cell: Tensor) -> Tensor:
    """Return 1/V (n_graphs,) of cells (n_graphs, 3, 3); zero where there is no volume."""
    # in closed form: ONNX has no determinant
    normal = torch.linalg.cross(cell[:, 1], cell[:, 2], dim=1)
    volume = (cell[:, 0] * normal).sum(1).abs()
    empty = volume < 1.0e-9
    one = torch.ones_like(volume)
    return torch.where(empty, torch.zeros_like(volume), 1.0 / torch.where(empty, one, volume))


def potential(coulomb_energy: Tensor, density: Tensor, create_graph: bool = False) -> Tensor:
    """Return ``dE_Coulomb/dq_i`` (n_atoms,) in V: the potential averaged over each atom's Gaussian.

    ``density`` (n_atoms, (L + 1)²) are the coefficients [q, …] that the energy (n_graphs,) was computed from.
    Zeros where one does not depend on anything that is differentiated: there are no charges.
    """
    if not (coulomb_energy.requires_grad and density.requires_grad):
        return torch.zeros_like(density[:, 0])
    return derivatives(coulomb_energy, [density], True, create_graph)[0][:, 0]


def born_charges(polarization: Tensor, positions: Tensor, create_graph: bool = False) -> Tensor:
    """Return ``Z*[i, α, β] = ∂P_α/∂r_{i,β}`` (n_atoms, 3, 3) in e: structures do not see one another."""
    if not polarization.requires_grad:
        return torch.zeros((positions.shape[0], 3, 3), dtype=positions.dtype, device=positions.device)
    rows = [derivatives(polarization[:, axis], [positions], True, create_graph)[0] for axis in range(3)]
    return torch.stack(rows, dim=1)
