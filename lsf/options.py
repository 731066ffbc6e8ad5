"""Documented option fields: type, default, range and the sentence a user reads, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs


def option(
    doc: str,
    *,
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    validator: Any = None,
) -> Any:
    """Return an attrs field whose ``metadata["doc"]`` says what it means and what changing it does."""
    if factory is not None:
        return attrs.field(factory=factory, validator=validator, metadata={"doc": doc})
    return attrs.field(default=default, validator=validator, metadata={"doc": doc})
