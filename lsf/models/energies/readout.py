"""Readouts: from node features to energies and polarizabilities."""

from __future__ import annotations

import math
from typing import ClassVar, Final, NamedTuple

import torch
from torch import Tensor, nn

from lsf.models.energies.base import EnergyContext, EnergyTerm
from lsf.models.irreps import Irreps, parse_irreps
from lsf.models.linear import EquivariantLinear
from lsf.models.radial import SILU_SCALE
from lsf.models.setting import ModelSetting
from lsf.models.sources.base import sum_over_graph
from lsf.options import NoOptions

TANH_SCALE: Final = 1.5925374197228302
"""``E[tanh(z)²]^(-1/2)`` for z ~ N(0, 1)."""


class Absolute(nn.Module):
    """The absolute value."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the absolute values."""
        return values.abs()


class Gate(NamedTuple):
    """An activation and the factor that keeps unit second moment."""

    function: type[nn.Module]
    scale: float


GATES: Final = {
    "silu": Gate(nn.SiLU, SILU_SCALE),
    "tanh": Gate(nn.Tanh, TANH_SCALE),
    "abs": Gate(Absolute, 1.0),
    "none": Gate(nn.Identity, 1.0),
}
"""Activations of the last readout by the name an option gives them."""


class EnergyReadout(EnergyTerm):
    """Short-range energy of every atom: linear per layer, a small network on the last of several.

    With ``nonlinear`` false the last layer is read linearly, too. The sum over layers is multiplied by
    ``scale`` and shifted by ``shift`` (eV). Batatia et al., arXiv:2206.07697, eq. (12).
    """

    name: ClassVar[str] = "readout"
    part: ClassVar[str | None] = "short_range"
    per_atom: ClassVar[bool] = True

    def __init__(
        self,
        hidden: Irreps,
        n_layers: int,
        hidden_width: int,
        nonlinear: bool = True,
        gate: str = "silu",
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.shift = shift
        self.gated = n_layers > 1 and nonlinear
        n_linear = n_layers - 1 if self.gated else n_layers
        self.linear = nn.ParameterList(nn.Parameter(torch.randn(hidden.channels)) for _ in range(n_linear))
        if self.gated:
            self.activation = GATES[gate].function()
            self.activation_scale = GATES[gate].scale
            self.hidden = nn.Parameter(torch.randn(hidden.channels, hidden_width))
            self.out = nn.Parameter(torch.randn(hidden_width))

    def forward(self, context: EnergyContext) -> Tensor:
        """Return ``(n_atoms,)`` eV in float64."""
        return self.energies(context.features)

    def energies(self, features: list[Tensor]) -> Tensor:
        """Return the energy of every atom, ``(n_atoms,)`` eV in float64, from the features of all layers."""
        # energies of an atom are sums of large terms of both signs: float32 would lose digits here
        scalars = [layer[:, 0].to(torch.float64) for layer in features]
        terms = [
            layer @ (weight.to(torch.float64) / math.sqrt(weight.shape[0]))
            for weight, layer in zip(self.linear, scalars, strict=False)
        ]
        if self.gated:
            width_in, width = self.hidden.shape
            inner = self.activation(scalars[-1] @ (self.hidden.to(torch.float64) / math.sqrt(width_in)))
            terms.append(self.activation_scale * inner @ (self.out.to(torch.float64) / math.sqrt(width)))
        return torch.stack(terms).sum(0) * self.scale + self.shift


def readout(_options: NoOptions, setting: ModelSetting) -> EnergyReadout:
    """Return the readout of a model's options, scaled and shifted as the data is."""
    options = setting.options
    return EnergyReadout(
        setting.hidden,
        options.num_interactions,
        parse_irreps(options.mlp_irreps).channels,
        nonlinear=options.final_readout == "nonlinear",
        gate=options.gate,
        scale=setting.energy_scale,
        shift=setting.energy_shift,
    )


def _quadratic_forms() -> Tensor:
    """The five traceless symmetric matrices of l = 2, ``(5, 3, 3)``, each of unit Frobenius norm."""
    half, third = math.sqrt(0.5), math.sqrt(1.0 / 6.0)
    forms = torch.zeros((5, 3, 3), dtype=torch.float64)
    for index, (a, b) in ((0, (0, 1)), (1, (1, 2)), (3, (0, 2))):
        forms[index, a, b] = forms[index, b, a] = half
    forms[2] = torch.diag(torch.tensor([-third, -third, 2.0 * third], dtype=torch.float64))
    forms[4] = torch.diag(torch.tensor([half, -half, 0.0], dtype=torch.float64))
    return forms


class NoPolarizability(nn.Module):
    """No polarizability among the outputs: the null object."""

    def forward(self, _context: EnergyContext) -> dict[str, Tensor]:
        """Return no output."""
        return {}


class PolarizabilityReadout(nn.Module):
    r"""Atomic polarizabilities, summed over layers and atoms.

    Per layer ``α_i = W₂ [(W₁ h) ⊗ (W₁ h)] + W_b h`` with a channel-wise product: scalars from every
    degree, the traceless part from 0e × 2e, 1o × 1o and 2e directly. In Cartesian form
    :math:`\alpha = a\,1/\sqrt 3 + \sum_m b_m M_m` with orthonormal matrices M.
    """

    forms: Tensor

    def __init__(self, hidden: Irreps, n_layers: int) -> None:
        super().__init__()
        self.slices = hidden.slices()
        self.degrees = hidden.degrees
        channels = hidden.channels
        self.mix = nn.ModuleList(EquivariantLinear(hidden, channels) for _ in range(n_layers))
        self.n_scalar = len(hidden.degrees) + 1
        self.n_tensor = (1 in hidden.degrees) + 2 * (2 in hidden.degrees)
        self.scalar = nn.Parameter(torch.randn(n_layers, self.n_scalar * channels))
        self.tensor = nn.Parameter(torch.randn(n_layers, self.n_tensor * channels))
        self.register_buffer("forms", _quadratic_forms(), persistent=False)

    def forward(self, context: EnergyContext) -> dict[str, Tensor]:
        """Return ``polarizability`` (n_graphs, 3, 3) e·Å²/V in float64, symmetric."""
        of_atoms = self.of_atoms(context.features)
        return {"polarizability": sum_over_graph(of_atoms, context.graph.batch, context.n_graphs)}

    def of_atoms(self, features: list[Tensor]) -> Tensor:
        """Return the shares of the atoms, ``(n_atoms, 3, 3)``."""
        total = torch.zeros((features[0].shape[0], 3, 3), dtype=torch.float64, device=features[0].device)
        identity = torch.eye(3, dtype=torch.float64, device=total.device) / math.sqrt(3.0)
        for index, layer in enumerate(features):
            scalars, tensors = self._parts(self.mix[index](layer), layer)
            trace = scalars @ (self.scalar[index] / math.sqrt(self.scalar.shape[1]))
            shape = tensors @ (self.tensor[index] / math.sqrt(self.tensor.shape[1]))
            forms = self.forms.reshape(5, 9)
            total = total + trace.to(torch.float64)[:, None, None] * identity
            total = total + (shape.to(torch.float64) @ forms).reshape(-1, 3, 3)
        return total

    def _parts(self, mixed: Tensor, layer: Tensor) -> tuple[Tensor, Tensor]:
        """Return scalar ``(n_atoms, n)`` and traceless ``(n_atoms, 5, n)`` candidates."""
        scalars = [layer[:, 0]]
        tensors = []
        for degree in self.degrees:
            block = mixed[:, self.slices[degree]]
            scalars.append((block * block).sum(1) / math.sqrt(2 * degree + 1))
        if 1 in self.degrees:
            y, z, x = mixed[:, self.slices[1]].unbind(1)
            cartesian = torch.stack([x, y, z], dim=1)
            outer = cartesian.unsqueeze(1) * cartesian.unsqueeze(2)  # [atom, a, b, channel]
            forms = self.forms.to(layer.dtype).reshape(5, 9)
            tensors.append(torch.matmul(forms, outer.reshape(outer.shape[0], 9, -1)))
        if 2 in self.degrees:
            tensors.append(layer[:, self.slices[2]])
            tensors.append(mixed[:, :1] * mixed[:, self.slices[2]])
        return torch.cat(scalars, dim=1), torch.cat(tensors, dim=2)
