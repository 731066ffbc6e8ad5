"""The properties a frame can carry: names, shapes, units, and where they stand in a file."""

from __future__ import annotations

from typing import Final, Literal

import attrs

Level = Literal["frame", "atom"]


@attrs.frozen
class Property:
    """One property of a frame or of its atoms.

    ``shape`` is that of one frame or one atom; an entry of -1 is fixed by the model's highest
    multipole. ``label`` tells quantities a model can be trained on (they carry a weight) from inputs
    (formal charges, field), for which ``default`` is used where the mapped key is absent;
    ``default = None`` means absence is an error for models that need it. ``whole`` properties count
    something and have no fractions.
    """

    name: str
    level: Level
    shape: tuple[int, ...]
    unit: str
    label: bool
    default: float | None = None
    whole: bool = False


PROPERTIES: Final[dict[str, Property]] = {
    item.name: item
    for item in (
        Property("energy", "frame", (), "eV", True),
        Property("forces", "atom", (3,), "eV/Å", True),
        Property("stress", "frame", (3, 3), "eV/Å³", True),
        Property("virials", "frame", (3, 3), "eV", True),
        Property("dipole", "frame", (3,), "e·Å", True),
        Property("polarizability", "frame", (3, 3), "e·Å²/V", True),
        Property("total_charge", "frame", (), "e", True, 0.0),
        Property("atomic_multipoles", "atom", (-1,), "e·Å^l", True),
        Property("electrostatic_potentials", "atom", (), "V", True),
        Property("external_field", "frame", (3,), "V/Å", False, 0.0),
        Property("total_spin", "frame", (), "unpaired electrons", False, 0.0),
        Property("charges", "atom", (), "e", False, None),
        Property("molecule_ids", "atom", (), "integer, below 0 for none", False, -1.0, whole=True),
    )
}

LABELS: Final = tuple(name for name, item in PROPERTIES.items() if item.label)
"""Properties with targets and weights, in table order."""

INFO_PROPERTIES: Final = (
    *(name for name, item in PROPERTIES.items() if item.level == "frame"),
    "head",
)
ARRAY_PROPERTIES: Final = tuple(name for name, item in PROPERTIES.items() if item.level == "atom")
