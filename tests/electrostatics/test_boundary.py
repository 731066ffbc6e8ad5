"""Which method treats which structure, and what a user reads when it does not."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch

from lsf.electrostatics.boundary import (
    KIND_BOX,
    KIND_OPEN,
    KIND_PERIODIC,
    KIND_SLAB,
    METHODS,
    REFUSED,
    kinds_by_periodicity,
    possible_kinds,
    structure_sorts,
)
from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.plan import lists
from lsf.electrostatics.plan.coulomb_plan import plan_structure
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import BoundaryError

CUBE = np.eye(3) * 12.0
TWO_ATOMS = np.array([[0.0, 0.0, 0.0], [1.0, 0.5, 2.0]])
REGISTRY = Path(__file__).parents[2] / "registry" / "boundaries"


def kind(method: str, pbc: str, cell: np.ndarray = CUBE) -> int:
    periodic = np.array([letter == "T" for letter in pbc])
    return int(plan_structure(Electrostatics(boundary=method), TWO_ATOMS, cell, periodic).kind)


@pytest.mark.parametrize(
    ("method", "pbc", "expected"),
    [
        ("realspace", "FFF", KIND_OPEN),
        ("pbc", "TTT", KIND_PERIODIC),
        ("slab", "TTF", KIND_SLAB),
        ("slab", "FTT", KIND_SLAB),
        ("molecule_in_box", "FFF", KIND_BOX),
        ("mixed_periodic", "FFF", KIND_BOX),
        ("mixed_periodic", "TFT", KIND_SLAB),
        ("mixed_periodic", "TTT", KIND_PERIODIC),
        ("auto", "FFF", KIND_OPEN),
        ("auto", "TFT", KIND_SLAB),
        ("auto", "TTT", KIND_PERIODIC),
    ],
)
def test_kind_of_a_structure(method: str, pbc: str, expected: int) -> None:
    assert kind(method, pbc) == expected


@pytest.mark.parametrize(
    ("method", "pbc", "message"),
    [
        (
            "realspace",
            "TTT",
            r"'realspace' cannot treat pbc = T T T.*pbc = F F F; use pbc, mixed_periodic or auto",
        ),
        ("pbc", "TTF", r"'pbc' cannot treat pbc = T T F.*pbc = T T T; use slab, mixed_periodic or auto"),
        ("slab", "TTT", r"'slab' cannot treat pbc = T T T.*two T and one F"),
        (
            "slab",
            "FFF",
            r"'slab' cannot treat pbc = F F F.*use realspace, auto, mixed_periodic or molecule_in_box",
        ),
        ("molecule_in_box", "TTT", r"'molecule_in_box' cannot treat pbc = T T T"),
        (
            "mixed_periodic",
            "FTF",
            r"'mixed_periodic' cannot treat pbc = F T F.*no method treats one periodic",
        ),
        (
            "auto",
            "TFF",
            r"'auto' cannot treat pbc = T F F: it treats pbc = F F F or two T and one F or T T T",
        ),
    ],
)
def test_refused_periodicity(method: str, pbc: str, message: str) -> None:
    with pytest.raises(BoundaryError, match=message):
        kind(method, pbc)


@pytest.mark.parametrize(
    ("method", "pbc", "cell", "message"),
    [
        ("pbc", "TTT", np.zeros((3, 3)), "three lattice vectors that span a volume"),
        ("mixed_periodic", "TTT", np.ones((3, 3)), "three lattice vectors that span a volume"),
        ("slab", "TTF", np.diag([5.0, 0.0, 9.0]), "two periodic lattice vectors that span an area"),
        ("molecule_in_box", "FFF", CUBE * np.nan, "sums a non-periodic structure in a cubic cell"),
        (
            "mixed_periodic",
            "FFF",
            np.diag([15.0, 20.0, 27.0]),
            "found 15 x 20 x 27 Å.*edges within 1% are a cube",
        ),
        (
            "molecule_in_box",
            "FFF",
            9 * np.array([[1.0, 0, 0], [0.5, 0.75**0.5, 0], [0, 0, 1]]),
            "angles 90, 90, 60",
        ),
        ("molecule_in_box", "FFF", np.eye(3) * 1.5, "extends over 1.33 of its 1.5 Å box"),
    ],
)
def test_refused_cell(method: str, pbc: str, cell: np.ndarray, message: str) -> None:
    with pytest.raises(BoundaryError, match=message):
        kind(method, pbc, cell)


def test_a_molecule_without_a_cell_has_no_box() -> None:
    flat = np.diag([10.0, 10.0, 0.0])
    for method in ("molecule_in_box", "mixed_periodic"):
        assert [kind(method, "FFF", cell) for cell in (np.zeros((3, 3)), flat, CUBE)] == [
            KIND_OPEN,
            KIND_OPEN,
            KIND_BOX,
        ]
        assert possible_kinds(method) >= {KIND_OPEN, KIND_BOX}
        assert (0, False) in structure_sorts(method)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("boundary", "mixed_periodc", "'mixed_periodc' is no boundary method; did you mean 'mixed_periodic'"),
        ("multipoles_max_l", 3, r"multipoles_max_l = 3 must be 0 \(charges\), 1 \(dipoles\) or 2"),
        ("multipoles_max_l", True, "multipoles_max_l = True must be 0"),
        ("smearing_width", 0.0, "smearing_width = 0.0 must be a positive, finite number"),
        ("smearing_width", "1.5", "smearing_width = '1.5' must be a positive, finite number"),
        ("kspace_cutoff_factor", float("nan"), "kspace_cutoff_factor = nan must be a positive"),
        ("include_self_interaction", 1, "include_self_interaction = 1 must be true or false"),
    ],
)
def test_refused_option(option: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Electrostatics(**{option: value})


def test_wrong_number_of_coefficients() -> None:
    settings = Electrostatics(boundary="realspace")
    plan = plan_structure(settings, TWO_ATOMS, CUBE, np.zeros(3, dtype=bool))
    positions = torch.from_numpy(TWO_ATOMS)
    with pytest.raises(ValueError, match="coefficients have 1 columns; multipoles_max_l = 1 needs 4"):
        coulomb_energy(positions[:, :1], positions, torch.eye(3)[None], torch.zeros(2).long(), plan, settings)


def test_cutoff_heuristic() -> None:
    assert Electrostatics(smearing_width=1.5, kspace_cutoff_factor=1.0).k_cutoff == pytest.approx(
        1.5 * 2**0.3
    )
    assert Electrostatics(multipoles_max_l=0, smearing_width=1.0).k_cutoff == pytest.approx(1.25 * 2.25)


def test_half_space_is_complete() -> None:
    """Against a search over a much larger range; ± pairs once, zero never."""
    cell = np.array([[5.0, 0.0, 0.0], [3.9, 3.0, 0.0], [-2.0, 3.5, 6.0]])
    cutoff = 4.0
    found = {tuple(triplet) for triplet in lists.half_space(cell, cutoff)}
    span = np.arange(-12, 13)
    everything = np.stack(np.meshgrid(span, span, span, indexing="ij"), -1).reshape(-1, 3)
    inside = np.linalg.norm(2.0 * np.pi * everything @ np.linalg.inv(cell).T, axis=1) < cutoff
    expected = {tuple(triplet) for triplet in everything[inside & everything.any(1)]}
    assert found | {tuple(-np.array(triplet)) for triplet in found} == expected
    assert 2 * len(found) == len(expected)


def test_half_space_is_exact_at_its_surface() -> None:
    """Some 20 000 waves of a skewed cell: an error of 1e-3 in any square would move some across."""
    cell = np.array([[21.0, 0.3, -0.2], [5.9, 19.4, 0.4], [-7.1, 3.8, 23.2]])
    found = lists.half_space(cell, 4.0)
    span = [np.arange(-n, n + 1) for n in (20, 20, 20)]
    everything = np.stack(np.meshgrid(*span, indexing="ij"), -1).reshape(-1, 3)
    inside = np.linalg.norm(2.0 * np.pi * everything @ np.linalg.inv(cell).T, axis=1) < 4.0
    assert np.abs(everything[inside]).max() < 20
    assert 2 * len(found) == int(inside.sum()) - 1
    lengths = np.linalg.norm(2.0 * np.pi * found @ np.linalg.inv(cell).T, axis=1)
    assert lengths.max() < 4.0
    assert len(np.unique(found, axis=0)) == len(found)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_layer_half_plane_is_complete(axis: int) -> None:
    """Against a search over a larger range in an oblique plane; ± pairs once, zero never."""
    cell = np.empty((3, 3))
    cell[axis], cell[(axis + 1) % 3], cell[(axis + 2) % 3] = [0, 0, 40.0], [17.0, 2.0, 0], [11.0, 15.0, 0]
    gap = 15.0
    found = {tuple(pair) for pair in lists.layer_half_plane(cell, axis, gap)}
    rows = cell[[(axis + 1) % 3, (axis + 2) % 3]][:, :2]
    span = np.arange(-25, 26)
    everything = np.stack(np.meshgrid(span, span, indexing="ij"), -1).reshape(-1, 2)
    waves = np.linalg.norm(2.0 * np.pi * everything @ np.linalg.inv(rows).T, axis=1)
    # terms decay as exp(-G gap), and exp(-38) = 3e-17
    expected = {tuple(pair) for pair in everything[(waves < 38.0 / gap) & everything.any(1)]}
    assert found | {(-first, -second) for first, second in found} == expected
    assert 2 * len(found) == len(expected)


@pytest.mark.parametrize(("extent", "length"), [(0.0, 15.0), (2.999, 18.0), (3.001, 21.0), (8.999, 24.0)])
def test_a_slabs_internal_length_is_the_next_step_beyond_its_gap(extent: float, length: float) -> None:
    """Ten widths of empty space, in steps of two: with σ = 1.5 Å a gap of 15 Å and steps of 3 Å."""
    positions = np.array([[0.0, 0.0, 3.0], [1.0, 2.0, 3.0 + extent]])
    plan = plan_structure(
        Electrostatics(boundary="slab", smearing_width=1.5), positions, CUBE, np.array([True, True, False])
    )
    assert float(plan.slab_length) == pytest.approx(length, rel=1e-12)


def test_kinds_by_number_of_periodic_directions() -> None:
    assert kinds_by_periodicity("auto") == [KIND_OPEN, REFUSED, KIND_SLAB, KIND_PERIODIC]
    assert kinds_by_periodicity("slab") == [REFUSED, REFUSED, KIND_SLAB, REFUSED]


@pytest.mark.parametrize(("ratio", "fits"), [(1.0099, True), (1.0101, False)])
def test_a_cube_is_one_within_a_hundredth(ratio: float, fits: bool) -> None:
    cell = np.diag([12.0, 12.0 * ratio, 12.0])
    if fits:
        assert kind("molecule_in_box", "FFF", cell) == KIND_BOX
    else:
        with pytest.raises(BoundaryError, match="edges within 1% are a cube"):
            kind("molecule_in_box", "FFF", cell)


def test_a_slab_that_fills_its_cell_has_no_vacuum() -> None:
    settings = Electrostatics(boundary="slab", correction="dipole")
    for height, fits in ((2.0, False), (2.001, True)):
        arguments = TWO_ATOMS, np.diag([9.0, 9.0, height]), np.array([True, True, False])
        if fits:
            assert int(plan_structure(settings, *arguments).kind) == KIND_SLAB
        else:
            with pytest.raises(BoundaryError, match="found a slab 2 Å thick in a cell of height 2 Å"):
                plan_structure(settings, *arguments)


def test_every_option_has_a_sentence() -> None:
    for field in attrs.fields(Electrostatics):
        assert field.metadata["doc"].count(". ") >= 1, field.name


def test_registry_lists_exactly_the_methods() -> None:
    entries = {path.stem: tomllib.loads(path.read_text()) for path in REGISTRY.glob("*.toml")}
    assert set(entries) == set(METHODS)
    for name, entry in entries.items():
        assert entry["kind"] == "boundaries"
        module, attribute = entry["target"].split(":")
        assert getattr(importlib.import_module(module), attribute) is METHODS[name]
        module, attribute = entry["options"].split(":")
        assert getattr(importlib.import_module(module), attribute) is Electrostatics


def test_documented_example_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "boundary_methods.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(code, names)
    assert names["energy"].shape == (1,)
