"""Settings of the Coulomb energy: the ``[electrostatics]`` table of a recipe."""

from __future__ import annotations

from typing import Any, Final

import attrs

from lsf.electrostatics.boundary import METHODS
from lsf.errors import did_you_mean
from lsf.options import between, one_of, option

SLAB_CORRECTIONS: Final = ("exact", "dipole")

DEFAULT_MESH_ACCURACY: Final = 1.0e-5
"""Default error level of mesh forces, relative: below that of the default cutoff, about 1e-4."""


def _known_method(_instance: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    if value not in METHODS:
        raise ValueError(
            f"{attribute.name} = {value!r} is no boundary method; {did_you_mean(str(value), METHODS)}"
        )


def _positive(_instance: Any, attribute: attrs.Attribute[float], value: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0.0 < value < float("inf"):
        raise ValueError(f"{attribute.name} = {value!r} must be a positive, finite number")


def _degree(_instance: Any, attribute: attrs.Attribute[int], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2:
        raise ValueError(f"{attribute.name} = {value!r} must be 0 (charges), 1 (dipoles) or 2 (quadrupoles)")


def _known_correction(_instance: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    if value not in SLAB_CORRECTIONS:
        raise ValueError(
            f"{attribute.name} = {value!r} is no slab correction; "
            f"{did_you_mean(str(value), SLAB_CORRECTIONS)}"
        )


def _flag(_instance: Any, attribute: attrs.Attribute[bool], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{attribute.name} = {value!r} must be true or false")


@attrs.frozen
class Electrostatics:
    """Settings of the Coulomb energy, the ``[electrostatics]`` table of a recipe."""

    boundary: str = option(
        "Boundary method: realspace, pbc, slab, molecule_in_box, mixed_periodic or auto. "
        "A structure whose periodicity the method cannot treat is refused.",
        default="auto",
        validator=_known_method,
    )
    multipoles_max_l: int = option(
        "Highest multipole of each atom's density: 0 charges, 1 dipoles, 2 quadrupoles. "
        "Higher ones describe polar and lone-pair directions; the cost grows with (l + 1)².",
        default=1,
        validator=_degree,
    )
    smearing_width: float = option(
        "Standard deviation of the Gaussian that carries each multipole, in Å. "
        "Wider is smoother and cheaper (k-vectors ∝ 1/σ³) but softens interactions below about 3 σ.",
        default=1.5,
        validator=_positive,
    )
    kspace_cutoff_factor: float = option(
        "Scales the largest wave vector of reciprocal sums; it has no effect on open structures. "
        "Larger is more exact at a cost ∝ factor³; below 1.2 stresses are unreliable.",
        default=1.25,
        validator=_positive,
    )
    include_self_interaction: bool = option(
        "Whether each Gaussian's interaction with itself counts. "
        "It is the same constant per coefficient in every boundary method, so leave it on unless "
        "energies are compared with a code that removes it.",
        default=True,
        validator=_flag,
    )
    correction: str = option(
        "How the images of a slab are removed: exact, or dipole, the older approximation. "
        "dipole keeps the cell as given and adds the dipole term alone: its error depends on the vacuum, and "
        "it is not meant for charged slabs.",
        default="exact",
        validator=_known_correction,
    )
    backend: str = option(
        "How reciprocal sums are evaluated: direct (exact, cost ∝ atoms²), mesh (to mesh_accuracy, "
        "cost ∝ atoms), kernel (direct, GPU kernels) or auto, the fastest for each structure. "
        "Large open clusters are summed on a mesh, too, where it is faster or asked for.",
        default="auto",
        validator=one_of("auto", "direct", "mesh", "kernel"),
    )
    mesh_accuracy: float = option(
        "Relative error of the Coulomb forces that a mesh may add; it has no effect on direct sums. "
        "Ten times smaller makes the mesh about 1.4 times finer along each axis.",
        default=DEFAULT_MESH_ACCURACY,
        validator=between(1.0e-9, 1.0e-2),
    )

    @property
    def k_cutoff(self) -> float:
        """Largest wave vector in 1/Å, ``factor · 0.75 · (3/σ) · (L + 1)^0.3``."""
        degree = float((self.multipoles_max_l + 1) ** 0.3)
        return self.kspace_cutoff_factor * 0.75 * 3.0 / self.smearing_width * degree
