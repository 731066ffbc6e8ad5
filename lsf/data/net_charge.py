"""Frames with a net charge in periodic cells: what their electrostatics mean, said when data are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lsf.data.charges import FormalCharges, charges_of
from lsf.data.frames import Frame
from lsf.electrostatics.boundary import METHODS
from lsf.electrostatics.net_charge import net_charge_effect
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import BoundaryError


def net_charge_warnings(
    split: str, frames: Sequence[Frame], rule: FormalCharges, settings: Electrostatics
) -> list[str]:
    """Return one remark for every kind of periodicity in which frames of a split carry a net charge.

    Each shows its effect for the frame with the largest charge. The charge is that of the formal charges,
    else of the labels ``total_charge`` or ``atomic_multipoles``; frames without any are passed over.
    """
    counts: Counter[int] = Counter()
    largest: dict[int, tuple[float, str, str]] = {}
    for frame in frames:
        charge = _net_charge(frame, rule)
        try:
            kind = METHODS[settings.boundary](frame.pbc)
        except BoundaryError:
            continue  # a problem of its own, told where graphs are built
        volume = abs(float(np.linalg.det(frame.cell)))
        if frame.pbc.all() and volume == 0.0:
            continue  # likewise
        effect = net_charge_effect(kind, charge, settings, volume)
        if effect is None:
            continue
        counts[kind] += 1
        if kind not in largest or abs(charge) > largest[kind][0]:
            largest[kind] = (abs(charge), frame.where, effect)
    return [
        f"{split}: {counts[kind]} of {len(frames)} frames are charged and periodic; {where}: {effect}"
        for kind, (_, where, effect) in largest.items()
    ]


def _net_charge(frame: Frame, rule: FormalCharges) -> float:
    """Return the net charge of a frame in e as far as it is known before training, else 0."""
    if rule is not None:
        charges, _ = charges_of(frame.numbers, frame.values, rule)
        return float(charges.sum())
    if "total_charge" in frame.values:
        return float(frame.values["total_charge"].sum())
    if "atomic_multipoles" in frame.values:
        return float(frame.values["atomic_multipoles"][:, 0].sum())
    return 0.0
