"""One thread per test process, Triton's interpreter where there is no GPU, and the option --quick."""

import logging
import os

import pytest
import torch

# the machines have two cores and the structures are small
torch.set_num_threads(1)

# pytest would format every step that torch's tracer takes, which is most of the time of a compilation
logging.getLogger("torch.__trace").propagate = False

if not torch.cuda.is_available():
    # Triton reads this when it is first imported, which torch-geometric may do
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick", action="store_true", help="one set of parameters for every test, no slow tests"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--quick"):
        return
    seen: set[str] = set()
    kept, left_out = [], []
    for item in items:
        function = item.nodeid.partition("[")[0]
        slow = item.get_closest_marker("slow") is not None
        (left_out if slow or function in seen else kept).append(item)
        if not slow:
            seen.add(function)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)
