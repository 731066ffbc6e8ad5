"""What the rules of old flags yield."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Assignment(NamedTuple):
    """A value of the recipe, and the flag it comes from."""

    flag: str
    key: str
    value: Any


Assignments = Iterator[Assignment]
