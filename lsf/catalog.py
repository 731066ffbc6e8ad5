"""The registry: finds the TOML entries of all components and turns a name into a class."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class Component:
    """A component chosen by name, with its own options: ``use = "adam"`` and its options inline."""

    use: str
    options: Any


def component(doc: str, kind: str, default: str | None = None) -> Any:
    """Return an option field that holds a :class:`Component` of a registry kind.

    In a recipe it is a table ``{use = "name", option = …}``; where it is missing, ``default`` is used with
    its own default options. Without ``default`` the table is required.
    """
    metadata = {"doc": doc, "registry": kind, "path": False, "words": (), "use": default}
    if default is None:
        return attrs.field(metadata=metadata)
    return attrs.field(factory=lambda: default_component(kind, default), metadata=metadata)


def default_component(kind: str, name: str) -> Component:
    """Return the named component with its default options."""
    raise NotImplementedError
