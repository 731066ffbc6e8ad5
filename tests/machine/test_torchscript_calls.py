"""TorchScript is called in one place, and users hear nothing of its deprecation."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import lsf
from lsf.machine import torchscript

PACKAGE = Path(lsf.__file__).parent


@pytest.mark.parametrize(
    ("calls", "home"),
    [
        (r"torch\.jit\.\w", "machine/torchscript.py"),
        (r"(from|import) torch_geometric", "machine/geometric.py"),
    ],
)
def test_what_warns_of_its_deprecation_is_called_in_one_module(calls, home):
    callers = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if re.search(calls, path.read_text(encoding="utf-8"))
    ]
    assert callers == [home]


def test_importing_models_and_graphs_warns_of_nothing_in_torchscript():
    code = "import lsf.models.convolution, lsf.data.graph, lsf.formats.torchscript.write"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True
    )
    assert "torch.jit" not in done.stderr


def test_a_module_is_traced_scripted_stored_and_loaded_without_a_warning(tmp_path):
    class Square(torch.nn.Module):
        def forward(self, x):
            return x * float(x[0])  # a value that the trace holds, of which torch warns

    x = torch.tensor([2.0, 3.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        traced = torchscript.trace(Square(), (x,))
        scripted = torchscript.script(torch.nn.ReLU())
        path = tmp_path / "m.pt"
        path.write_bytes(torchscript.archive(traced, {"note.txt": "kept"}))
        loaded, note = torchscript.load(str(path), torch.device("cpu"), "note.txt")
    assert note == b"kept"
    assert torch.equal(scripted(-x), torch.zeros(2))
    with torchscript.without_optimizing_executor():
        assert torch.equal(loaded(torch.ones(2)), 2.0 * torch.ones(2))


def test_other_warnings_are_not_hidden():
    with pytest.warns(FutureWarning, match="another"), torchscript.without_deprecation_warnings():
        warnings.warn("another", FutureWarning, stacklevel=1)
