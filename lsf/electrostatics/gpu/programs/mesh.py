"""Triton programs between atoms and mesh; :mod:`lsf.electrostatics.gpu.mesh` states the layouts."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _weights(splines, offset, DEGREE: tl.constexpr, ORDER: tl.constexpr):
    """Return the B-spline's derivatives 0 … DEGREE at 8 points (zero past ORDER), by Horner's rule."""
    point = tl.arange(0, 8)
    weights = ()
    for derivative in tl.static_range(DEGREE + 1):
        values = tl.zeros([8], splines.dtype.element_ty)
        for step in tl.static_range(ORDER):
            power = ORDER - 1 - step
            values = values * offset + tl.load(splines + (derivative * 8 + power) * 8 + point)
        weights = weights + (values,)
    return weights


@triton.jit
def _places(bases, atom, n_atoms, n_x, n_y, n_z, ORDER: tl.constexpr):
    """Return places [8, 8, 8] in the flat mesh of the points an atom touches, and which of them count."""
    point = tl.arange(0, 8)
    x = (tl.load(bases + atom) + point) % n_x
    y = (tl.load(bases + n_atoms + atom) + point) % n_y
    z = (tl.load(bases + 2 * n_atoms + atom) + point) % n_z
    counts = point < ORDER
    inside = counts[:, None, None] & counts[None, :, None] & counts[None, None, :]
    return (x[:, None, None] * n_y + y[None, :, None]) * n_z + z[None, None, :], inside


@triton.jit
def spread_program(
    bases, offsets, moments, splines, mesh, n_atoms, n_x, n_y, n_z,
    DEGREE: tl.constexpr, ORDER: tl.constexpr,
):  # fmt: skip
    """Add one atom's moments to the mesh."""
    atom = tl.program_id(0)
    wx = _weights(splines, tl.load(offsets + atom), DEGREE, ORDER)
    wy = _weights(splines, tl.load(offsets + n_atoms + atom), DEGREE, ORDER)
    wz = _weights(splines, tl.load(offsets + 2 * n_atoms + atom), DEGREE, ORDER)
    cube = tl.zeros([8, 8, 8], mesh.dtype.element_ty)
    source = moments + atom
    for c in tl.static_range(DEGREE + 1):
        plane = tl.zeros([8, 8], mesh.dtype.element_ty)
        for a in tl.static_range(DEGREE + 1 - c):
            line = tl.zeros([8], mesh.dtype.element_ty)
            for b in tl.static_range(DEGREE + 1 - c - a):
                line += wy[b] * tl.load(source)
                source += n_atoms
            plane += wx[a][:, None] * line[None, :]
        cube += plane[:, :, None] * wz[c][None, None, :]
    places, inside = _places(bases, atom, n_atoms, n_x, n_y, n_z, ORDER)
    tl.atomic_add(mesh + places, cube, inside, sem="relaxed")


@triton.jit
def interpolate_program(
    bases, offsets, mesh, splines, result, n_atoms, n_x, n_y, n_z,
    DEGREE: tl.constexpr, ORDER: tl.constexpr,
):  # fmt: skip
    """Contract the mesh around one atom with the spline's derivatives."""
    atom = tl.program_id(0)
    wx = _weights(splines, tl.load(offsets + atom), DEGREE, ORDER)
    wy = _weights(splines, tl.load(offsets + n_atoms + atom), DEGREE, ORDER)
    wz = _weights(splines, tl.load(offsets + 2 * n_atoms + atom), DEGREE, ORDER)
    places, inside = _places(bases, atom, n_atoms, n_x, n_y, n_z, ORDER)
    cube = tl.load(mesh + places, inside, 0)
    target = result + atom
    for c in tl.static_range(DEGREE + 1):
        plane = tl.sum(cube * wz[c][None, None, :], 2)
        for a in tl.static_range(DEGREE + 1 - c):
            line = tl.sum(plane * wx[a][:, None], 0)
            for b in tl.static_range(DEGREE + 1 - c - a):
                tl.store(target, tl.sum(line * wy[b], 0))
                target += n_atoms
