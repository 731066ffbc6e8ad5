from __future__ import annotations

import importlib.metadata
import sys
import types

import attrs
import pytest

from lsf.errors import CatalogError
from lsf.options import Component, NoOptions, option
from lsf.recipe.catalog import Catalog, catalog, component, own_folder
from lsf.recipe.describe import option_rows
from lsf.recipe.quantities import PROPERTIES

ENTRIES = [entry for kind in catalog().kinds() for entry in catalog().entries(kind)]


@attrs.frozen
class Options:
    size: int = option("Size. Larger is larger.", default=1)


def write(folder, kind="models", stem="A", **values):
    """Write one entry; a value None leaves the key out."""
    content = {"kind": kind, "summary": "a model", "target": f"{__name__}:write", **values}
    file = folder / kind / f"{stem}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{key} = {value!r}\n" for key, value in content.items() if value is not None))
    return file


# ------------------------------------------------------------------------------ lsf's own registry


@pytest.mark.parametrize("entry", ENTRIES, ids=[f"{entry.kind}-{entry.name}" for entry in ENTRIES])
def test_every_entry_imports_and_every_option_is_explained(entry):
    assert callable(entry.target())
    for row in option_rows(entry.options_class()):
        assert row.doc.endswith("."), f"{row.name} has no sentence"
    assert entry.summary


@pytest.mark.parametrize("entry", catalog().entries("losses"), ids=catalog().names("losses"))
def test_a_loss_requires_the_label_it_needs(entry):
    """The recipe check reads ``requires`` so that it need not import the loss."""
    names = [name for requirement in entry.requires for name in requirement.split(" or ")]
    assert entry.target().needs in names
    assert set(names) <= set(PROPERTIES)


def test_the_registry_has_what_a_recipe_needs():
    assert {"LocalCharges", "LocalSplitCharges", "FixedChargeBaselinedMACE", "MACE"} <= set(
        catalog().names("models")
    )
    assert "adam" in catalog().names("optimizers")
    assert {"boundaries", "losses"} <= set(catalog().kinds())


def test_own_folders_are_beside_the_package_or_in_it():
    assert (own_folder("registry") / "models").is_dir()


# ------------------------------------------------------------------------------ reading


def test_an_entry_is_read_without_importing(tmp_path):
    file = write(tmp_path, target="no.such:thing", requires=["energy"], references=["arXiv:1"], name="A")
    entry = Catalog([tmp_path]).entry("models", "A")
    assert (entry.kind, entry.name, entry.summary, entry.file) == ("models", "A", "a model", file)
    assert entry.requires == ("energy",)
    assert entry.options_class() is NoOptions


def test_names_and_kinds(tmp_path):
    for kind, stem in (("models", "B"), ("models", "A"), ("losses", "C")):
        write(tmp_path, kind, stem)
    known = Catalog([tmp_path])
    assert known.kinds() == ("losses", "models")
    assert known.names("models") == ("A", "B")
    assert [entry.name for entry in known.entries("models")] == ["A", "B"]
    assert known.names("nothing") == ()


def test_target_and_options_are_imported_on_request(tmp_path):
    write(tmp_path, options=f"{__name__}:Options")
    entry = Catalog([tmp_path]).entry("models", "A")
    assert entry.target() is write
    assert entry.options_class() is Options


def test_wrong_names_get_the_nearest(tmp_path):
    write(tmp_path, stem="LocalCharges")
    known = Catalog([tmp_path])
    with pytest.raises(CatalogError, match="no 'LocalCharge' among its models; did you mean 'LocalCharges'"):
        known.entry("models", "LocalCharge")
    with pytest.raises(CatalogError, match="no kind 'model'; did you mean 'models'"):
        known.entries("model")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"summry": "x"}, r"A.toml:4: summry: found an unknown key; (?s:.*)did you mean 'summary'"),
        ({"summary": None}, r"A.toml: summary: found nothing; expected a string"),
        ({"target": None}, r"A.toml: target: found nothing; expected a string"),
        ({"kind": "losses"}, r'A.toml:1: kind: found "losses"; expected "models", the folder'),
        ({"kind": None}, r"A.toml: kind: found nothing"),
        ({"name": "B"}, r'A.toml:4: name: found "B"; expected "A", the file name'),
        ({"target": "module"}, r'A.toml:3: target: found "module"; expected "module:attribute"'),
        ({"options": "a.b"}, r'A.toml:4: options: found "a.b"; expected "module:attribute"'),
        (
            {"requires": "energy"},
            r'A.toml:4: requires: found the string "energy"; expected a list of strings',
        ),
    ],
)
def test_a_broken_entry_is_named(tmp_path, values, message):
    kind = values.pop("kind", "models")
    file = write(tmp_path, **values)
    lines = file.read_text().splitlines()[1:]
    file.write_text("\n".join(([f"kind = '{kind}'"] if kind else []) + lines))
    with pytest.raises(CatalogError, match=message):
        Catalog([tmp_path])


def test_all_broken_entries_come_at_once(tmp_path):
    write(tmp_path, stem="A", name="B")
    write(tmp_path, stem="C").write_text("kind = ")
    write(tmp_path, stem="D", summary=1)
    with pytest.raises(CatalogError, match=r"the registry cannot be read \(3 problems\)"):
        Catalog([tmp_path])


def test_two_entries_of_one_name_name_both_files(tmp_path):
    first, second = write(tmp_path / "one"), write(tmp_path / "two")
    with pytest.raises(CatalogError, match="a second entry of this name") as caught:
        Catalog([tmp_path / "one", tmp_path / "two"])
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_package:x", "A.toml: target = 'no_such_package:x' cannot be imported: No module named"),
        (f"{__name__}:wrte", "has no 'wrte'; did you mean 'write'"),
    ],
)
def test_a_target_that_cannot_be_imported(tmp_path, target, message):
    write(tmp_path, target=target)
    with pytest.raises(CatalogError, match=message):
        Catalog([tmp_path]).entry("models", "A").target()


def test_options_must_be_an_attrs_class(tmp_path):
    write(tmp_path, options=f"{__name__}:write")
    with pytest.raises(CatalogError, match="test_catalog:write' is not an attrs class"):
        Catalog([tmp_path]).entry("models", "A").options_class()


# ------------------------------------------------------------------------------ components by default


def test_a_component_field_is_built_from_the_registry():
    @attrs.frozen
    class Holder:
        optimizer: Component = component("Optimizer. It steps.", kind="optimizers", default="adam")

    built = Holder().optimizer
    assert built == Component("adam", catalog().options_class("optimizers", "adam")())


# ------------------------------------------------------------------------------ other packages


class Point:
    """An entry point as importlib.metadata gives it."""

    name, value = "mine", "my_package"

    def __init__(self, found):
        self.found = found

    def load(self):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def install(monkeypatch):
    def install_point(found):
        monkeypatch.setattr(
            importlib.metadata,
            "entry_points",
            lambda group: [Point(found)] if group == "lsf.registry" else [],
        )
        return catalog.__wrapped__()

    return install_point


def test_another_package_adds_a_folder(install, tmp_path):
    write(tmp_path, stem="Mine")
    module = types.ModuleType("my_package")
    module.__file__ = str(tmp_path / "__init__.py")
    for found in (tmp_path, str(tmp_path), module):
        known = install(found)
        assert known.entry("models", "Mine").file.parent.parent == tmp_path
        assert "MACE" in known.names("models")


def test_another_package_cannot_take_a_name(install, tmp_path):
    file = write(tmp_path, stem="MACE")
    with pytest.raises(CatalogError, match="a second entry of this name") as caught:
        install(tmp_path)
    assert str(file) in str(caught.value)
    assert str(own_folder("registry") / "models" / "MACE.toml") in str(caught.value)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (ImportError("no my_package"), "entry point mine = my_package cannot be loaded: no my_package"),
        (sys.modules["builtins"], "is neither a folder nor a package with a folder"),
    ],
)
def test_a_broken_entry_point_is_named(install, found, message):
    with pytest.raises(CatalogError, match=message):
        install(found)
