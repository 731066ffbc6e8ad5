"""Energy of a polarization in a uniform external field."""

from __future__ import annotations

from torch import Tensor


def field_energy(polarization: Tensor, external_field: Tensor) -> Tensor:
    """Return ``+ P · external_field`` (n_graphs,) [eV].

    ``polarization`` (n_graphs, 3) [e Å] and ``external_field`` (n_graphs, 3) [V/Å], Cartesian. The external
    field is the gradient of the potential, the negative of the physical field (see :mod:`lsf.units`), hence
    the sign.
    """
    return (polarization * external_field).sum(-1)
