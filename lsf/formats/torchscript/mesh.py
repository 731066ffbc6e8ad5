"""Which structures an exported file sums on a mesh, and on which one, as TorchScript.

The same decisions with the same constants as :mod:`lsf.electrostatics.plan.mesh_choice`, which works on numpy
arrays; tests hold the two together. Error estimates depend on the settings alone and are evaluated at export.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lsf.electrostatics.mesh.errors import ORDERS, friendly, largest_spacing
from lsf.electrostatics.plan import mesh_choice as mesh_plan
from lsf.electrostatics.plan.mesh_choice import mesh_request
from lsf.electrostatics.settings import Electrostatics


class MeshPlanner(nn.Module):
    """Chooses meshes.

    Of its attributes, a program may set ``always`` (whether a mesh is taken wherever there can be one),
    ``keeps`` (whether the mesh of the last call is kept while it is fit, for one structure whose cell moves)
    and ``kept``, the sizes and the order of that mesh.
    """

    def __init__(self, settings: Electrostatics) -> None:
        super().__init__()
        request = mesh_request(settings)
        self.wanted = request.wanted
        self.always = request.backend == "mesh"
        self.keeps = False
        self.kept = [0, 0, 0, 0]
        self.degree = request.degree
        self.sigma = request.smearing_width
        self.k_cutoff, self.open_k_cutoff = request.k_cutoff, request.open_k_cutoff
        self.orders = list(ORDERS)
        self.spacings = _spacings(request, self.k_cutoff, 1.0)
        self.open_spacings = _spacings(request, self.open_k_cutoff, 1.0)
        self.loose_spacings = _spacings(request, self.k_cutoff, mesh_plan.HYSTERESIS)
        self.loose_open_spacings = _spacings(request, self.open_k_cutoff, mesh_plan.HYSTERESIS)
        self.short_time = mesh_plan.SHORT_TIME
        self.gap = mesh_plan.TRUNCATION_GAP * self.sigma
        self.most_points = mesh_plan.HYSTERESIS
        # seconds per atom, atom and wave vector, mesh point and pair; see mesh_plan
        degree = float(self.degree)
        self.direct_atom, self.direct_wave = ((2.0 * degree + 3.0) / 5.0 * c for c in mesh_plan.DIRECT_COST)
        self.mesh_atom = [mesh_plan.ATOM_COST[order] * (degree + 2.0) / 3.0 for order in ORDERS]
        self.mesh_point, self.mesh_call = mesh_plan.POINT_COST, mesh_plan.MESH_COST
        self.pair = mesh_plan.PAIR_COST * (degree + 1.0) ** 2 / 4.0

    def forward(self, cell: Tensor, n_atoms: int, n_k: int) -> list[int]:
        """Return points along the rows of ``cell`` (3, 3) Å and the splines' order; zeros for no mesh."""
        exact = n_atoms * (self.direct_atom + self.direct_wave * n_k)
        return self.if_faster(
            torch.sqrt((cell * cell).sum(1)),
            self.k_cutoff,
            n_atoms,
            exact,
            self.spacings,
            self.loose_spacings,
        )

    def of_cluster(self, box: list[float], n_atoms: int) -> list[int]:
        """Return the same for an open structure in a ``box`` of these edges in Å."""
        exact = self.pair * n_atoms * n_atoms
        edges = torch.tensor(box, dtype=torch.float64)
        return self.if_faster(
            edges, self.open_k_cutoff, n_atoms, exact, self.open_spacings, self.loose_open_spacings
        )

    def truncation(self, positions: Tensor) -> list[float]:
        """Return the box of a cluster and the radius of its kernel in Å; nothing where pairs are summed."""
        n_atoms = positions.shape[0]
        found: list[float] = []
        few = not self.always and self.pair * n_atoms * n_atoms < self.short_time
        if not self.wanted or few or n_atoms == 0:
            return found
        highest, lowest = positions.amax(0), positions.amin(0)
        extent, centre = highest - lowest, 0.5 * (highest + lowest)
        from_centre = positions - centre
        reach = 2.0 * float(torch.sqrt((from_centre * from_centre).sum(1)).max())
        radius = self.rounded_up(min(reach, float(torch.sqrt((extent * extent).sum()))) + self.gap)
        for axis in range(3):
            found.append(self.rounded_up(float(extent[axis]) + radius + self.gap))
        found.append(radius)
        return found

    def rounded_up(self, length: float) -> float:
        """Return the next multiple of 0.5 Å."""
        return 0.5 * math.ceil(2.0 * length)

    def if_faster(
        self,
        edges: Tensor,
        k_cutoff: float,
        n_atoms: int,
        exact: float,
        spacings: list[float],
        loose: list[float],
    ) -> list[int]:
        """Return the mesh for a cell of these ``edges`` (3,) Å where it costs less than ``exact`` [s]."""
        none = [0, 0, 0, 0]
        if not self.wanted or (not self.always and exact < self.short_time):
            return none
        fewest: list[int] = []
        for axis in range(3):
            bound = math.floor(k_cutoff * float(edges[axis]) / (2.0 * math.pi) + 1.0e-12)
            fewest.append(2 * int(bound) + 2)
        best, least = none, -1.0
        for index in range(len(self.orders)):
            order = self.orders[index]
            mesh: list[int] = []
            for axis in range(3):
                points = math.ceil(float(edges[axis]) / (spacings[index] * self.sigma))
                mesh.append(friendly(max(int(points), max(fewest[axis], order))))
            mesh.append(order)
            cost = self.mesh_call + self.mesh_atom[index] * n_atoms + self.mesh_point * self.points(mesh)
            if least < 0.0 or cost < least:
                best, least = mesh, cost
        if not self.always and exact <= least:
            return none
        if self.keeps and self.still_fit(best, edges, fewest, loose):
            return self.kept
        return best

    def points(self, mesh: list[int]) -> float:
        """Return the number of points of a mesh."""
        return float(mesh[0]) * float(mesh[1]) * float(mesh[2])

    def still_fit(self, mesh: list[int], edges: Tensor, fewest: list[int], loose: list[float]) -> bool:
        """Return whether the mesh kept may serve in place of ``mesh``."""
        fit = False
        for index in range(len(self.orders)):
            if self.kept[3] == self.orders[index]:
                fit = self.points(self.kept) <= self.most_points * self.points(mesh)
                for axis in range(3):
                    spacing = float(edges[axis]) / float(max(self.kept[axis], 1)) / self.sigma
                    fit = fit and self.kept[axis] >= fewest[axis] and spacing <= loose[index]
        return fit


def _spacings(request: mesh_plan.MeshRequest, k_cutoff: float, times: float) -> list[float]:
    """Return the widest spacings by order, in smearing widths, for ``times`` the error asked for."""
    return [
        largest_spacing(
            order,
            times * request.accuracy,
            request.degree,
            k_cutoff * request.smearing_width,
            request.smearing_width,
        )
        for order in ORDERS
    ]
