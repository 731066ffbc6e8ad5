"""The integer lists of Coulomb sums as TorchScript: an exported file makes them from the cell by itself.

The same decisions as :mod:`lsf.electrostatics.boundary` and the same lists as
:mod:`lsf.electrostatics.plan.lists`, which work on numpy arrays in data loaders; tests hold the two together.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lsf.electrostatics.boundary import KIND_BOX, KIND_OPEN, KIND_SLAB, REFUSED
from lsf.electrostatics.plan.cell_checks import CUBE_TOLERANCE, FLAT
from lsf.electrostatics.plan.coulomb_plan import SLAB_GAP
from lsf.electrostatics.plan.lists import LAYER_EXPONENT, LENGTH_STEP
from lsf.electrostatics.settings import Electrostatics
from lsf.formats.torchscript.mesh import MeshPlanner


class StructurePlan(NamedTuple):
    """Lists of one structure, as in :class:`lsf.electrostatics.plan.coulomb_plan.CoulombPlan`; shapes
    likewise.
    """

    cell: Tensor  # (3, 3) Å
    kind: int
    slab_axis: int
    slab_length: float
    k_triplets: Tensor
    layer_pairs: Tensor
    mesh: list[int]  # points along the three rows, order; zeros for no mesh
    truncation: list[float]  # box edges and radius of an open structure on a mesh, Å; zeros for none


class BatchPlan(NamedTuple):
    """Lists of a batch, as in :class:`lsf.electrostatics.plan.coulomb_plan.CoulombPlan`."""

    cell: Tensor  # (n_graphs, 3, 3) Å
    kind: Tensor
    slab_axis: Tensor
    slab_length: Tensor
    k_triplets: Tensor
    k_batch: Tensor
    layer_pairs: Tensor
    layer_batch: Tensor
    mesh_size: Tensor
    mesh_order: Tensor
    open_box: Tensor
    truncation_radius: Tensor


class ScriptPlanner(nn.Module):
    """Makes plans; ``kinds`` as :func:`kinds_by_periodicity` gives them."""

    def __init__(self, settings: Electrostatics, kinds: list[int]) -> None:
        super().__init__()
        self.meshes = MeshPlanner(settings)
        self.boundary = settings.boundary
        self.kinds = kinds
        self.exact = settings.correction == "exact"
        self.k_cutoff = settings.k_cutoff
        self.gap = SLAB_GAP * settings.smearing_width
        self.length_step = LENGTH_STEP * self.gap
        self.layer_largest = LAYER_EXPONENT / self.gap
        self.flat = FLAT
        self.cube_tolerance = CUBE_TOLERANCE
        self.kind_open, self.kind_slab, self.kind_box = KIND_OPEN, KIND_SLAB, KIND_BOX
        self.refused = REFUSED

    def forward(self, positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor) -> BatchPlan:
        """Return the plan for positions (n_atoms, 3), cell (n_graphs, 3, 3) in Å, pbc (n_graphs, 3)."""
        n_graphs, device = cell.shape[0], positions.device
        located, cells, periodic = positions.cpu(), cell.cpu(), pbc.cpu()
        counts = torch.cumsum(torch.bincount(batch.cpu(), minlength=n_graphs), 0)
        boxes = cells.clone()
        kind = torch.zeros((n_graphs,), dtype=torch.int64)
        axis = torch.zeros((n_graphs,), dtype=torch.int64)
        length = torch.zeros((n_graphs,), dtype=torch.float64)
        waves = [torch.zeros((0, 3), dtype=torch.int64)]
        layers = [torch.zeros((0, 2), dtype=torch.int64)]
        wave_owner = [torch.zeros((0,), dtype=torch.int64)]
        layer_owner = [torch.zeros((0,), dtype=torch.int64)]
        meshes: list[list[int]] = []
        truncations: list[list[float]] = []
        first = 0
        for graph in range(n_graphs):
            last = int(counts[graph])
            plan = self.structure(located[first:last], cells[graph], periodic[graph])
            boxes[graph] = plan.cell
            kind[graph], axis[graph], length[graph] = plan.kind, plan.slab_axis, plan.slab_length
            waves.append(plan.k_triplets)
            wave_owner.append(torch.full((plan.k_triplets.shape[0],), graph, dtype=torch.int64))
            layers.append(plan.layer_pairs)
            layer_owner.append(torch.full((plan.layer_pairs.shape[0],), graph, dtype=torch.int64))
            meshes.append(plan.mesh)
            truncations.append(plan.truncation)
            first = last
        if self.meshes.keeps and n_graphs == 1:
            self.meshes.kept = meshes[0]
        mesh = torch.tensor(meshes, dtype=torch.int64).reshape(n_graphs, 4)
        truncation = torch.tensor(truncations, dtype=torch.float64).reshape(n_graphs, 4)
        return BatchPlan(
            boxes.to(device),
            kind.to(device),
            axis.to(device),
            length.to(device),
            torch.cat(waves).to(device),
            torch.cat(wave_owner).to(device),
            torch.cat(layers).to(device),
            torch.cat(layer_owner).to(device),
            mesh[:, :3].to(device),
            mesh[:, 3].to(device),
            truncation[:, :3].to(device),
            truncation[:, 3].to(device),
        )

    def structure(self, positions: Tensor, cell: Tensor, pbc: Tensor) -> StructurePlan:
        """Return the plan of positions (n, 3), cell (3, 3) in Å and pbc (3,) bool, all on the CPU."""
        directions = int(pbc.sum())
        kind = self.kinds[directions]
        if kind == self.refused:
            raise RuntimeError(
                "boundary '"
                + self.boundary
                + "' of this model cannot treat a structure with "
                + str(directions)
                + " periodic directions"
            )
        if kind == self.kind_box and self.volume_fraction(cell) <= self.flat:
            kind = self.kind_open  # a molecule without a cell has no box
        no_layers = torch.zeros((0, 2), dtype=torch.int64)
        if kind == self.kind_open:
            waves, mesh, truncation = self.cluster(positions)
            return StructurePlan(cell, kind, 2, 0.0, waves, no_layers, mesh, truncation)
        axis, length = 2, 0.0
        internal = cell
        if kind == self.kind_slab:
            axis = int(torch.argmin(pbc.to(torch.int64)))
            internal, length = self.slab_cell(positions, cell, axis)
        elif kind == self.kind_box:
            self.check_cube(cell, positions)
            internal = cell
        elif self.volume_fraction(cell) <= self.flat:
            raise RuntimeError(
                "boundary '" + self.boundary + "' needs three lattice vectors that span a volume"
            )
        layers = no_layers
        if length > 0.0:
            layers = self.layer_half_plane(internal, axis)
        waves = self.half_space(internal, self.k_cutoff)
        mesh = self.meshes(internal, positions.shape[0], waves.shape[0])
        return StructurePlan(cell, kind, axis, length, waves, layers, mesh, [0.0, 0.0, 0.0, 0.0])

    def cluster(self, positions: Tensor) -> tuple[Tensor, list[int], list[float]]:
        """Return wave vectors, mesh and truncation of an open structure: none where its pairs are summed."""
        box = self.meshes.truncation(positions)
        if len(box) > 0:
            mesh = self.meshes.of_cluster(box[:3], positions.shape[0])
            if mesh[3] > 0:
                cell = torch.diag(torch.tensor(box[:3], dtype=torch.float64))
                return self.half_space(cell, self.meshes.open_k_cutoff), mesh, box
        return torch.zeros((0, 3), dtype=torch.int64), [0, 0, 0, 0], [0.0, 0.0, 0.0, 0.0]

    def volume_fraction(self, cell: Tensor) -> float:
        """Return the volume over the product of the edges."""
        edges = float(torch.prod(torch.sqrt((cell * cell).sum(1))))
        volume = abs(float(torch.dot(cell[0], torch.linalg.cross(cell[1], cell[2]))))
        return volume / edges if edges > 0.0 else 0.0

    def check_cube(self, cell: Tensor, positions: Tensor) -> None:
        """Refuse a box that is no cube, or smaller than its molecule."""
        edges = torch.sqrt((cell * cell).sum(1))
        gram = torch.matmul(cell, cell.t()) / (edges.unsqueeze(0) * edges.unsqueeze(1))
        skew = float((gram - torch.eye(3, dtype=cell.dtype)).abs().max())
        longest, shortest = float(edges.max()), float(edges.min())
        if longest > (1.0 + self.cube_tolerance) * shortest or skew > self.cube_tolerance:
            raise RuntimeError(
                "boundary '" + self.boundary + "' sums a non-periodic structure in a cubic cell: give a cube"
            )
        if positions.shape[0] > 0:
            fractional = torch.matmul(positions, torch.linalg.inv(cell))
            if float((fractional.amax(0) - fractional.amin(0)).max()) >= 1.0:
                raise RuntimeError(
                    "boundary '" + self.boundary + "': the structure extends over its box: unwrap the "
                    "molecule or enlarge the box"
                )

    def slab_cell(self, positions: Tensor, cell: Tensor, axis: int) -> tuple[Tensor, float]:
        """Return the internal cell (3, 3) and length in Å of a slab; length 0 for the cell as given."""
        first, second = cell[(axis + 1) % 3], cell[(axis + 2) % 3]
        normal = torch.linalg.cross(first, second)
        area = float(torch.sqrt((normal * normal).sum()))
        edges = float(torch.sqrt((first * first).sum() * (second * second).sum()))
        if area <= 1.0e-6 * edges:
            raise RuntimeError("a slab needs two periodic lattice vectors that span an area")
        normal = normal / area
        height = torch.mv(positions, normal)
        extent = float(height.max() - height.min()) if positions.shape[0] > 0 else 0.0
        if not self.exact:
            if abs(float(torch.dot(cell[axis], normal))) <= extent:
                raise RuntimeError(
                    "correction 'dipole' sums a slab in its cell with vacuum: enlarge the cell"
                )
            return cell, 0.0
        length = self.length_step * math.ceil((extent + self.gap) / self.length_step)
        internal = cell.clone()
        internal[axis] = normal * length
        return internal, length

    def half_space(self, cell: Tensor, k_cutoff: float) -> Tensor:
        """Return all triplets with 0 < |k| < the cutoff, one of each pair ±n, (n_k, 3)."""
        edges = torch.sqrt((cell * cell).sum(1))
        bound = torch.floor(k_cutoff * edges / (2.0 * math.pi) + 1.0e-12).to(torch.int64)
        h = torch.arange(0, int(bound[0]) + 1)
        k = torch.arange(-int(bound[1]), int(bound[1]) + 1)
        m = torch.arange(-int(bound[2]), int(bound[2]) + 1)
        metric = 2.0 * math.pi * torch.linalg.inv(cell).t()
        gram = torch.matmul(metric, metric.t())
        hh, kk, mm = h.reshape(-1, 1, 1), k.reshape(1, -1, 1), m.reshape(1, 1, -1)
        squared = gram[0, 0] * hh * hh + gram[1, 1] * kk * kk + gram[2, 2] * mm * mm
        squared = squared + 2.0 * (gram[0, 1] * hh * kk + gram[0, 2] * hh * mm + gram[1, 2] * kk * mm)
        positive = (hh > 0) | ((hh == 0) & ((kk > 0) | ((kk == 0) & (mm > 0))))
        found = torch.nonzero((squared < k_cutoff * k_cutoff) & positive)
        return torch.stack([h[found[:, 0]], k[found[:, 1]], m[found[:, 2]]], dim=1)

    def layer_half_plane(self, internal: Tensor, axis: int) -> Tensor:
        """Return the pairs of in-plane wave vectors of the layer term, (n_layer, 2)."""
        rows = torch.stack([internal[(axis + 1) % 3], internal[(axis + 2) % 3]])
        gram = 4.0 * math.pi**2 * torch.linalg.inv(torch.matmul(rows, rows.t()))
        edges = torch.sqrt((rows * rows).sum(1))
        bound = torch.floor(self.layer_largest * edges / (2.0 * math.pi)).to(torch.int64)
        h = torch.arange(0, int(bound[0]) + 1)
        k = torch.arange(-int(bound[1]), int(bound[1]) + 1)
        hh, kk = h.reshape(-1, 1), k.reshape(1, -1)
        squared = gram[0, 0] * hh * hh + gram[1, 1] * kk * kk + 2.0 * gram[0, 1] * hh * kk
        keep = (squared < self.layer_largest * self.layer_largest) & ((hh > 0) | ((hh == 0) & (kk > 0)))
        found = torch.nonzero(keep)
        return torch.stack([h[found[:, 0]], k[found[:, 1]]], dim=1)
