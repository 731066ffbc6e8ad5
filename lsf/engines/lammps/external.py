"""A model in LAMMPS through ``fix external``: no compiler, any number of MPI processes.

All atoms are gathered on the first process, which evaluates the whole cell; the others wait. A model with
charges sees every atom, so there is nothing to divide.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lsf.errors import LsfError, MissingExtraError
from lsf.formats.torchscript.read import ScriptFile, ScriptSystem
from lsf.machine.allocator import keep_freed_memory_in_simulations

Array = NDArray[Any]
Field = Sequence[str | float]

EXTRAS: Final = (
    "dipole_x",
    "dipole_y",
    "dipole_z",
    "total_charge",
    "energy_atomic",
    "energy_short_range",
    "energy_coulomb",
    "energy_field",
)
"""What the fix's vector holds, ``f_<id>[1]`` …, in e·Å, e and eV."""


class LammpsModel:
    """A model that acts on all atoms of a LAMMPS instance.

    Parameters
    ----------
    lmp : LAMMPS instance in ``units metal`` whose atoms exist
    file : exported TorchScript file
    elements : chemical symbol of every atom type, in order
    electric_field : physical uniform field in V/Å: three numbers or names of equal-style variables
    fix_id : name of the fix
    skin : Å, see :class:`lsf.formats.torchscript.read.ScriptSystem`
    total_charge, total_spin : for models that are told them

    Raises
    ------
    LsfError
        when units, atom types, periodicity or charges do not suit the model.

    Forces, energy and virial act as the fix's (``fix_modify energy yes virial yes`` is set). Atoms are
    unwrapped by their image flags. Charges are written into ``atom->q`` where the atom style has it, unless
    the model reads its formal charges from there. ``f_<id>[n]`` are :data:`EXTRAS`. Types may change during a
    run. All atoms count, whatever ``neigh_modify exclude`` says; fix external has no per-atom virial, so that
    what asks for one (``compute stress/atom``, heat fluxes) finds no numbers there (NaN).
    """

    def __init__(
        self,
        lmp: Any,
        file: str | Path,
        elements: Sequence[str],
        electric_field: Field | None = None,
        fix_id: str = "lsf",
        skin: float = 0.5,
        total_charge: float = 0.0,
        total_spin: float = 0.0,
    ) -> None:
        self.state = {"total_charge": total_charge, "total_spin": total_spin}
        self.lmp, self.fix_id, self.elements = lmp, fix_id, list(elements)
        self.field = None if electric_field is None else list(electric_field)
        self.comm = _communicator()
        self.file = ScriptFile(file)
        keep_freed_memory_in_simulations()
        self.skin = skin
        self.failure: Exception | None = None
        self._check()
        numbers, _, _ = self._gathered()
        self.system: ScriptSystem | None = None
        if numbers is not None:
            self.system = ScriptSystem(self.file, self._symbols(numbers), skin, **self.state)
        self._box()
        lmp.command(f"fix {fix_id} all external pf/callback 1 1")
        lmp.command(f"fix_modify {fix_id} energy yes virial yes")
        lmp.fix_external_set_vector_length(fix_id, len(EXTRAS))
        lmp.set_fix_external_callback(fix_id, self._callback, self)
        # everything that can be wrong is wrong now, not in the middle of a run
        self._evaluate()

    def run(self, command: str) -> None:
        """Do a LAMMPS command such as ``run 100`` and raise what went wrong inside the model."""
        self.lmp.command(command)
        if self.failure is not None:
            raise self.failure

    def _check(self) -> None:
        units = self.lmp.extract_global("units")
        if units != "metal":
            raise LsfError(f"units {units}: the model works in eV and Å; expected units metal")
        n_types = self.lmp.extract_global("ntypes")
        if len(self.elements) != n_types:
            raise LsfError(
                f"elements: found {len(self.elements)} symbols for {n_types} atom types; expected one each"
            )
        if len(self.field or [0, 0, 0]) != 3:
            raise LsfError(f"electric_field: found {self.field!r}; expected three numbers or variable names")
        ScriptSystem(self.file, self.elements, skin=self.skin, **self.state).check(self._periodicity())
        reads = self.file.metadata["formal_charges"] == "from_data"
        if reads and not self._has_charges():
            raise LsfError("this model reads formal charges from atom->q: use atom_style charge or full")

    def _has_charges(self) -> bool:
        return bool(self.lmp.extract_setting("q_flag"))

    def _periodicity(self) -> Array:
        return np.array(self.lmp.extract_box()[5], dtype=bool)

    def _box(self) -> tuple[Array, Array]:
        """Return the cell (3, 3) in Å and its periodicity; open directions of a molecule have no length."""
        low, high, xy, yz, xz, periodic, _ = self.lmp.extract_box()
        lengths = np.array(high) - np.array(low)
        cell = np.diag(lengths)
        cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
        pbc = np.array(periodic, dtype=bool)
        return (cell if pbc.any() else np.zeros((3, 3))), pbc

    def _gathered(self) -> tuple[Array | None, list[int], int]:
        """Return [id, type, x, y, z, q] of all atoms by id, the counts of the processes, and the own count.

        The array is None on all processes but the first.
        """
        n_local = self.lmp.extract_setting("nlocal")
        take = self.lmp.numpy.extract_atom
        cell, _ = self._box()
        images = _images(np.array(take("image"))[:n_local])
        positions = np.array(take("x"))[:n_local].reshape(-1, 3) + images @ cell
        charges = np.array(take("q"))[:n_local] if self._has_charges() else np.zeros(n_local)
        columns = [np.array(take("id"))[:n_local], np.array(take("type"))[:n_local], *positions.T, charges]
        rows = np.stack([np.asarray(column, dtype=np.float64) for column in columns], 1)
        parts = [rows] if self.comm is None else self.comm.gather(rows)
        if parts is None:
            return None, [], n_local
        together = np.concatenate(parts)
        return together[np.argsort(together[:, 0])], [len(part) for part in parts], n_local

    def _symbols(self, rows: Array) -> list[str]:
        return [self.elements[index - 1] for index in rows[:, 1].astype(int)]

    def _evaluate(self) -> dict[str, Array] | None:
        """Return the outputs on the first process; errors are raised on all."""
        rows, _, _ = self._gathered()
        cell, pbc = self._box()
        field = self._external_field()
        found: dict[str, Array] | None = None
        failure: Exception | None = None
        if rows is not None and self.system is not None:
            given: dict[str, Any] = {"external_field": field}
            if self.file.metadata["formal_charges"] == "from_data":
                given["formal_charges"] = rows[:, 5]
            try:
                if len(rows) != len(self.system.atomic_numbers):
                    raise LsfError("the number of atoms changed: make the LammpsModel after adding atoms")
                # Monte Carlo swaps, set and the like change types between steps
                self.system.set_symbols(self._symbols(rows))
                ids = rows[:, 0].astype(np.int64)
                self.system.name = lambda index: f"with ID {ids[index]}"
                found = self.system.evaluate(rows[:, 2:5], cell, pbc, **given)
            except (LsfError, RuntimeError) as error:
                failure = error
        if self.comm is not None:
            failure = self.comm.bcast(failure)
        if failure is not None:
            raise failure
        if found is not None and rows is not None:
            found["id"] = rows[:, 0]
        return found

    def _external_field(self) -> Array:
        """Return the gradient of the potential (3,) V/Å at this step."""
        values = []
        for part in self.field or ():
            value = self.lmp.extract_variable(part) if isinstance(part, str) else part
            if value is None:
                raise LsfError(f"electric_field: there is no equal-style variable {part!r}")
            values.append(float(value))
        return -np.array(values) if values else np.zeros(3)

    def _callback(self, *given: Any) -> None:
        """Fill in the forces of this process's atoms; LAMMPS calls it on every step."""
        _, _, _, tag, _, force = given
        try:
            self._apply(tag, force)
        except Exception as error:
            # an exception cannot pass through LAMMPS: the run ends and ``run`` raises it
            self.failure = error
            force[:] = 0.0
            self.lmp.force_timeout()

    def _apply(self, tag: Array, force: Array) -> None:
        found = self._evaluate()
        shared: Any = None
        if found is not None:
            extras = [float(value) for value in found["dipole"][0]]
            extras += [float(found[name][0]) for name in EXTRAS[3:]]
            virial = found["virial"][0]
            shared = (
                found["id"].astype(np.int64),
                np.column_stack([found["forces"], found["node_energy"], found["partial_charges"]]),
                float(found["energy"][0]),
                [virial[0, 0], virial[1, 1], virial[2, 2], virial[0, 1], virial[0, 2], virial[1, 2]],
                extras,
            )
        if self.comm is not None:
            shared = self.comm.bcast(shared)
        ids, per_atom, energy, virial, extras = shared
        mine = per_atom[np.searchsorted(ids, np.asarray(tag, dtype=np.int64))]
        force[:] = mine[:, :3]
        lmp, name = self.lmp, self.fix_id
        lmp.fix_external_set_energy_global(name, energy)
        lmp.fix_external_set_virial_global(name, virial)
        lmp.fix_external_set_energy_peratom(name, mine[:, 3].tolist())
        # a Coulomb energy belongs to no single atom; zeros would look like a result
        lmp.fix_external_set_virial_peratom(name, np.full((len(mine), 6), np.nan).tolist())
        for index, value in enumerate(extras):
            lmp.fix_external_set_vector(name, index + 1, value)
        if self._has_charges() and self.file.metadata["formal_charges"] != "from_data":
            lmp.numpy.extract_atom("q")[: len(mine)] = mine[:, 4]


def _images(packed: Array) -> Array:
    """Return image flags (n, 3) of LAMMPS's packed integers: 10 bits each in 32-bit builds, else 21."""
    bits = 10 if packed.dtype.itemsize == 4 else 21
    mask, middle = (1 << bits) - 1, 1 << (bits - 1)
    values = packed.astype(np.int64)
    return np.stack([((values >> (bits * axis)) & mask) - middle for axis in range(3)], 1)


def _communicator() -> Any:
    """Return the communicator of several MPI processes, None for one."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise MissingExtraError("mpi4py", "lammps", "fix external") from error
    return MPI.COMM_WORLD if MPI.COMM_WORLD.size > 1 else None
