"""An exported model as metatomic wants it: systems in, tensor maps out; compiled by TorchScript.

``python -m lsf.formats.metatomic.model MODEL.safetensors OUT DTYPE`` writes a file: metatensor has to be
imported before torch-geometric, so that this is a process of its own.
"""

import sys
from pathlib import Path
from typing import Dict, List, Optional  # noqa: UP035, TorchScript reads these

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import ModelOutput, NeighborListOptions, System
from torch import Tensor, nn


class MetatomicModel(nn.Module):
    """A model in metatomic's interface: ``energy`` of systems, and ``charge`` of atoms where it has charges.

    Engines differentiate the energy by positions and cells. The exported model brings its own forces and
    virial, which are put into a linear function of both: its value is the energy and its first derivatives
    are the model's; there are no second ones.
    """

    def __init__(self, model: nn.Module, cutoff: float) -> None:
        super().__init__()
        self.model = model
        self.neighbors = NeighborListOptions(cutoff=cutoff, full_list=True, strict=True)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        """Return what the engine is to search."""
        return [self.neighbors]

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels] = None,  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        """Return what is asked for; an error where only some atoms, or energies of atoms, are."""
        if selected_atoms is not None:
            raise ValueError("lsf: energies belong to whole systems: there is none of selected atoms")
        if "energy" in outputs and outputs["energy"].sample_kind != "system":
            raise ValueError("lsf: energies belong to whole systems: there is none of single atoms")
        energies: List[Tensor] = []  # noqa: UP006
        charges: List[Tensor] = []  # noqa: UP006
        samples: List[Tensor] = []  # noqa: UP006
        for index, system in enumerate(systems):
            energy, charge = self.single(system)
            energies.append(energy)
            charges.append(charge)
            place = torch.arange(len(system), device=charge.device)
            samples.append(torch.stack([torch.full_like(place, index), place], 1))
        found: Dict[str, TensorMap] = {}  # noqa: UP006
        device = systems[0].positions.device
        if "energy" in outputs:
            rows = Labels(["system"], torch.arange(len(systems), device=device).reshape(-1, 1))
            found["energy"] = self.scalar("energy", torch.cat(energies).reshape(-1, 1), rows)
        if "charge" in outputs:
            rows = Labels(["system", "atom"], torch.cat(samples))
            found["charge"] = self.scalar("charge", torch.cat(charges).reshape(-1, 1), rows)
        return found

    def scalar(self, name: str, values: Tensor, samples: Labels) -> TensorMap:
        """Return a map of one block with one property."""
        key = Labels(["_"], torch.zeros(1, 1, dtype=torch.int64, device=values.device))
        properties = Labels([name], torch.zeros(1, 1, dtype=torch.int64, device=values.device))
        components: List[Labels] = []  # noqa: UP006
        return TensorMap(key, [TensorBlock(values, samples, components, properties)])

    def single(self, system: System) -> tuple[Tensor, Tensor]:
        """Return energy (1,) eV, differentiable by positions and cell, and charges (n_atoms,) e."""
        positions, cell = system.positions, system.cell
        pairs = system.get_neighbor_list(self.neighbors).samples.values.to(torch.int64)
        count = positions.shape[0]
        numbers = torch.zeros(1, dtype=positions.dtype, device=positions.device)
        derivatives = torch.is_grad_enabled() and (positions.requires_grad or cell.requires_grad)
        values = self.model(
            positions.detach(),
            cell.detach().unsqueeze(0),
            system.pbc.unsqueeze(0),
            system.types.to(torch.int64),
            pairs[:, :2].t().contiguous(),
            pairs[:, 2:].to(positions.dtype),
            torch.zeros(count, dtype=torch.int64, device=positions.device),
            torch.zeros(1, 3, dtype=positions.dtype, device=positions.device),
            torch.zeros(0, dtype=positions.dtype, device=positions.device),
            numbers,
            numbers,
            1 if derivatives else 0,
        )
        energy = values["energy"].detach()
        if derivatives:
            forces = values["forces"].detach()
            energy = energy - (forces * (positions - positions.detach())).sum()
            if bool(system.pbc.any()):
                # dE/dstrain = -virial = -positionsᵀ forces + cellᵀ dE/dcell
                moment = positions.detach().t() @ forces - values["virial"].detach()[0]
                by_cell = torch.linalg.pinv(cell.detach().t()) @ moment
                energy = energy + (by_cell * (cell - cell.detach())).sum()
        return energy, values["partial_charges"].detach()


def main() -> int:
    """Write the file that the command line names."""
    from lsf.errors import LsfError
    from lsf.formats.metatomic.write import write
    from lsf.formats.model_file.file import load_model
    from lsf.formats.torchscript.write import TorchScriptOptions

    source, out, dtype = sys.argv[1:]
    try:
        options = TorchScriptOptions("float32" if dtype == "float32" else "float64")
        told = write(load_model(source), Path(out), options, MetatomicModel)
    except LsfError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
