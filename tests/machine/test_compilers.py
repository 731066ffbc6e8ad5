"""What is asked of the compiler: no sums of its own."""

import pytest
import torch
from torch._inductor.utils import run_and_get_code

from lsf.machine.compilers import sums_by_torch

INDEX = torch.arange(41) % 9


def summed(values):
    """Return sums of rows of a transposed tensor, the layout in which TorchInductor goes wrong."""
    return torch.zeros(9, 33, 20, dtype=values.dtype).index_add(0, INDEX, 2.0 * values.transpose(1, 2))


def generated(values):
    """Return what the compiled function gives, and its code."""
    torch._dynamo.reset()
    found, codes = run_and_get_code(torch.compile(summed, dynamic=True), values)
    return found, "".join(codes)


@pytest.mark.slow
def test_compiled_sums_are_torchs():
    values = torch.randn(41, 20, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch._inductor.config.patch({"cpp.threads": 2}):
        assert "atomic_add" in generated(values.clone())[1]  # what is to be avoided, still there
        with sums_by_torch():
            found, code = generated(values)
    assert "atomic_add" not in code
    torch.testing.assert_close(found, summed(values), rtol=0.0, atol=1e-14)


def test_the_mode_ends_with_the_block():
    def mode():
        setting = torch.utils.deterministic
        return torch.are_deterministic_algorithms_enabled(), setting.fill_uninitialized_memory

    def fail():
        assert mode() == (True, False)
        raise ValueError("inside")

    before = mode()
    with pytest.raises(ValueError, match="inside"), sums_by_torch():
        fail()
    assert mode() == before
