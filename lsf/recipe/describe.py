"""Tables of options, for ``lsf describe`` and the documentation: read from the attrs classes."""

from __future__ import annotations

from typing import Any

import attrs

from lsf.recipe.toml import inline_toml
from lsf.recipe.type_names import NONE_WORD, field_types, type_text


@attrs.frozen
class OptionRow:
    """One option in words."""

    name: str
    accepts: str
    default: str
    doc: str


def option_rows(cls: type) -> list[OptionRow]:
    """Return name, type and range, default and sentences of every option of an attrs class."""
    hints = field_types(cls)
    return [
        OptionRow(
            name=field.name,
            accepts=type_text(hints[field.name], field),
            default=default_text(field),
            doc=field.metadata.get("doc", ""),
        )
        for field in attrs.fields(cls)
    ]


def default_text(field: attrs.Attribute[Any]) -> str:
    """Return an option's default as it would stand in a recipe."""
    default: Any = field.default
    if default is attrs.NOTHING:
        return "required"
    if field.metadata.get("use"):
        return f'use = "{field.metadata["use"]}"'
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory()
    if default is None:
        return inline_toml(NONE_WORD)
    if attrs.has(type(default)):
        return "its own defaults"
    return inline_toml(default)
