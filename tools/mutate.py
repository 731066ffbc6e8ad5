"""Change the code a little, many times over, and see whether a test notices: ``python -m tools.mutate``.

Every module of ``tools/mutation_targets.py`` is mutated in a copy of the working tree (see
``tools/mutation_operators.py``) and the tests that concern it are run. A mutant that no test notices is a
missing test, or is listed in ``tools/mutants_accepted.toml`` with the reason why none is needed.

Results are appended to a file: a run that was stopped goes on where it was, and a mutant is tried again only
when its module has changed or, where it survived, its tests have. Exits with 1 unless 95 % are noticed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from tools.mutation_operators import Mutant, chosen, mutants_of
from tools.mutation_targets import TARGETS, Target

ROOT: Final = Path(__file__).resolve().parents[1]
ACCEPTED: Final = ROOT / "tools" / "mutants_accepted.toml"
REQUIRED: Final = 0.95
# imported once by a server that the test processes are forked from: half of the time of a quick test file
PRELOADED: Final = ["torch", "e3nn.o3", "torch_geometric.data", "ase.io", "vesin", "pytest"]
WRONG_COPY: Final = 99


@dataclass(frozen=True)
class Result:
    """How a mutant fared: ``killed`` by a ``test``, a ``timeout`` (noticed, too), or ``survived``.

    The digests are those of the module and of the tests.
    """

    file: str
    function: str
    operator: str
    line: int
    before: str
    after: str
    number: int
    outcome: str
    test: str
    seconds: float
    module_digest: str
    tests_digest: str

    @property
    def key(self) -> tuple[str, ...]:
        """What tells a mutant from others, whatever its line."""
        return (self.file, self.function, self.operator, self.before, self.after, str(self.number))


def key_of(mutant: Mutant) -> tuple[str, ...]:
    """Return the :attr:`Result.key` of a mutant."""
    return (
        mutant.file,
        mutant.function,
        mutant.operator,
        mutant.before,
        mutant.after,
        str(mutant.number),
    )


def digest_of(root: Path, files: Iterable[str]) -> str:
    """Return a digest of the contents of files, which may be named by one of their tests (``file::test``)."""
    digest = hashlib.sha256()
    for file in files:
        digest.update((root / file.partition("::")[0]).read_bytes())
    return digest.hexdigest()[:16]


def mutants_of_target(target: Target, seed: int, root: Path = ROOT) -> list[Mutant]:
    """Return the mutants of a module that are tried."""
    source = (root / target.module).read_text(encoding="utf-8")
    return chosen(mutants_of(target.module, source), target.count, seed)


def stands(result: Result, root: Path, target: Target) -> bool:
    """Return whether a result of an earlier run is still true."""
    if result.module_digest != digest_of(root, [target.module]):
        return False
    return result.outcome != "survived" or result.tests_digest == digest_of(root, target.tests)


# --------------------------------------------------------------------------- running


class Workplace:
    """A copy of the working tree in which one mutant at a time is tried."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout
        for name in listed.decode().split("\0"):
            if name and (root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, folder / name)
        self.log = folder / "mutant.log"

    def tests(self, tests: Sequence[str], limit: float, fresh: bool = False) -> tuple[int | None, float]:
        """Run tests; return pytest's exit code (None: not in ``limit`` seconds) and the time it took."""
        started = time.monotonic()
        process = get_context("forkserver").Process(
            target=_run_tests, args=(str(self.folder), tuple(tests), str(self.log), fresh)
        )
        process.start()
        process.join(limit)
        code = process.exitcode
        if process.pid is not None:
            # what the tests started, too; the process leads a group of its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.join()
        if code == WRONG_COPY:
            raise SystemExit(f"the tests do not import lsf from the copy in {self.folder}")
        return code, time.monotonic() - started

    def baseline(self, target: Target) -> float:
        """Return the seconds that a target's tests take; exit where they fail without any change."""
        code, seconds = self.tests(target.tests, 900.0, fresh=True)
        if code != 0:
            text = self.log.read_text(encoding="utf-8", errors="replace")[-3000:]
            raise SystemExit(f"{target.module}: its tests do not pass as they are (exit code {code})\n{text}")
        return seconds

    def trial(self, mutant: Mutant, tests: Sequence[str], limit: float) -> tuple[str, str, float]:
        """Return outcome, test that failed and seconds of one mutant."""
        path = self.folder / mutant.file
        source, stamp = path.read_text(encoding="utf-8"), path.stat().st_mtime
        path.write_text(mutant.applied_to(source), encoding="utf-8")
        # compiled code is taken for current by the second of its source
        os.utime(path, (stamp + 1000.0, stamp + 1000.0))
        try:
            code, seconds = self.tests(tests, limit)
        finally:
            path.write_text(source, encoding="utf-8")
            os.utime(path, (stamp, stamp))
        if code is None:
            return "timeout", "", seconds
        return ("survived" if code == 0 else "killed"), _failed(self.log), seconds


def _failed(log: Path) -> str:
    """Return the test that failed, or what pytest said instead."""
    text = log.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def _run_tests(folder: str, tests: tuple[str, ...], log: str, fresh: bool) -> None:
    """Run pytest in this process and end it; what ``multiprocessing`` calls."""
    os.setsid()
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.path.insert(0, folder)
    given = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([folder] if given is None else [folder, given])
    if not fresh:
        # a mutant must not leave compiled code behind
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    # the tests' own modules are those of the copy
    for name in [name for name in sys.modules if name.split(".")[0] in ("lsf", "tests", "tools")]:
        del sys.modules[name]
    import pytest

    import lsf

    if not str(lsf.__file__).startswith(folder):
        os._exit(WRONG_COPY)
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=line", "-m", "not slow"]
    os._exit(int(pytest.main([*options, "--rootdir", folder, *tests])))


def run(
    targets: Sequence[Target], known: Mapping[tuple[str, ...], Result], file: Path, seed: int, jobs: int
) -> None:
    """Try the mutants that no result is known of and append theirs to a file."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # what tests/conftest.py sets, before triton may be imported
    os.environ.setdefault("TRITON_INTERPRET", "1")
    get_context("forkserver").set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="mutants") as temporary, ThreadPoolExecutor(jobs) as pool:
        places = [Workplace(ROOT, _made(Path(temporary) / str(index))) for index in range(jobs)]

        def work(target: Target) -> None:
            place = places.pop()
            try:
                # of the copy, not of the working tree, in which somebody may be writing a test by now
                mutants = mutants_of_target(target, seed, place.folder)
                left = [
                    mutant
                    for mutant in mutants
                    if (key := key_of(mutant)) not in known or not stands(known[key], place.folder, target)
                ]
                if left:
                    limit = 20.0 + 4.0 * place.baseline(target)
                for mutant in left:
                    _note(file, place, mutant, target, limit)
            finally:
                places.append(place)

        for finished in [pool.submit(work, target) for target in targets]:
            finished.result()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder.resolve()


def _note(file: Path, place: Workplace, mutant: Mutant, target: Target, limit: float) -> None:
    outcome, test, seconds = place.trial(mutant, target.tests, limit)
    values = {name: value for name, value in asdict(mutant).items() if name not in ("start", "end")}
    digests = digest_of(place.folder, [target.module]), digest_of(place.folder, target.tests)
    result = Result(
        **values,
        outcome=outcome,
        test=test,
        seconds=round(seconds, 1),
        module_digest=digests[0],
        tests_digest=digests[1],
    )
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
    sys.stdout.write(f"{outcome:9}{seconds:6.1f} s  {mutant.file}:{mutant.line}  {mutant.operator}\n")
    sys.stdout.flush()


# --------------------------------------------------------------------------- results


def read_results(file: Path) -> dict[tuple[str, ...], Result]:
    """Return the last result of every mutant in a file; nothing where there is none."""
    if not file.exists():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    results = [Result(**json.loads(line)) for line in lines if line.strip()]
    return {result.key: result for result in results}


def read_accepted(file: Path = ACCEPTED) -> dict[tuple[str, str, str, str], str]:
    """Return the reasons of accepted survivors by file, function, text before and after."""
    entries: list[dict[str, Any]] = tomllib.loads(file.read_text(encoding="utf-8"))["accepted"]
    return {(e["file"], e["function"], e["before"], e["after"]): e["reason"] for e in entries}


def report(results: Sequence[Result], accepted: Mapping[tuple[str, str, str, str], str]) -> tuple[str, float]:
    """Return the text about results and the share that was noticed, of all that are not accepted."""
    by_file: dict[str, list[Result]] = {}
    for result in results:
        by_file.setdefault(result.file, []).append(result)
    lines, survivors, excused, used = [], [], 0, set()
    for file, found in sorted(by_file.items()):
        alive = [result for result in found if result.outcome == "survived"]
        fine = [r for r in alive if (r.file, r.function, r.before, r.after) in accepted]
        used |= {(r.file, r.function, r.before, r.after) for r in fine}
        excused += len(fine)
        survivors += [result for result in alive if result not in fine]
        noticed = f"{len(found) - len(alive)} of {len(found)} killed"
        lines.append(
            f"{file:45}{noticed}{f', {len(fine)} accepted' if fine else ''}"
            f"{f', {len(alive) - len(fine)} survived' if len(alive) > len(fine) else ''}"
        )
    for result in survivors:
        lines.append(
            f"\nsurvived: {result.file}:{result.line} in {result.function or 'the module'} "
            f"({result.operator})\n  - {result.before}\n  + {result.after}"
        )
    lines += [f"\naccepted, but not among the survivors: {entry}" for entry in accepted if entry not in used]
    counted = len(results) - excused
    share = (counted - len(survivors)) / counted if counted else 0.0
    lines.append(
        f"\n{counted - len(survivors)} of {counted} killed ({100.0 * share:.1f} %), "
        f"{excused} survivors accepted with a reason; required: {100.0 * REQUIRED:.0f} %"
    )
    return "\n".join(lines), share


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutate", description=__doc__.split("\n\n")[0])
    parser.add_argument("only", nargs="*", help="parts of the names of modules; all modules without any")
    parser.add_argument("--seed", type=int, default=0, help="which mutants are chosen")
    parser.add_argument("--jobs", type=int, default=1, help="how many are tried at the same time")
    parser.add_argument("--results", type=Path, default=ROOT / ".mutants" / "results.jsonl")
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    parser.add_argument("--report", action="store_true", help="show what is known and run nothing")
    given = parser.parse_args(arguments)
    targets = [t for t in TARGETS if not given.only or any(part in t.module for part in given.only)]
    missing = [t for t in targets if importlib.util.find_spec(t.needs) is None]
    for target in missing:
        sys.stdout.write(f"not tried: {target.module} needs {target.needs}\n")
    targets = [target for target in targets if target not in missing]
    if given.list:
        for target in targets:
            for m in mutants_of_target(target, given.seed):
                sys.stdout.write(f"{m.file}:{m.line} {m.operator}\n  - {m.before}\n  + {m.after}\n")
        return 0
    given.results.parent.mkdir(parents=True, exist_ok=True)
    if not given.report:
        run(targets, read_results(given.results), given.results, given.seed, given.jobs)
    known = read_results(given.results)
    keys = [key_of(mutant) for target in targets for mutant in mutants_of_target(target, given.seed)]
    accepted = {
        entry: reason for entry, reason in read_accepted().items() if entry[0] in {t.module for t in targets}
    }
    text, share = report([known[key] for key in keys if key in known], accepted)
    unknown = sum(key not in known for key in keys)
    sys.stdout.write(text + (f"\n{unknown} mutants were not tried yet" if unknown else "") + "\n")
    return 0 if share >= REQUIRED and not unknown else 1


if __name__ == "__main__":
    sys.exit(main())
