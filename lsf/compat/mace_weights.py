"""From the weights of a mace-torch model to the ones of the same model in lsf, exactly.

Both compute the same functions; they differ in layout (lsf: node, component, channel), in how factors
are shared between weights and constants, and in the basis of the symmetric contraction, where
mace-torch has redundant polynomials and lsf orthonormal ones. All conversion is in float64.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsf.compat.mace_settings import MaceFile
from lsf.errors import ModelFileError
from lsf.models.backbone_options import BackboneOptions
from lsf.models.convolution import convolution_paths
from lsf.models.couplings import symmetric_basis
from lsf.models.energies.readout import GATES
from lsf.models.irreps import parse_irreps
from lsf.models.radial import SILU_SCALE

Floats = NDArray[np.float64]
State = dict[str, Tensor]

SPAN: Final = 1e-10
"""Largest part of a coupling, relative to its size, that may lie outside of lsf's polynomials."""


def convert(file: MaceFile, options: BackboneOptions) -> State:
    """Return the parameters and buffers of the lsf model with ``options``, species in rising order.

    Raises :class:`lsf.errors.ModelFileError` when couplings of the file are not spanned by lsf's.
    """
    order = torch.tensor(np.argsort(file.numbers))
    embedding = file.weight("node_embedding.linear.weight").reshape(len(order), -1)
    state = {"backbone.embedding": embedding[order] / math.sqrt(len(order))}
    for index in range(options.num_interactions):
        state |= _prefixed(f"backbone.layers.{index}.", _layer(file, options, index, order))
    state |= _prefixed("readout.", _readout(file, options))
    energies = torch.atleast_2d(file.weight("atomic_energies_fn.atomic_energies"))
    state["atomic_energies"] = energies[file.head if energies.shape[0] > 1 else 0][order]
    state["species"] = torch.tensor(file.numbers)[order]
    return state | _pair_constants(file)


def needs_complete_products(file: MaceFile) -> bool:
    """Tell whether the contractions have polynomials that lsf's natural basis lacks."""
    for index, product in enumerate(file.facts["products"]):
        for place, degree in enumerate(parse_irreps(product["outputs"]).degrees):
            for order in range(1, product["correlation"] + 1):
                coupling = _coupling(file, index, place, degree, order)
                if _projection(coupling, file.facts["max_ell"], order, degree, False)[1] > _span(file):
                    return True
    return False


def _span(file: MaceFile) -> float:
    return max(SPAN, 10.0 * file.precision)


def _prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def _layer(file: MaceFile, options: BackboneOptions, index: int, order: Tensor) -> State:
    name = f"interactions.{index}"
    state = _prefixed("interaction.", _interaction(file, options, index))
    channels = parse_irreps(options.hidden_irreps).channels
    # (degree, channel, species, channel) → (species, degree, channel, channel)
    by_species = file.weight(f"{name}.skip_tp.weight").reshape(-1, channels, len(order), channels)
    by_species = by_species.permute(2, 0, 1, 3)[order] / math.sqrt(len(order))
    style = options.interaction_first if index == 0 else options.interaction
    state["skip.weight" if style.endswith("residual") else "mix.weight"] = by_species
    if style.startswith("density"):
        state["density.weight"] = file.weight(f"{name}.density_fn.layer0.weight")[:, 0] * _basis_factor(file)
    linear = file.weight(f"products.{index}.linear.weight")
    state["linear.weight"] = linear.reshape(-1, channels, channels)
    return state | _prefixed("contraction.weights.", _contraction(file, options, index, order))


def _basis_factor(file: MaceFile) -> float:
    """Return by what the stored prefactor of the radial functions, rounded maybe, is off the exact one."""
    if file.facts["radial_type"] != "BesselBasis":
        return 1.0
    prefactor = float(file.weight("radial_embedding.bessel_fn.prefactor"))
    return prefactor / math.sqrt(2.0 / float(file.weight("r_max")))


def _interaction(file: MaceFile, options: BackboneOptions, index: int) -> State:
    name, facts = f"interactions.{index}", file.facts["interactions"][index]
    inputs = parse_irreps(facts["inputs"])
    channels = inputs.channels
    state = {"linear_up.weight": file.weight(f"{name}.linear_up.weight").reshape(-1, channels, channels)}
    factor = _basis_factor(file)
    layers = facts["radial"]["activations"]
    for place, act in enumerate(layers[:-1]):
        weight = file.weight(f"{name}.conv_tp_weights.layer{place}.weight")
        state[f"radial.weights.{place}"] = weight * factor
        factor = act["scale"] / SILU_SCALE
    theirs = [tuple(path) for path in facts["paths"]]
    ours = convolution_paths(inputs.degrees, options.max_ell)
    out = file.weight(f"{name}.conv_tp_weights.layer{len(layers) - 1}.weight") * factor
    out = out.reshape(out.shape[0], len(theirs), channels)
    state["radial_out"] = out[:, [theirs.index(path) for path in ours]]
    blocks = file.weight(f"{name}.linear.weight").reshape(len(theirs), channels, channels)
    for degree in range(options.max_ell + 1):
        rows = [theirs.index(path) for path in ours if path[2] == degree]
        state[f"linear_down.{degree}"] = blocks[rows].reshape(-1, channels)
    return state


def _coupling(file: MaceFile, index: int, place: int, degree: int, order: int) -> Floats:
    """Return mace-torch's polynomials of one order, ``(n_paths, 2 degree + 1, n_monomials)``."""
    name = f"products.{index}.symmetric_contractions.contractions.{place}.U_matrix_{order}"
    matrix = file.weight(name).numpy()
    dim = (file.facts["max_ell"] + 1) ** 2
    matrix = matrix.reshape(2 * degree + 1, dim**order, -1)
    monomials = list(itertools.combinations_with_replacement(range(dim), order))
    column = {monomial: at for at, monomial in enumerate(monomials)}
    target = [column[tuple(sorted(entry))] for entry in itertools.product(range(dim), repeat=order)]
    summed = np.zeros((len(monomials), 2 * degree + 1, matrix.shape[2]))
    np.add.at(summed, target, matrix.transpose(1, 0, 2))
    return summed.transpose(2, 1, 0)


def _projection(
    coupling: Floats, max_ell: int, order: int, degree: int, complete: bool
) -> tuple[Floats, float]:
    """Return couplings as combinations of lsf's polynomials, (n_paths, n_basis), and what is left of them."""
    _, basis = symmetric_basis(max_ell, order, degree, complete)
    size = float(np.abs(coupling).max(initial=0.0))
    combination: Floats = np.einsum("kmi,bmi->kb", coupling, basis) / (2 * degree + 1)
    left = np.abs(coupling - np.einsum("kb,bmi->kmi", combination, basis)).max(initial=0.0)
    return combination, float(left / size) if size else 0.0


def _contraction(file: MaceFile, options: BackboneOptions, index: int, order: Tensor) -> State:
    product = file.facts["products"][index]
    complete = options.product_basis == "complete"
    state = {}
    for place, degree in enumerate(parse_irreps(product["outputs"]).degrees):
        name = f"products.{index}.symmetric_contractions.contractions.{place}"
        parts = []
        for power in range(1, product["correlation"] + 1):
            highest = power == product["correlation"]
            part = "weights_max" if highest else f"weights.{product['correlation'] - power - 1}"
            coupling = _coupling(file, index, place, degree, power)
            combination, left = _projection(coupling, options.max_ell, power, degree, complete)
            if left > _span(file):
                raise ModelFileError(
                    f"{file.path}: {name}.U_matrix_{power}: found couplings of which {left:.1e} lies outside "
                    "of the equivariant polynomials; expected those of mace-torch"
                )
            weight = file.weight(f"{name}.{part}")
            parts.append(torch.einsum("kb,skc->sbc", torch.from_numpy(combination), weight))
        joined = torch.cat(parts, dim=1)
        # a product that does not see the elements has one weight for all
        state[str(place)] = joined[order] if joined.shape[0] > 1 else joined.repeat(len(order), 1, 1)
    return state


def _readout(file: MaceFile, options: BackboneOptions) -> State:
    n_heads = len(file.facts["heads"])
    channels = parse_irreps(options.hidden_irreps).channels
    state: State = {}
    for index, block in enumerate(file.facts["readouts"]):
        name = f"readouts.{index}"
        if block["class"] == "LinearReadoutBlock":
            weight = file.weight(f"{name}.linear.weight").reshape(channels, n_heads)
            state[f"linear.{index}"] = weight[:, file.head]
            continue
        hidden = file.weight(f"{name}.linear_1.weight").reshape(channels, n_heads, -1)[:, file.head]
        out = file.weight(f"{name}.linear_2.weight").reshape(n_heads, -1, n_heads)[file.head, :, file.head]
        scale = block["gate"]["scale"] / GATES[block["gate"]["name"]].scale / math.sqrt(n_heads)
        state |= {"hidden": hidden, "out": out * scale}
    return state


def _pair_constants(file: MaceFile) -> State:
    state: State = {}
    numbers = sorted(file.numbers)
    for part in ("pair_repulsion_fn", "radial_embedding.distance_transform"):
        if f"{part}.covalent_radii" in file.tensors:
            state["bond_lengths.radii"] = file.weight(f"{part}.covalent_radii")[numbers]
    if file.facts["pair_repulsion"]:
        name = "pair_repulsion_fn"
        length = [file.weight(f"{name}.{part}").reshape(()) for part in ("a_prefactor", "a_exp")]
        state["pair_repulsion.length"] = torch.stack(length)
        state["pair_repulsion.screening"] = file.weight(f"{name}.c")
    parts = {"AgnesiTransform": "aqp", "SoftTransform": ("alpha",)}.get(file.facts["distance_transform"], ())
    if parts:
        name = "radial_embedding.distance_transform"
        constants = [file.weight(f"{name}.{part}").reshape(()) for part in parts]
        state["radial.transform.constants"] = torch.stack(constants)
    return state
