"""Exported TorchScript files in Python: neighbours from vesin, everything else from the file.

Nothing is unpickled, and neither the model's code nor its recipe is needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from lsf.data.finite import Name, by_index, check_results
from lsf.data.neighbors import NeighborCache, Neighbors, checked_neighbors, find_neighbors
from lsf.data.tables import joined
from lsf.errors import LsfError, ModelFileError
from lsf.formats.metadata import checked_metadata
from lsf.machine import torchscript

FORMAT: Final = "lsf-torchscript"
FORMAT_VERSION: Final = 1
METADATA_FILE: Final = "metadata.json"

Array = NDArray[Any]


class ScriptFile:
    """A model in a TorchScript file, with its metadata.

    Parameters
    ----------
    file : path or open file
    device : where to compute

    Raises
    ------
    LsfError
        on a device that this machine lacks, or that the file does not know: older ones are for the CPU.
    ModelFileError
        when the file is missing, damaged, no model of lsf, or of a newer format.
    """

    def __init__(self, file: str | Path | io.BytesIO, device: str = "cpu") -> None:
        self.device = _device(device)
        name = "file" if isinstance(file, io.BytesIO) else str(file)
        if not isinstance(file, io.BytesIO) and not Path(file).is_file():
            raise ModelFileError(f"{file}: there is no such model file")
        source = file if isinstance(file, io.BytesIO) else str(file)
        try:
            self.module, metadata = torchscript.load(source, self.device, METADATA_FILE)
        except RuntimeError as error:
            raise ModelFileError(f"{name}: not a readable TorchScript file ({error})") from error
        self.metadata = checked_metadata(metadata, FORMAT, FORMAT_VERSION, name, "a TorchScript file")
        if self.device.type != "cpu" and self.metadata.get("devices") != "any":
            raise LsfError(
                f"device {device!r}: {name} was written by an older lsf, for the CPU; expected 'cpu', or "
                "export the model anew"
            )
        self.module.eval()

    @property
    def cutoff(self) -> float:
        """Cutoff of the neighbour list in Å."""
        return float(self.metadata["cutoff"])

    @property
    def species(self) -> list[str]:
        """Chemical symbols the model knows."""
        return list(self.metadata["species"])

    def inputs(self, structures: Sequence[Atoms]) -> dict[str, Tensor]:
        """Return the arguments of the file's ``forward`` for ASE structures.

        Taken from them: positions, cell, pbc, numbers, ``info["external_field"]`` (gradient of the potential,
        V/Å), ``info["total_charge"]``, ``info["total_spin"]`` and ``arrays["formal_charges"]``.
        """
        parts = [
            structure_inputs(
                atoms.positions,
                np.array(atoms.cell),
                atoms.pbc,
                atoms.numbers,
                self.cutoff,
                external_field=atoms.info.get("external_field"),
                formal_charges=atoms.arrays.get("formal_charges"),
                total_charge=float(atoms.info.get("total_charge", 0.0)),
                total_spin=float(atoms.info.get("total_spin", 0.0)),
            )
            for atoms in structures
        ]
        return collated(parts)

    def evaluate(
        self, inputs: dict[str, Tensor], detail: int = 1, name: Name = by_index
    ) -> dict[str, Tensor]:
        """Return the outputs: energies and charges (``detail`` 0), forces and stress (1), the potential (2).

        Raises :class:`lsf.errors.LsfError` on an element, periodicity or cell the model cannot treat, and on
        energies or forces that are not finite; ``name`` is what atoms are called there.
        """
        moved = {name: value.to(self.device) for name, value in inputs.items()}
        try:
            with torchscript.without_optimizing_executor(), torch.enable_grad():
                found: dict[str, Tensor] = self.module(**moved, detail=detail)
        except torchscript.ScriptError as error:
            raise LsfError(_reason(error)) from error
        looked_at = [key for key in ("energy", "node_energy", "forces") if key in found]
        check_results({key: found[key].detach().cpu() for key in looked_at}, name)
        return found


class ScriptSystem:
    """One structure after the other, as a simulation moves it: checks, neighbours with a skin, evaluation.

    A mesh stays the same while a changing cell leaves it fit, as with lsf's own ASE calculator.

    Parameters
    ----------
    file : the model
    symbols : chemical symbol of every atom
    skin : Å; neighbours are searched anew when an atom has moved half of it
    total_charge, total_spin : e, and number of unpaired electrons, for models that are told them

    Raises
    ------
    LsfError
        on an element the model does not know, and on a total charge or spin that it does not see.
    """

    def __init__(
        self,
        file: ScriptFile,
        symbols: Sequence[str],
        skin: float = 0.5,
        total_charge: float = 0.0,
        total_spin: float = 0.0,
    ) -> None:
        check_state(file, total_charge, total_spin)
        self.file = file
        self.set_symbols(symbols)
        self.neighbors = NeighborCache(skin)
        self.mesh = [0, 0, 0, 0]
        self.state: dict[str, Any] = {"total_charge": total_charge, "total_spin": total_spin}
        self.name: Name = by_index
        """What messages call the atom of an index; a program that counts otherwise sets it."""

    def set_symbols(self, symbols: Sequence[str]) -> None:
        """Take other elements for the same atoms: programs may swap them. Errors as at the beginning."""
        unknown = sorted(set(symbols) - set(self.file.species))
        if unknown:
            raise LsfError(
                f"the model {self.file.metadata['name']} does not know {', '.join(unknown)}; "
                f"its elements: {', '.join(self.file.species)}"
            )
        numbers = dict(zip(self.file.species, self.file.metadata["atomic_numbers"], strict=True))
        self.atomic_numbers = np.array([numbers[symbol] for symbol in symbols], dtype=np.int64)

    def check(self, pbc: Array) -> None:
        """Refuse a periodicity that the model cannot treat, before anything moves."""
        count, able = int(np.count_nonzero(pbc)), self.file.metadata["periodic_directions"]
        if count not in able:
            raise LsfError(
                f"the model {self.file.metadata['name']} (boundary {self.file.metadata['boundary']}) treats "
                f"structures with {' or '.join(map(str, able))} periodic directions, not {count}"
            )

    def evaluate(
        self, positions: Array, cell: Array, pbc: Array, detail: int = 1, **other: Any
    ) -> dict[str, Array]:
        """Return the outputs as arrays, in eV, Å and e; ``other`` as in :func:`structure_inputs`.

        ``positions`` must be unwrapped where dipoles or fields matter.
        """
        periodic = np.asarray(pbc, dtype=np.bool_)
        positions, cell = np.asarray(positions), np.asarray(cell)
        near = checked_neighbors(self.neighbors, positions, cell, periodic, self.file.cutoff, self.name)
        inputs = structure_inputs(
            positions, cell, periodic, self.atomic_numbers, self.file.cutoff, near, **self.state, **other
        )
        with self._kept_mesh():
            found = self.file.evaluate(inputs, detail, self.name)
        return {name: value.cpu().numpy() for name, value in found.items()}

    @contextmanager
    def _kept_mesh(self) -> Iterator[None]:
        """Keep the mesh of the last step while it is fit, so that a moving cell makes no jumps."""
        # files written before there were meshes in them have none
        meshes = getattr(self.file.module.planner, "meshes", None)
        if meshes is None:
            yield
            return
        meshes.keeps, meshes.kept = True, self.mesh
        try:
            yield
        finally:
            self.mesh, meshes.keeps = list(meshes.kept), False


def _device(name: str) -> torch.device:
    """Return a device that is there and knows float64."""
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LsfError(f"device {name!r}: not usable here ({reason}); expected 'cpu' or 'cuda'") from error
    return device


def check_state(file: ScriptFile, total_charge: float, total_spin: float) -> None:
    """Refuse a total charge or spin that a model does not see: it would change nothing, silently."""
    for name, value in (("total_charge", total_charge), ("total_spin", total_spin)):
        if value != 0.0 and not file.metadata[f"sees_{name}"]:
            raise LsfError(
                f"{name} = {value:g}: the model {file.metadata['name']} does not see it "
                f"(model.{name}_embedding = false)"
            )


def structure_inputs(
    positions: Array,
    cell: Array,
    pbc: Array,
    atomic_numbers: Array,
    cutoff: float,
    neighbors: Neighbors | None = None,
    external_field: Array | None = None,
    formal_charges: Array | None = None,
    total_charge: float = 0.0,
    total_spin: float = 0.0,
) -> dict[str, Tensor]:
    """Return the arguments of a file's ``forward`` for one structure; positions and cell in Å.

    ``neighbors`` are those of :func:`lsf.data.neighbors.checked_neighbors`, searched where not given.
    """
    positions = np.ascontiguousarray(positions, dtype=np.float64)
    cell = np.ascontiguousarray(cell, dtype=np.float64).reshape(3, 3)
    periodic = np.asarray(pbc, dtype=np.bool_).reshape(3)
    if neighbors is None:
        neighbors = checked_neighbors(find_neighbors, positions, cell, periodic, cutoff)
    field = np.zeros(3) if external_field is None else np.asarray(external_field, dtype=np.float64)
    charges = np.zeros(0) if formal_charges is None else np.asarray(formal_charges, dtype=np.float64)
    return {
        "positions": torch.tensor(positions),
        "cell": torch.tensor(cell).unsqueeze(0),
        "pbc": torch.tensor(periodic).unsqueeze(0),
        "atomic_numbers": torch.tensor(np.asarray(atomic_numbers, dtype=np.int64)),
        "edge_index": torch.tensor(neighbors.edge_index),
        "unit_shifts": torch.tensor(neighbors.unit_shifts.astype(np.float64)),
        "batch": torch.zeros(len(positions), dtype=torch.int64),
        "external_field": torch.tensor(field).reshape(1, 3),
        "formal_charges": torch.tensor(charges),
        "total_charge": torch.tensor([total_charge], dtype=torch.float64),
        "total_spin": torch.tensor([total_spin], dtype=torch.float64),
    }


def collated(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the arguments of several structures as those of one batch."""
    return joined(parts, torch.cat)


def _reason(error: Exception) -> str:
    """Return what the file says is wrong, without its trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("RuntimeError: ") if lines else "the model file failed"
