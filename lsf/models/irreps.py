"""Hidden irreps: equal channels on every degree, natural parity (0e, 1o, 2e, …).

Features are stored as ``(n_atoms, n_components, n_channels)`` with the components of the degrees in
rising order and m = -l … l inside each (for l = 1: y, z, x). The channel index is innermost so that
every linear map is one matrix product.
"""

from __future__ import annotations

import re
from itertools import accumulate

import attrs

_TERM = re.compile(r"^\s*(?:(\d+)\s*x\s*)?(\d+)([eo])\s*$")


@attrs.frozen
class Irreps:
    """``channels`` copies of each degree in ``degrees`` (rising, no repeats)."""

    channels: int
    degrees: tuple[int, ...]

    @property
    def dim(self) -> int:
        """Number of components per channel, ``Σ (2l + 1)``."""
        return sum(2 * degree + 1 for degree in self.degrees)

    def slices(self) -> dict[int, slice]:
        """Return the slice of the component axis that holds each degree."""
        ends = list(accumulate(2 * degree + 1 for degree in self.degrees))
        return {
            degree: slice(end - 2 * degree - 1, end) for degree, end in zip(self.degrees, ends, strict=True)
        }

    def __str__(self) -> str:
        return " + ".join(f"{self.channels}x{degree}{'eo'[degree % 2]}" for degree in self.degrees)


def parse_irreps(text: str) -> Irreps:
    """Return the irreps written as ``"64x0e + 64x1o"``.

    Raises
    ------
    ValueError
        when the text is not of that form, the channel counts differ, a degree repeats, scalars are
        missing or a parity is not the natural one.
    """
    terms = []
    for term in text.split("+"):
        match = _TERM.match(term)
        if match is None:
            raise ValueError(f"{term.strip()!r} is not an irrep such as '64x0e' or '64x1o'")
        terms.append((int(match[1] or 1), int(match[2]), match[3]))
    channels = {count for count, _, _ in terms}
    degrees = [degree for _, degree, _ in terms]
    if len(channels) != 1 or 0 in channels:
        raise ValueError(f"{text!r}: every degree needs the same number of channels, above zero")
    if len(set(degrees)) != len(degrees):
        raise ValueError(f"{text!r}: each degree may stand only once")
    if 0 not in degrees:
        raise ValueError(f"{text!r}: scalars (0e) are needed, energies are read from them")
    wrong = [f"{degree}{parity}" for _, degree, parity in terms if parity != "eo"[degree % 2]]
    if wrong:
        raise ValueError(f"{text!r}: {wrong[0]} is not of natural parity (0e, 1o, 2e, 3o, …)")
    return Irreps(channels.pop(), tuple(sorted(degrees)))
