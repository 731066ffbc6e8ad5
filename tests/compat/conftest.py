from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from lsf.compat.translate import Translation, translate

CONFIG = """\
heads:
  default:
    info_keys:
      {energy: REF_energy, dipole: REF_dipole, external_field: external_field, total_charge: total_charge}
    arrays_keys: {forces: REF_forces, atomic_multipoles: REF_atomic_multipoles}
train_schedule:
  0: {name: stage1, start: 0, end: 99, lr: 0.01,
      loss: {atomic_multipoles: 100.0, dipole: 1.0, energy_per_atom: 1.0, forces: 100.0}}
  1: {name: stage2, start: 100, end: 199, lr: 0.001,
      loss: {dipole: 10.0, energy_per_atom: 1000.0, forces: 100.0}}
"""

NONPOLARIZABLE = (
    "--name nonpol_example --config config.yaml --train_file train.xyz --valid_fraction 0.2 "
    "--test_file train.xyz --E0s average --model LocalCharges --hidden_irreps '64x0e + 64x1o' --r_max 6.0 "
    "--batch_size 8 --valid_batch_size 8 --eval_interval 2 --error_table PerAtomRMSE --device cuda "
    "--default_dtype float64 --atomic_multipoles_max_l 1 --atomic_multipoles_smearing_width 1.5 "
    "--electrostatic_pbc_method mixed_periodic --restart_latest --save_cpu"
)
"""The command line of the older documentation, to the letter."""

SPLIT = NONPOLARIZABLE.replace(
    "--model LocalCharges", '--model LocalSplitCharges --atomic_formal_charges "{1: 1.0, 8: -2.0}"'
)

Command = Callable[[str], Translation]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the config of the older documentation, current while the test runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


@pytest.fixture
def command(folder: Path) -> Command:
    """Translates a command line in the working folder."""
    assert folder.is_dir()
    return lambda line: translate(shlex.split(line))
