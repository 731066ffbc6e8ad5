"""Charged periodic frames are warned of when data are read, once per split and kind of periodicity."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from data_files import Charged, frame, recipe, waters, write

from lsf.data.loader import load_data
from lsf.data.net_charge import net_charge_warnings
from lsf.electrostatics.boundary import KIND_OPEN, KIND_PERIODIC
from lsf.electrostatics.net_charge import net_charge_effect
from lsf.electrostatics.settings import Electrostatics

AUTO = Electrostatics("auto")
CUBE = 10.0 * np.eye(3)
WATER = {"H": 1.0, "O": -2.0}


def hydroxide(pbc: str, index: int = 0, **values):
    return frame((8, 1), cell=CUBE, pbc=pbc, index=index, **values)


def test_one_warning_for_each_kind_names_the_largest() -> None:
    frames = [
        frame((8, 1, 1), cell=CUBE, pbc="TTT"),
        hydroxide("TTT", index=1),
        frame((8,), cell=CUBE, pbc="TTT", index=2),
        hydroxide("TTF", index=3),
        hydroxide("FFF", index=4),
        hydroxide("TFF", index=5),
    ]
    crystal, slab = net_charge_warnings("train", frames, WATER, AUTO)
    assert crystal.startswith("train: 2 of 6 frames are charged and periodic; a.xyz, frame 2: ")
    # 2π k_e (1.5 · 2)² / 1000
    assert "a net charge of -2 e in a fully periodic cell" in crystal
    assert "here 0.814 eV" in crystal
    assert "pressure" in crystal
    assert slab.startswith("train: 1 of 6 frames are charged and periodic; a.xyz, frame 3: ")
    assert "a net charge of -1 e in a slab: no background" in slab


@pytest.mark.parametrize(
    ("values", "charge"),
    [({"total_charge": 1.0}, "+1 e"), ({"atomic_multipoles": [[0.7], [0.1]]}, "+0.8 e"), ({}, None)],
)
def test_labels_serve_where_there_are_no_formal_charges(values, charge) -> None:
    found = net_charge_warnings("test", [hydroxide("TTT", **values)], None, AUTO)
    assert [charge in text for text in found] == ([] if charge is None else [True])


def test_a_hundredth_of_a_charge_is_none_yet() -> None:
    for charge, said in ((0.01, False), (-0.01, False), (0.010001, True), (-0.010001, True)):
        text = net_charge_effect(KIND_PERIODIC, charge, AUTO, 1000.0)
        assert (text is not None) == said
    assert net_charge_effect(KIND_OPEN, 1.0, AUTO, 1000.0) is None


def test_a_missing_cell_is_left_to_its_own_error() -> None:
    assert net_charge_warnings("train", [frame((8,), pbc="TTT")], WATER, AUTO) == []


def test_the_log_says_it(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    cell = 'Lattice="6 0 0 0 6 0 0 0 6" pbc="T T T"'
    frames = [
        text.replace('pbc="F F F"', cell).replace("total_charge=0", "total_charge=1") for text in waters(8)
    ]
    path = write(tmp_path / "a.xyz", *frames)
    with caplog.at_level(logging.WARNING):
        load_data(recipe(path, options=Charged(formal_charges={"H": 1.0, "O": -1.0})), logging.getLogger("a"))
    said = [text for text in caplog.messages if "charged and periodic" in text]
    assert len(said) == 2
    assert said[0].startswith("train: 6 of 6 frames")
    assert said[1].startswith("valid: 2 of 2 frames")
