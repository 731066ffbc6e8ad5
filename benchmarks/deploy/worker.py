"""One side of the benchmark: ``python worker.py lsf`` or ``python worker.py mace``, a JSON task per line.

Every task runs in a process of its own, forked from one that has imported the library, so that the growth of
its peak memory is the task's. Times are CPU times of one thread.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
import warnings
from typing import Any


def serve(library: str, task: dict[str, Any]) -> dict[str, Any]:
    """Return seconds of every step, seconds of the model in it, and megabytes of the whole task."""
    engines = importlib.import_module({"lsf": "engines", "mace": "mace_engines"}[library])
    before, start = resident_megabytes(), time.perf_counter()
    found = engines.run(task)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    return {**found, "megabytes": peak - before, "wall": time.perf_counter() - start}


def resident_megabytes() -> float:
    """Return what the process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    """Answer tasks until the input ends."""
    warnings.filterwarnings("ignore")
    library = sys.argv[1]
    import torch

    torch.set_num_threads(1)
    if library == "mace":
        torch.serialization.add_safe_globals([slice])  # e3nn 0.4.4 stores one
    importlib.import_module({"lsf": "lsf.models.library", "mace": "mace.modules"}[library])
    for line in iter(sys.stdin.readline, ""):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                answer = serve(library, json.loads(line))
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            os.write(writer, (json.dumps(answer) + "\n").encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        sys.stdout.write(text or '{"error": "the process ended, perhaps for want of memory"}\n')
        sys.stdout.flush()


if __name__ == "__main__":
    main()
