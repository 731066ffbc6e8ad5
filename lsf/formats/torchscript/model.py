"""What an exported TorchScript file does: lists, one call of the traced model, derivatives.

Compiled by TorchScript: plain tensors and integers only, no optional packages.
"""

import torch
from torch import Tensor, nn

from lsf.data.graph import group_by_species, neighbor_slots
from lsf.electrostatics.differentiate import deformable, derivatives, potential, virial_and_stress
from lsf.formats.torchscript.plan import ScriptPlanner

NO_CHARGES, BY_ELEMENT, PER_ATOM = 0, 1, 2


class ScriptModel(nn.Module):
    """A model that needs nothing but torch.

    ``forward`` takes one or more structures, everything in eV, Å and e, float64:

    ================  =====================  ================================================================
    positions         (n_atoms, 3)           unwrapped where dipoles or fields matter, see the metadata
    cell              (n_graphs, 3, 3)       rows are lattice vectors
    pbc               (n_graphs, 3) bool
    atomic_numbers    (n_atoms,) int64
    edge_index        (2, n_edges) int64     sender, receiver of all directed pairs within the cutoff
    unit_shifts       (n_edges, 3)           vector of an edge: r_receiver - r_sender + unit_shifts @ cell
    batch             (n_atoms,) int64       structure of each atom, ascending
    external_field    (n_graphs, 3)          V/Å, gradient of the potential
    formal_charges    (n_atoms,) or (0,)     e; empty where the model knows them by element
    total_charge      (n_graphs,)            e, used by models that are told it
    total_spin        (n_graphs,)            likewise
    ================  =====================  ================================================================

    and return a dictionary of tensors, see ``outputs`` in the metadata.
    """

    species: Tensor
    charges: Tensor

    def __init__(
        self,
        traced: nn.Module,
        names: list[str],
        planner: ScriptPlanner,
        species: list[int],
        charges: list[float] | None,
        rule: int,
        charge_range: tuple[float, float],
        cutoff: float,
        sees_state: bool,
    ) -> None:
        super().__init__()
        self.traced = traced
        self.names = names
        self.planner = planner
        self.register_buffer("species", torch.tensor(species, dtype=torch.int64))
        table = charges if charges is not None else [0.0] * len(species)
        self.register_buffer("charges", torch.tensor(table, dtype=torch.float64))
        # read by programs that have no JSON at hand: attributes of the module in C++
        self.rule = rule
        self.cutoff = cutoff
        self.sees_state = sees_state
        self.kinds = planner.kinds
        self.charge_low, self.charge_high = charge_range
        self.no_charges, self.by_element = NO_CHARGES, BY_ELEMENT

    def forward(
        self,
        positions: Tensor,
        cell: Tensor,
        pbc: Tensor,
        atomic_numbers: Tensor,
        edge_index: Tensor,
        unit_shifts: Tensor,
        batch: Tensor,
        external_field: Tensor,
        formal_charges: Tensor,
        total_charge: Tensor,
        total_spin: Tensor,
        detail: int = 1,
    ) -> dict[str, Tensor]:
        """Return energies and charges; from ``detail`` 1 on forces and stress, with 2 the potential."""
        species = self.species_of(atomic_numbers)
        charges = self.charges_of(species, formal_charges)
        present, slots, place = group_by_species(species)
        order = torch.argsort(edge_index[1], stable=True)
        edges, shifts = edge_index[:, order], unit_shifts[order]

        plan = self.planner(positions.detach(), cell.detach(), pbc, batch)

        moving, strain, moved, strained = deformable(positions, plan.cell, batch)
        charges = charges.detach().requires_grad_(detail >= 2)
        values = self.traced(
            moved,
            strained,
            species,
            present,
            slots,
            place,
            edges,
            shifts,
            neighbor_slots(edges, species.shape[0]),
            batch,
            charges,
            external_field,
            total_charge,
            total_spin,
            plan.kind,
            plan.slab_axis,
            plan.slab_length,
            plan.k_triplets,
            plan.k_batch,
            plan.layer_pairs,
            plan.layer_batch,
            plan.mesh_size,
            plan.mesh_order,
            plan.open_box,
            plan.truncation_radius,
        )
        found: dict[str, Tensor] = {}
        for index, name in enumerate(self.names):
            found[name] = values[index]
        return self.differentiated(found, moving, strain, plan.cell, detail)

    def differentiated(
        self, found: dict[str, Tensor], moving: Tensor, strain: Tensor, cell: Tensor, detail: int
    ) -> dict[str, Tensor]:
        """Return the outputs with the derivatives that ``detail`` asks for, without their graph."""
        if detail >= 1:
            gradients = derivatives(found["energy"], [moving, strain], detail >= 2)
            found["forces"] = -gradients[0]
            found["virial"], found["stress"] = virial_and_stress(gradients[1], cell)
        if detail >= 2:
            found["potential"] = potential(found["energy_coulomb"], found["density_coefficients"])
        result: dict[str, Tensor] = {}
        for name, value in found.items():
            result[name] = value.detach()
        return result

    def species_of(self, atomic_numbers: Tensor) -> Tensor:
        """Return the index of every element among the model's."""
        known = self.species
        index = torch.searchsorted(known, atomic_numbers).clamp(max=known.shape[0] - 1)
        wrong = known[index] != atomic_numbers
        if bool(wrong.any()):
            raise RuntimeError(
                "this model does not know the element with atomic number "
                + str(int(atomic_numbers[wrong][0]))
            )
        return index

    def charges_of(self, species: Tensor, formal_charges: Tensor) -> Tensor:
        """Return formal charges (n_atoms,)."""
        if self.rule == self.no_charges:
            return torch.zeros(species.shape, dtype=torch.float64, device=species.device)
        if self.rule == self.by_element:
            return self.charges[species]
        if formal_charges.shape[0] != species.shape[0]:
            raise RuntimeError("this model needs the formal charge of every atom, which was not given")
        low, high = float(formal_charges.min()), float(formal_charges.max())
        if low < self.charge_low or high > self.charge_high:
            raise RuntimeError("a formal charge is outside of the range that this model covers")
        return formal_charges
