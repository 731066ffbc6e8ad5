"""A model in torch-sim: many systems in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lsf.data.neighbors import NeighborCache, checked_neighbors
from lsf.errors import LsfError, MissingExtraError
from lsf.formats.torchscript.read import ScriptFile, check_state, collated, structure_inputs
from lsf.machine.allocator import keep_freed_memory_in_simulations

try:
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    raise MissingExtraError("torch-sim-atomistic", "torchsim", "a model of torch-sim") from error


class LsfModel(ModelInterface):  # type: ignore[misc]
    """A model of torch-sim.

    Parameters
    ----------
    file : exported TorchScript file
    device : where to compute
    dtype : of the states it is used with, float64 or float32; inside, positions are float64
    electric_field : physical uniform field in V/Å, the same for all systems
    formal_charges_from : charge by atomic number, for models that read charges from data
    total_charge, total_spin : the same for all systems, for models that are told them
    skin : Å; a system's neighbours are searched anew when one of its atoms has moved half of it

    ``forward`` returns energy (n_systems,) eV, forces (n_atoms, 3) eV/Å and stress (n_systems, 3, 3) eV/Å³,
    and ``charges`` (n_atoms,) e and ``dipole`` (n_systems, 3) e·Å. torch-sim does not know how often an atom
    has crossed the cell: a field on charged species is refused in periodic systems.
    """

    def __init__(
        self,
        file: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float64,
        electric_field: Sequence[float] | None = None,
        formal_charges_from: dict[int, float] | None = None,
        total_charge: float = 0.0,
        total_spin: float = 0.0,
        skin: float = 0.5,
    ) -> None:
        super().__init__()
        self.skin = skin
        self._neighbors: list[NeighborCache] = []  # by system
        self.file = ScriptFile(file, str(device))
        keep_freed_memory_in_simulations()
        self._device, self._dtype = torch.device(device), dtype
        self._compute_stress = self._compute_forces = True
        self._memory_scales_with = "n_atoms_x_density"
        self.field = np.zeros(3) if electric_field is None else np.asarray(electric_field, dtype=np.float64)
        self.charge_of = formal_charges_from
        check_state(self.file, total_charge, total_spin)
        self.state: dict[str, Any] = {"total_charge": total_charge, "total_spin": total_spin}
        if self.file.metadata["formal_charges"] == "from_data" and formal_charges_from is None:
            raise LsfError("this model needs formal_charges_from, a charge by atomic number")

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Return the outputs of a state, or of a dictionary with the same entries.

        Raises :class:`lsf.errors.LsfError` on an element or periodicity the model does not know.
        """
        take = state.__getitem__ if isinstance(state, dict) else lambda name: getattr(state, name)
        cells = take("cell").transpose(1, 2) if isinstance(state, dict) else take("row_vector_cell")
        owner, numbers = take("system_idx"), take("atomic_numbers").cpu().numpy()
        pbc = np.broadcast_to(np.asarray(take("pbc")), (3,))
        if self.field.any() and pbc.any() and self.file.metadata["unwrapped_positions"]:
            raise LsfError("a field on charged species in a periodic system needs unwrapped positions")
        positions = take("positions").detach().double().cpu().numpy()
        systems, parts = owner.cpu().numpy(), []
        for index, cell in enumerate(cells.detach().double().cpu().numpy()):
            mine = systems == index
            charges = None
            if self.charge_of is not None:
                charges = np.array([self.charge_of[int(number)] for number in numbers[mine]])
            box = cell if pbc.any() else np.zeros((3, 3))
            if index == len(self._neighbors):
                self._neighbors.append(NeighborCache(self.skin))
            search = self._neighbors[index]
            near = checked_neighbors(search, positions[mine], box, pbc, self.file.cutoff)
            parts.append(
                structure_inputs(
                    positions[mine],
                    box,
                    pbc,
                    numbers[mine],
                    self.file.cutoff,
                    near,
                    external_field=-self.field,
                    formal_charges=charges,
                    **self.state,
                )
            )
        found = self.file.evaluate(collated(parts))
        named = {
            "energy": found["energy"],
            "forces": found["forces"],
            "stress": found["stress"],
            "charges": found["partial_charges"],
            "dipole": found["dipole"],
        }
        return {name: value.to(self._device, self._dtype) for name, value in named.items()}
