"""One thread per test process, and Triton's interpreter where there is no GPU."""

import os

import torch

# the machines have two cores and the structures are small
torch.set_num_threads(1)

if not torch.cuda.is_available():
    # Triton reads this when it is first imported, which torch-geometric may do
    os.environ.setdefault("TRITON_INTERPRET", "1")
