"""The registry: finds the TOML entries of all components and turns a name into a class.

An entry is ``<folder>/<kind>/<name>.toml``. lsf's own folder lies inside the wheel (``lsf/registry``) or
beside the package in a checkout; other packages add theirs through the entry-point group
``lsf.registry``. Reading the entries imports no component.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from lsf.errors import CatalogError, Problem, RecipeError, did_you_mean, format_problems
from lsf.machine.caches import once
from lsf.options import Component, NoOptions, option
from lsf.recipe.convert import INVALID, Structurer
from lsf.recipe.toml import Positions, parse_toml

ENTRY_POINT_GROUP = "lsf.registry"


@attrs.frozen
class EntryFile:
    """What a registry file may hold."""

    kind: str = option("Kind of component. It is the name of the folder the file lies in.")
    summary: str = option("What the component is, in one line. lsf list prints it.")
    target: str = option("The component, as module:attribute. It is imported when it is first used.")
    name: str | None = option("Name of the component. It is the file's name without .toml.", default=None)
    options: str | None = option(
        "attrs class of the component's options, as module:attribute. Without it there are none.",
        default=None,
    )
    requires: tuple[str, ...] = option("Labels and settings the component needs.", default=())
    provides: tuple[str, ...] = option("Outputs the component adds.", default=())
    references: tuple[str, ...] = option("Where the method comes from: DOI or arXiv number.", default=())


@attrs.frozen
class Entry:
    """One component of the registry."""

    kind: str
    name: str
    summary: str
    target_path: str
    options_path: str | None
    requires: tuple[str, ...]
    provides: tuple[str, ...]
    references: tuple[str, ...]
    file: Path

    def target(self) -> Any:
        """Import and return the component."""
        return _load(self.target_path, self.file, "target")

    def options_class(self) -> type:
        """Import and return the attrs class of the component's options."""
        if self.options_path is None:
            return NoOptions
        cls = _load(self.options_path, self.file, "options")
        if not (isinstance(cls, type) and attrs.has(cls)):
            raise CatalogError(f"{self.file}: options = {self.options_path!r} is not an attrs class")
        return cls


class Catalog:
    """All components, by kind and name."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._entries: dict[str, dict[str, Entry]] = {}
        problems: list[Problem] = []
        for file in sorted(file for folder in folders for file in folder.glob("*/*.toml")):
            entry = _read_entry(file, problems)
            if entry is None:
                continue
            other = self._entries.setdefault(entry.kind, {}).setdefault(entry.name, entry)
            if other is not entry:
                expected = "one file per name"
                found = f"a second entry of this name; the first is {other.file}"
                problems.append(Problem(str(file), f"{entry.kind} {entry.name}", found, expected))
        if problems:
            raise CatalogError(format_problems("the registry cannot be read", problems))

    def kinds(self) -> tuple[str, ...]:
        """Return the kinds that have entries, in alphabetical order."""
        return tuple(sorted(self._entries))

    def entries(self, kind: str) -> tuple[Entry, ...]:
        """Return the entries of a kind, in alphabetical order; CatalogError for an unknown kind."""
        if kind not in self._entries:
            raise CatalogError(f"the registry has no kind {kind!r}; {did_you_mean(kind, self._entries)}")
        return tuple(self._entries[kind][name] for name in sorted(self._entries[kind]))

    def entry(self, kind: str, name: str) -> Entry:
        """Return one entry; CatalogError with the nearest name when there is none."""
        names = {entry.name: entry for entry in self.entries(kind)}
        if name not in names:
            raise CatalogError(f"the registry has no {name!r} among its {kind}; {did_you_mean(name, names)}")
        return names[name]

    def names(self, kind: str) -> tuple[str, ...]:
        """Return the names of all components of a kind; none for an unknown kind."""
        return tuple(sorted(self._entries.get(kind, {})))

    def options_class(self, kind: str, name: str) -> type:
        """Import and return the attrs class of a component's options."""
        return self.entry(kind, name).options_class()


@once
def catalog() -> Catalog:
    """Return the catalog of everything installed, read once per process."""
    return Catalog([own_folder("registry"), *_third_party_folders()])


def own_folder(name: str) -> Path:
    """Return a folder of lsf's own files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / name if (package / name).is_dir() else package.parent / name


def component(doc: str, kind: str, default: str | None = None) -> Any:
    """Return an option field that holds a :class:`Component` of a registry kind.

    In a recipe it is a table ``{use = "name", option = …}``; where it is missing, ``default`` is used with
    its own default options. Without ``default`` the table is required.
    """
    metadata = {"doc": doc, "registry": kind, "path": False, "words": (), "rules": (), "use": default}
    if default is None:
        return attrs.field(metadata=metadata)
    return attrs.field(
        factory=lambda: Component(default, catalog().options_class(kind, default)()), metadata=metadata
    )


class _NoComponents:
    """Registry files name no components themselves."""

    def names(self, _kind: str) -> Sequence[str]:
        return ()

    def options_class(self, kind: str, name: str) -> type:
        raise CatalogError(f"a registry file cannot name a component ({kind} {name})")


def _third_party_folders() -> list[Path]:
    folders = []
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            found = point.load()
        except (ImportError, AttributeError) as error:
            raise CatalogError(
                f"entry point {point.name} = {point.value} cannot be loaded: {error}"
            ) from error
        if isinstance(found, str | Path):
            folders.append(Path(found))
        elif getattr(found, "__file__", None):
            folders.append(Path(found.__file__).parent)
        else:
            raise CatalogError(
                f"entry point {point.name} = {point.value} is neither a folder nor a package with a folder"
            )
    return folders


def _read_entry(file: Path, problems: list[Problem]) -> Entry | None:
    text = file.read_text(encoding="utf-8")
    try:
        table = parse_toml(text, str(file))
    except RecipeError as error:
        problems.extend(error.problems)
        return None
    positions = Positions.of(text, str(file))
    structurer = Structurer(positions, _NoComponents(), file.parent)
    content = structurer.table(EntryFile, table, ())
    problems.extend(structurer.problems)
    if content is INVALID or structurer.problems:
        return None
    folder, stem = file.parent.name, file.stem
    for key, found, expected in (("kind", content.kind, folder), ("name", content.name, stem)):
        if found is not None and found != expected:
            what = "the folder" if key == "kind" else "the file name"
            problems.append(Problem(positions.where((key,)), key, f'"{found}"', f'"{expected}", {what}'))
    for key in ("target", "options"):
        value = getattr(content, key)
        if value is not None and value.count(":") != 1:
            problems.append(Problem(positions.where((key,)), key, f'"{value}"', '"module:attribute"'))
    return Entry(
        kind=folder,
        name=stem,
        summary=content.summary,
        target_path=content.target,
        options_path=content.options,
        requires=content.requires,
        provides=content.provides,
        references=content.references,
        file=file,
    )


def _load(target: str, file: Path, key: str) -> Any:
    """Import ``module:attribute``; CatalogError names the registry file."""
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise CatalogError(f"{file}: {key} = {target!r} cannot be imported: {error}") from error
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise CatalogError(f"{file}: {module_name} has no {attribute!r}; {did_you_mean(attribute, names)}")
    return getattr(module, attribute)
