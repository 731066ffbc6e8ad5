"""The libraries a benchmark compares: environments of their own, and one process each that takes tasks.

A worker script reads a JSON task per line and answers each line with one line of JSON; ``{"error": …}`` is
raised here. Every worker computes with one thread and may import what lies under ``benchmarks``.
"""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console

ROOT: Final = Path(__file__).resolve().parents[1]
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def environment_python(console: Console, name: str, requirements: Path) -> Path:
    """Return the interpreter of environment ``name`` in the checkout, installed where missing or outdated.

    The versions of constraints.txt hold, but for e3nn: the alternatives need an older one.
    """
    folder = ROOT / name
    python, stamp, pins = folder / "bin" / "python", folder / ".installed", folder / "constraints.txt"
    if stamp.exists() and stamp.stat().st_mtime >= requirements.stat().st_mtime:
        return python
    console.print(f"installing {requirements.relative_to(ROOT)} into {name} …")
    if not python.exists():
        venv.create(folder, with_pip=True)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    pins.write_text("".join(line for line in lines if not line.startswith("e3nn")), encoding="utf-8")
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements, "-c", pins], check=True)
    stamp.touch()
    return python


class Worker:
    """A library in a process of its own, asked one line at a time."""

    def __init__(
        self, script: Path, library: str, python: Path | str, variables: Mapping[str, str] | None = None
    ) -> None:
        self.library = library
        self._process = subprocess.Popen(
            [python, script, library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT), **(variables or {})},
        )

    def task(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Send a task and return the answer."""
        return self.ask(json.dumps(task))

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and return the answer; raise ``RuntimeError`` for an error or the worker's end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        while answer and not answer.startswith("{"):  # remarks that a library prints
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {self.library} ended at {line}")
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise RuntimeError(f"{self.library}, {line}: {found['error']}")
        return found

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
