"""The ASE calculator of a compiled package (AOTInductor)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from torch import Tensor

from lsf.data.graph import collate
from lsf.engines.ase.calculator import LsfCalculator
from lsf.errors import LsfError
from lsf.formats.aoti.read import MISSING, PackageFile
from lsf.machine.allocator import keep_freed_memory_in_simulations

if TYPE_CHECKING:
    from lsf.formats.model_file.file import LoadedModel


class CompiledCalculator(LsfCalculator):
    """The ASE calculator of a compiled package.

    Parameters are those of :class:`lsf.engines.ase.calculator.LsfCalculator`, with a
    :class:`lsf.formats.aoti.read.PackageFile` or its path in place of the loaded model. Born charges and
    Hessians need the model in Python.
    """

    def __init__(self, file: PackageFile | str | Path, device: str = "cpu", **settings: Any) -> None:
        package = file if isinstance(file, PackageFile) else PackageFile(file, device)
        # what the calculator asks of a loaded model, a package has, too
        keep_freed_memory_in_simulations()
        super().__init__(cast("LoadedModel", package), device, **settings)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a property that the package holds."""
        if name in MISSING:
            raise PropertyNotImplementedError(
                f"{name}: compiled packages hold first derivatives; use the model file"
            )
        return super().get_property(name, atoms, allow_calculation)

    def outputs(self, batch: Any, compute: set[str]) -> dict[str, Tensor]:  # noqa: ARG002
        """Return all outputs: a package computes no less."""
        found: dict[str, Tensor] = self.model(batch)
        return found

    def evaluate_many(
        self,
        structures: Sequence[Atoms],
        properties: Sequence[str] = ("energy",),
        memory: float = 1.0,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        """Return the results of many structures, one after the other: its memory grows with every pair."""
        unknown = [name for name in properties if name in MISSING]
        if unknown:
            raise LsfError(f"{unknown[0]}: compiled packages hold first derivatives; use the model file")
        return [result for atoms in structures for result in self._one(atoms)]

    def _one(self, atoms: Atoms) -> list[dict[str, Any]]:
        batch = collate(self._graphs([atoms]))
        return self._by_structure(batch, self.outputs(batch, set()), [atoms])
