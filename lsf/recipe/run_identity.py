"""What makes two runs the same run: the settings that differ from their defaults, and the data's content.

A checkpoint is taken up by a run of the same identity only. Folders of data files do not belong to it, so
that a checkout may be moved: the frames are compared (:func:`lsf.train.loop.checkpoint.fingerprint_of`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

import attrs

from lsf.errors import ProblemsError
from lsf.options import Component
from lsf.recipe.read import as_table, read_recipe_text
from lsf.recipe.schema import Chosen, LossTerm, Recipe

WITHOUT_EFFECT: Final = ("trackers",)
"""Parts of a recipe that may change between the legs of a run."""

Settings = dict[str, Any]
"""Values by dotted key."""


def identity_of(recipe: Recipe) -> str:
    """Return the settings that are not the default ones as text, files without their folders.

    A new setting of a later lsf, left at its default, changes nothing.
    """
    settings = _without_folders(_flat(_own_settings(recipe)))
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in sorted(settings.items()))


def differences(stored: str, recipe: Recipe) -> list[str]:
    """Return what tells a recipe from a resolved one, ``key: there … here …`` one each; empty where nothing.

    Settings that the stored text lacks have their defaults.
    """
    try:
        before = _without_folders(_flat(as_table(read_recipe_text(stored, "the stored recipe"))))
    except ProblemsError as error:
        return [f"{problem.key or problem.where}: {problem.found} there" for problem in error.problems]
    after = _without_folders(_flat(as_table(recipe)))
    return [
        f"{key}: {_shown(before.get(key))} there, {_shown(after.get(key))} here"
        for key in dict.fromkeys((*before, *after))
        if before.get(key) != after.get(key)
    ]


def _own_settings(value: Any) -> Any:
    """Return options as tables like :func:`as_table`, without those that have their default."""
    if isinstance(value, Component):
        return {"use": value.use, **_own_settings(value.options)}
    if isinstance(value, Chosen):
        return _own_settings(value.options)
    if isinstance(value, LossTerm):
        return as_table(value)
    if isinstance(value, tuple | list):
        return [_own_settings(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _own_settings(item) for key, item in value.items()}
    if not attrs.has(type(value)):
        return value
    return {
        field.name: _own_settings(getattr(value, field.name))
        for field in attrs.fields(type(value))
        if not _is_default(field.default, getattr(value, field.name))
    }


def _is_default(default: Any, value: Any) -> bool:
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return bool(not default.takes_self and value == default.factory())
    return bool(value == default)


def _flat(value: Any, key: str = "") -> Settings:
    """Return nested tables and lists of tables as one table with dotted keys."""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        value = {str(place): item for place, item in enumerate(value)}
    if not isinstance(value, Mapping):
        return {key: value}
    found: Settings = {}
    for name, item in value.items():
        if key or name not in WITHOUT_EFFECT:
            found |= _flat(item, f"{key}.{name}" if key else str(name))
    return found


def _without_folders(settings: Settings) -> Settings:
    return {
        key: PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value
        for key, value in settings.items()
    }


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)
