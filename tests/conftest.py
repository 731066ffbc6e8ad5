"""One thread per test process, and Triton's interpreter where there is no GPU."""

import logging
import os

import torch

# the machines have two cores and the structures are small
torch.set_num_threads(1)

# pytest would format every step that torch's tracer takes, which is most of the time of a compilation
logging.getLogger("torch.__trace").propagate = False

if not torch.cuda.is_available():
    # Triton reads this when it is first imported, which torch-geometric may do
    os.environ.setdefault("TRITON_INTERPRET", "1")
