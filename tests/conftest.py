"""One thread per test process: the machines have two cores and the structures are small."""

import torch

torch.set_num_threads(1)
