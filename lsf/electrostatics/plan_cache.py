"""Plans kept from one step of molecular dynamics to the next."""

from __future__ import annotations

from lsf.electrostatics.boundary import (
    BoolArray,
    CoulombPlan,
    Electrostatics,
    FloatArray,
    Outline,
    outline_structure,
    plan_outline,
)


class PlanCache:
    """Makes plans like :func:`plan_structure`, and makes none anew while the last one still holds.

    One step of molecular dynamics after another has the same lists as long as the cell stays (and, of a
    slab, the internal length its atoms need). The checks of a structure run every time.
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
        if self._plan is None or outline != self._outline or settings != self._settings:
            self._plan = plan_outline(settings, outline)
            self._outline, self._settings = outline, settings
        return self._plan
