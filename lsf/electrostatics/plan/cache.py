"""Plans kept from one step of molecular dynamics to the next."""

from __future__ import annotations

from lsf.electrostatics.boundary import BoolArray
from lsf.electrostatics.plan.coulomb_plan import (
    CoulombPlan,
    FloatArray,
    Outline,
    outline_structure,
    plan_outline,
)
from lsf.electrostatics.plan.mesh_choice import NO_MESH, Mesh
from lsf.electrostatics.settings import Electrostatics
from lsf.machine.caches import enabled


class PlanCache:
    """Makes plans like :func:`plan_structure`, and makes none anew while the last one still holds.

    One step of molecular dynamics after another has the same lists as long as the cell stays (and, of a
    slab, the internal length its atoms need). The checks of a structure run every time. A mesh stays the same
    while a changing cell leaves it fit, so that energies under pressure control have no jumps; with caches
    switched off (:mod:`lsf.machine.caches`) it is chosen anew, which may differ within ``mesh_accuracy``.
    """

    def __init__(self) -> None:
        self._settings: Electrostatics | None = None
        self._outline: Outline | None = None
        self._plan: CoulombPlan | None = None

    def __call__(
        self, settings: Electrostatics, positions: FloatArray, cell: FloatArray, pbc: BoolArray
    ) -> CoulombPlan:
        """Return the lists of one structure's Coulomb sums; do not change its tensors."""
        outline = outline_structure(settings, positions, cell, pbc)
        if not enabled():
            return plan_outline(settings, outline)
        if self._plan is None or outline != self._outline or settings != self._settings:
            self._plan = plan_outline(settings, outline, self._mesh(settings))
            self._outline, self._settings = outline, settings
        return self._plan

    def _mesh(self, settings: Electrostatics) -> Mesh:
        if self._plan is None or settings != self._settings:
            return NO_MESH
        x, y, z = self._plan.mesh_size[0].tolist()
        return Mesh((x, y, z), int(self._plan.mesh_order[0]))
