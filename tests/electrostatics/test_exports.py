"""The package's names: all there, and fetched only when asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lsf.electrostatics as package


def test_every_name_is_there() -> None:
    for name in package._MODULES:
        assert name in dir(package)
        assert getattr(package, name).__name__ == name
        assert getattr(package, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'coulomb_enrgy'"):
        _ = package.coulomb_enrgy


def test_importing_the_package_is_light() -> None:
    code = "import sys, lsf.electrostatics; print({'torch', 'numpy', 'ase'} & set(sys.modules) or 'light')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "light\n"
