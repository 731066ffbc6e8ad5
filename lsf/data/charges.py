"""Formal charges of atoms: from a table per element, from the data, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FROM_DATA: Final = "from_data"

FormalCharges = Mapping[str, float] | Literal["from_data"] | None
"""Charge in e by chemical symbol, the word "from_data", or None for models without formal charges."""


class Missing(NamedTuple):
    """What a frame lacks for its formal charges, and where it could be given."""

    what: str
    hint: str


def charges_of(
    numbers: NDArray[np.int64], values: Mapping[str, Floats], rule: FormalCharges
) -> tuple[Floats, Missing | None]:
    """Return the formal charges of all atoms, (n_atoms,) e, zero where they are missing, and what is."""
    if rule is None:
        return np.zeros(len(numbers)), None
    if rule == FROM_DATA:
        if "charges" in values:
            return values["charges"].astype(np.float64), None
        hint = 'map the column that holds them: heads.<name>.arrays_keys.charges = "…"'
        return np.zeros(len(numbers)), Missing("no formal charges in the data", hint)
    table = np.array([rule.get(symbol, np.nan) for symbol in chemical_symbols], dtype=np.float64)
    charges = table[numbers]
    unknown = np.isnan(charges)
    if not unknown.any():
        return charges, None
    symbols = ", ".join(chemical_symbols[number] for number in sorted(set(numbers[unknown].tolist())))
    hint = f"add {symbols} to model.formal_charges, which has {', '.join(sorted(rule)) or 'no entry'}"
    return np.where(unknown, 0.0, charges), Missing(f"no formal charge for {symbols}", hint)
