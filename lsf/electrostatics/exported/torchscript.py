r"""The two heavy Coulomb sums for models that leave Python: TorchScript functions with explicit derivatives.

``autograd.Function`` cannot be saved, and autograd itself would keep n_atoms × n_k numbers. Here each sum is
worked off in chunks, its first derivatives g are made explicitly at the same time, and a surrogate carries
them through autograd:

.. math:: E = E_0 + \sum_x g_x \cdot (x - x_0), \qquad E_0, g_x, x_0 \text{ constants}

Its value is exact and so is its first derivative; there is no second one. Memory is O(n_atoms + n_k), on a
mesh O(n_atoms + n_mesh). Which structures are summed on a mesh the plan says, as in Python.
Everything around the sums (cells, moments, kernels in k, corrections) is the eager code, traced.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lsf.electrostatics.boundary import KIND_OPEN
from lsf.electrostatics.mesh.errors import ORDERS
from lsf.electrostatics.mesh.splines import piece_coefficients
from lsf.electrostatics.mesh.sums import amplitudes_of, mesh_of, mesh_waves
from lsf.electrostatics.mesh.transfer import cube, interpolate, sorted_blocks, spread
from lsf.electrostatics.multipoles import dipoles, max_degree, monomials, quadrupoles
from lsf.electrostatics.open_space import TABLE_END, TABLE_STEPS, taylor_table
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.machine.caches import constant
from lsf.machine.torchscript import script_if_tracing
from lsf.units import COULOMB_CONSTANT

CHUNK_ELEMENTS = 2**18
"""Phases or pairs worked on at a time, two megabytes an array."""


def reciprocal_energy(
    fractional: Tensor, moments: Tensor, weights: Tensor, batch: Tensor, plan: CoulombPlan, degree: int
) -> Tensor:
    r"""Return ``Σ_n w_n |F_n|²`` of every structure, (n_graphs,), once differentiable.

    ``fractional`` (n_atoms, 3), ``moments`` (n_atoms, n_monomials(degree)), ``weights`` (n_k,); F as in
    :mod:`lsf.electrostatics.fourier.pair`. Atoms and wave vectors of a structure stand together.
    """
    higher = monomials(degree + 1)
    raised = [[higher.index(_plus(e, axis)) for e in monomials(degree)] for axis in range(3)]
    kept = [higher.index(exponents) for exponents in monomials(degree)]
    sums: Tensor = _reciprocal_sums(
        fractional,
        moments,
        weights,
        batch,
        plan.k_triplets,
        plan.k_batch,
        plan.mesh_size,
        plan.mesh_order,
        torch.tensor(higher, dtype=torch.int64),
        torch.tensor([kept, *raised], dtype=torch.int64),
        torch.tensor(cube(degree)[0], dtype=torch.int64),
        torch.tensor(cube(degree + 1)[1], dtype=torch.int64),
        [piece_coefficients(order, degree + 1, torch.float64, torch.device("cpu")) for order in ORDERS],
        degree,
        CHUNK_ELEMENTS,
    )
    return sums


def _plus(exponents: tuple[int, int, int], axis: int) -> tuple[int, int, int]:
    a, b, c = exponents
    return (a + (axis == 0), b + (axis == 1), c + (axis == 2))


@script_if_tracing
def _reciprocal_sums(
    fractional: Tensor,
    moments: Tensor,
    weights: Tensor,
    batch: Tensor,
    k_triplets: Tensor,
    k_batch: Tensor,
    mesh_size: Tensor,
    mesh_order: Tensor,
    exponents: Tensor,
    places: Tensor,
    columns: Tensor,
    rows: Tensor,
    pieces: list[Tensor],
    degree: int,
    chunk: int,
) -> Tensor:
    """The sums of :func:`reciprocal_energy`.

    ``exponents`` (n_c', 3) are the monomials of one degree more; ``places`` (4, n_c) say where among them
    stand those of the degree itself and the ones raised along each axis. ``columns`` and ``rows`` are the
    lists of :func:`lsf.electrostatics.mesh.transfer.cube`, ``pieces`` the splines by order of derivative
    ``degree + 1``.
    """
    n_graphs = mesh_order.shape[0]
    device = moments.device
    exponents, places = exponents.to(device), places.to(device)
    squares = torch.zeros_like(weights)
    by_moment = torch.zeros_like(moments)
    by_position = torch.zeros_like(fractional)
    with torch.no_grad():
        atoms = torch.cumsum(torch.bincount(batch, minlength=n_graphs), 0)
        waves = torch.cumsum(torch.bincount(k_batch, minlength=n_graphs), 0)
        first_atom, first_wave = 0, 0
        for graph in range(n_graphs):
            last_atom, last_wave = int(atoms[graph]), int(waves[graph])
            s, m = fractional[first_atom:last_atom], moments[first_atom:last_atom]
            n, w = k_triplets[first_wave:last_wave], weights[first_wave:last_wave]
            order = int(mesh_order[graph])
            if order > 0:
                size = [int(mesh_size[graph, 0]), int(mesh_size[graph, 1]), int(mesh_size[graph, 2])]
                table = pieces[0]
                for other in pieces:
                    if other.shape[0] == order:
                        table = other
                found, gathered = mesh_sums(
                    s, m, n, w, size, order, table.to(m), columns.to(device), rows.to(device), degree, chunk
                )
            else:
                found, gathered = direct_sums(s, m, n, w, exponents, places[0], chunk)
            squares[first_wave:last_wave] = found
            by_moment[first_atom:last_atom] = gathered[:, places[0]]
            for axis in range(3):
                by_position[first_atom:last_atom, axis] = (m * gathered[:, places[axis + 1]]).sum(1)
            first_atom, first_wave = last_atom, last_wave
    terms = torch.zeros([n_graphs], dtype=weights.dtype, device=device)
    terms = terms.index_add(0, k_batch, weights * squares)
    change = (by_moment * (moments - moments.detach())).sum(1)
    change = change + (by_position * (fractional - fractional.detach())).sum(1)
    return terms.index_add(0, batch, change)


def direct_sums(
    fractional: Tensor, m: Tensor, triplets: Tensor, w: Tensor, exponents: Tensor, kept: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Return ``|F_n|²`` (n_k,) of one structure and ``Σ_n w_n |F_n|²`` derived by moments, exactly.

    The derivatives (n_atoms, n_c') are by moments of one degree more than those given, see
    :func:`_reciprocal_sums`.
    """
    orders = exponents.sum(1)
    turned = 6.283185307179586 * triplets.to(m.dtype)
    s = (fractional - fractional.round()).to(m.dtype)
    squares = torch.zeros_like(w)
    gathered = torch.zeros([s.shape[0], exponents.shape[0]], dtype=m.dtype, device=m.device)
    step = max(1, chunk // max(1, s.shape[0]))
    for start in range(0, turned.shape[0], step):
        stop = min(start + step, turned.shape[0])
        n = turned[start:stop]
        angle = torch.matmul(n, s.t())  # [n, j]
        cosine, sine = torch.cos(angle), torch.sin(angle)
        power = _polynomials(n, exponents, orders)
        odd = (orders % 2 == 1).unsqueeze(0)
        along, across = torch.matmul(cosine, m), torch.matmul(sine, m)
        lower = power[:, kept]
        is_odd = odd[:, kept]
        re = (lower * torch.where(is_odd, -across, along)).sum(1)
        im = -(lower * torch.where(is_odd, along, across)).sum(1)
        squares[start:stop] = re * re + im * im
        factor = 2.0 * w[start:stop]
        u, v = (factor * re).unsqueeze(1), (factor * im).unsqueeze(1)
        gathered += torch.matmul(cosine.t(), power * torch.where(odd, -v, u))
        gathered -= torch.matmul(sine.t(), power * torch.where(odd, u, v))
    return squares, gathered


def mesh_sums(
    fractional: Tensor,
    moments: Tensor,
    triplets: Tensor,
    w: Tensor,
    size: list[int],
    order: int,
    pieces: Tensor,
    columns: Tensor,
    rows: Tensor,
    degree: int,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Return what :func:`direct_sums` does, on a mesh of ``size`` with splines of this order."""
    blocks = sorted_blocks(fractional, size, order, chunk)
    waves = mesh_waves(triplets, size, order, moments)
    found = amplitudes_of(spread(moments, blocks, degree, pieces, columns), waves)
    mesh = mesh_of(2.0 * w.unsqueeze(1) * found, waves)
    return (found * found).sum(1), interpolate(mesh, blocks, degree + 1, pieces, rows)


def _polynomials(n: Tensor, exponents: Tensor, orders: Tensor) -> Tensor:
    """Return ``(2π n)^abc`` times the sign of ``(-i)^(a + b + c)``, (n_k, n_c'), of 2π n (n_k, 3)."""
    power = torch.ones((n.shape[0], exponents.shape[0]), dtype=n.dtype, device=n.device)
    for axis in range(3):
        power = power * torch.pow(n[:, axis].unsqueeze(1), exponents[:, axis])
    return torch.where(torch.div(orders, 2, rounding_mode="floor") % 2 == 1, -power, power)


def open_energy(
    coefficients: Tensor, positions: Tensor, batch: Tensor, plan: CoulombPlan, smearing_width: float
) -> Tensor:
    """Return the energy of all pairs of different atoms of open structures, (n_graphs,) [eV].

    Coefficients (n_atoms, (L+1)^2) [e Å^l], positions (n_atoms, 3) [Å]. Once differentiable.
    """
    degree = max_degree(coefficients)
    table = taylor_table(2 * degree + 1, torch.float64, torch.device("cpu"))
    energies: Tensor = _open_sums(
        coefficients[:, 0],
        dipoles(coefficients),
        quadrupoles(coefficients),
        positions,
        batch,
        (plan.kind == KIND_OPEN) & (plan.mesh_order == 0),
        table,
        kernel_scales(2 * degree + 1, smearing_width),
        TABLE_END,
        TABLE_STEPS,
        degree,
        CHUNK_ELEMENTS // 8,
    )
    return COULOMB_CONSTANT * energies


@constant
def kernel_scales(n_max: int, smearing_width: float) -> Tensor:
    """Return a² and what turns F_0 … F_n_max of a² r² into g_0 … g_n_max, (n_max + 2,); a = 1/2σ."""
    a = 0.5 / smearing_width
    scales = [2.0 * a / math.sqrt(math.pi) * (-2.0 * a * a) ** n for n in range(n_max + 1)]
    far = 0.5 * math.gamma(n_max + 0.5)
    return torch.tensor([a * a, far, *scales], dtype=torch.float64)


@script_if_tracing
def _open_sums(
    charges: Tensor,
    moments: Tensor,
    tensors: Tensor,
    positions: Tensor,
    batch: Tensor,
    is_open: Tensor,
    table: Tensor,
    scales: Tensor,
    table_end: float,
    table_steps: int,
    degree: int,
    chunk: int,
) -> Tensor:
    """The sums of :func:`open_energy` over k_e: chunks of rows of the matrix of pairs."""
    n_graphs = is_open.shape[0]
    table, scales = table.to(positions.device), scales.to(positions.device)
    energies = torch.zeros((n_graphs,), dtype=charges.dtype, device=charges.device)
    inputs = [charges.detach(), moments.detach(), tensors.detach(), positions.detach()]
    derivatives = [torch.zeros_like(value) for value in inputs]
    counts = torch.bincount(batch, minlength=n_graphs)
    first_atom = 0
    for graph in range(n_graphs):
        n_atoms = int(counts[graph])
        if bool(is_open[graph]) and n_atoms > 1:
            step = max(1, chunk // n_atoms)
            for start in range(0, n_atoms, step):
                rows = torch.arange(start, min(start + step, n_atoms), device=batch.device)
                columns = torch.arange(n_atoms, device=batch.device)
                pairs = torch.nonzero(columns.unsqueeze(0) > rows.unsqueeze(1))
                if pairs.shape[0] > 0:
                    first, second = pairs[:, 0] + (first_atom + start), pairs[:, 1] + first_atom
                    q = inputs[0].clone().requires_grad_(True)
                    p = inputs[1].clone().requires_grad_(True)
                    t = inputs[2].clone().requires_grad_(True)
                    r = inputs[3].clone().requires_grad_(True)
                    energy = pair_energies(
                        q, p, t, r, first, second, table, scales, table_end, table_steps, degree
                    )
                    found = torch.autograd.grad([energy.sum()], [q, p, t, r], allow_unused=True)
                    energies[graph] += energy.detach().sum()
                    for index in range(4):
                        gradient = found[index]
                        if gradient is not None:
                            derivatives[index] += gradient
        first_atom += n_atoms
    change = derivatives[0] * (charges - inputs[0])
    change = change + (derivatives[1] * (moments - inputs[1])).sum(1)
    change = change + (derivatives[2] * (tensors - inputs[2])).sum([1, 2])
    change = change + (derivatives[3] * (positions - inputs[3])).sum(1)
    return energies.index_add(0, batch, change)


def pair_energies(
    q: Tensor,
    p: Tensor,
    t: Tensor,
    r: Tensor,
    first: Tensor,
    second: Tensor,
    table: Tensor,
    scales: Tensor,
    table_end: float,
    table_steps: int,
    degree: int,
) -> Tensor:
    """Energies of pairs over k_e, as in :func:`lsf.electrostatics.open_space.open_energy`."""
    vector = r[first] - r[second]
    g = _kernels((vector * vector).sum(1), table, scales, table_end, table_steps)
    energies = q[first] * q[second] * g[0]
    if degree >= 1:
        along_1, along_2 = (p[first] * vector).sum(1), (p[second] * vector).sum(1)
        mixed = q[second] * along_1 - q[first] * along_2 - (p[first] * p[second]).sum(1)
        energies = energies + mixed * g[1] - along_1 * along_2 * g[2]
        if degree >= 2:
            t_1, t_2 = t[first], t[second]
            once_1 = torch.bmm(t_1, vector.unsqueeze(2)).squeeze(2)
            once_2 = torch.bmm(t_2, vector.unsqueeze(2)).squeeze(2)
            twice_1, twice_2 = (once_1 * vector).sum(1), (once_2 * vector).sum(1)
            order_2 = q[first] * twice_2 + q[second] * twice_1 + 2.0 * (t_1 * t_2).sum([1, 2])
            order_2 = order_2 + 2.0 * ((p[first] * once_2).sum(1) - (p[second] * once_1).sum(1))
            order_3 = twice_2 * along_1 - twice_1 * along_2 + 4.0 * (once_1 * once_2).sum(1)
            energies = energies + order_2 * g[2] + order_3 * g[3] + twice_1 * twice_2 * g[4]
    return energies


def _kernels(squared: Tensor, table: Tensor, scales: Tensor, table_end: float, table_steps: int) -> Tensor:
    """Return g_0 … g_(n - 1) of squared distances, (n, n_pairs), once differentiable: g_n' = g_(n+1)/2.

    Boys functions as in :func:`lsf.electrostatics.open_space.boys`; ``table`` is that of order n.
    """
    n_max = scales.shape[0] - 3
    x = squared.detach() * scales[0]
    place = torch.round(torch.clamp(x, max=table_end) * table_steps)
    terms = table.index_select(0, place.to(torch.int64))
    offset = torch.clamp(x, max=table_end) - place / table_steps
    value = terms[:, -1]
    for k in range(table.shape[1] - 2, -1, -1):
        value = terms[:, k] + value * offset
    far = x > table_end
    inverse = 1.0 / torch.clamp(x, min=table_end)
    beyond = torch.sqrt(inverse) * scales[1] * torch.pow(inverse, n_max)
    values = [torch.where(far, beyond, value)]
    decay = torch.exp(-x)
    for n in range(n_max - 1, -1, -1):
        values.append((decay + 2.0 * x * values[-1]) / (2 * n + 1))
    values.reverse()
    g = torch.stack(values) * scales[2:].unsqueeze(1)
    return g[:-1] + 0.5 * g[1:] * (squared - squared.detach())
