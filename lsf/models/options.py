"""Options of the models: what ``[model]`` in a recipe may contain.

No torch here: ``lsf describe`` and recipe checks read these classes without loading it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import attrs

from lsf.errors import Problem
from lsf.models.backbone_options import (
    SCALE,
    SHIFT,
    BackboneOptions,
    FormalCharges,
    Scale,
    Shift,
    needs_degrees,
)
from lsf.models.irreps import parse_irreps
from lsf.options import Component, Rule, option
from lsf.recipe.catalog import component

if TYPE_CHECKING:
    from lsf.recipe.schema import Recipe


def _range_rule() -> Rule:
    return Rule("two numbers, the first smaller", lambda value: len(value) == 2 and value[0] < value[1])


@attrs.frozen(kw_only=True)
class MACEOptions(BackboneOptions):
    """The backbone alone: a short-range potential without charges."""


@attrs.frozen(kw_only=True)
class ScaleShiftMACEOptions(MACEOptions):
    """The backbone alone, its energy scaled and shifted as the data is."""

    scale: Scale = option(SCALE, default="forces")
    shift: Shift = option(SHIFT, default="mean")


MODEL_OF_SOURCE: Final = {
    "none": "MACE",
    "fixed": "FixedChargeBaselinedMACE",
    "split": "LocalSplitCharges",
}
"""Source heads that belong to a model of their own."""


@attrs.frozen(kw_only=True)
class LocalChargesOptions(BackboneOptions):
    """Multipoles read directly from node features."""

    source: Component = component(
        "The head that makes multipoles of the features: local reads each atom's own. Heads of other "
        "packages may do otherwise.",
        kind="sources",
        default="local",
    )

    def chosen_parts(self) -> list[tuple[str, str, str]]:
        """Return kind, name and option of every component of the registry that the model is built of."""
        return [*super().chosen_parts(), ("sources", self.source.use, "source")]

    def problems(self, recipe: Recipe, where: str) -> list[Problem]:
        """Return wrong layers, missing hidden irreps and a head that is another model's."""
        found = super().problems(recipe, where) + needs_degrees(self, recipe, where)
        model = MODEL_OF_SOURCE.get(self.source.use)
        if model is not None:
            found.append(
                Problem(
                    where,
                    "model.source.use",
                    f'"{self.source.use}", which is the head of another model',
                    f'model.use = "{model}", or another head',
                )
            )
        return found


@attrs.frozen(kw_only=True)
class LocalSplitChargesOptions(BackboneOptions):
    """Formal charges plus learned charge transfer along edges: the total charge is exact."""

    formal_charges: FormalCharges = option(
        'Formal charge of every element in e, or "from_data" to read one per atom from the frames '
        "(arrays_keys.charges). Their sum is the total charge of a frame, exactly.",
    )
    oxidation_mixer: Literal["none", "sum", "product"] = option(
        "How formal charges enter the initial node features. With per-atom charges, none makes "
        "oxidation states of one element indistinguishable to the short-range part.",
        default="sum",
    )
    transfer: Literal["symmetric", "oxidation_dependent"] = option(
        "How charge moves along an edge; oxidation_dependent also sees the formal charges.",
        default="oxidation_dependent",
    )
    oxidation_range: tuple[float, ...] = option(
        "Lowest and highest formal charge the oxidation embedding covers, in e. A charge outside is refused.",
        default=(-6.0, 6.0),
        validator=_range_rule(),
    )
    polarizability: bool = option(
        "Whether to read a molecular polarizability from the features. Needed by the loss of that name.",
        default=False,
    )

    def formal_charge_rule(self) -> FormalCharges:
        """Return the table by element, or "from_data"."""
        return self.formal_charges

    def problems(self, recipe: Recipe, where: str) -> list[Problem]:
        """Return missing hidden irreps and formal charges outside the declared range."""
        found = super().problems(recipe, where) + needs_degrees(self, recipe, where)
        found += _outside_range(self.formal_charges, self.oxidation_range, where)
        degrees = parse_irreps(self.hidden_irreps).degrees
        if self.polarizability and self.last_layer == "scalars":
            expected = '"all", since the polarizability is read from every layer'
            found.append(Problem(where, "model.last_layer", '"scalars" with polarizability', expected))
        if self.polarizability and not {1, 2} & set(degrees):
            found.append(
                Problem(
                    where,
                    "model.polarizability",
                    f"true with hidden_irreps = {self.hidden_irreps!r}",
                    "1o or 2e among the hidden irreps, from which the anisotropic part is read",
                )
            )
        return found


def _outside_range(charges: FormalCharges, bounds: tuple[float, ...], where: str) -> list[Problem]:
    if not isinstance(charges, dict):
        return []
    low, high = bounds
    return [
        Problem(where, f"model.formal_charges.{symbol}", f"{charge:g}", f"a charge from {low:g} to {high:g}")
        for symbol, charge in charges.items()
        if not low <= charge <= high
    ]


@attrs.frozen(kw_only=True)
class FixedChargeOptions(BackboneOptions):
    """Fixed formal charges carry the Coulomb energy; the network learns the rest."""

    formal_charges: FormalCharges = option(
        'Charge of every element in e, or "from_data" to read one per atom from the frames. '
        "They stay as given.",
    )

    def formal_charge_rule(self) -> FormalCharges:
        """Return the table by element, or "from_data"."""
        return self.formal_charges
