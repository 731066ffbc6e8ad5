import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def test_make_says_what_to_install_when_no_python_is_new_enough(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "make", "cat"):
        (tools / tool).symlink_to(shutil.which(tool))
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        [shutil.which("make"), "demo", f"VENV={tmp_path / 'env'}", "PYTHON="],
        cwd=ROOT,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "lsf needs Python 3.11 or newer" in done.stderr
    assert "make demo PYTHON=/path/to/python" in done.stderr
    assert not (tmp_path / "env").exists()


def test_make_alone_lists_the_commands():
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for command in ("make demo", "make test", "make test-all", "make wheel-test"):
        assert command in shown
