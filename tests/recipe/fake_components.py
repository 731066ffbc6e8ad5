"""Components of a registry made for tests: small, and free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs

from lsf.errors import Problem
from lsf.options import Component, above, at_least, each, not_empty, option
from lsf.recipe.catalog import Catalog, component

ENTRIES = {
    "models": {"Charges": "ChargesOptions", "ChargeFree": "ChargeFreeOptions"},
    "losses": {
        "energy_per_atom": "NoLossOptions",
        "forces": "NoLossOptions",
        "dipole": "DipoleLossOptions",
        "esps": "NoLossOptions",
    },
    "optimizers": {"adam": "AdamOptions", "sgd": "SgdOptions"},
    "schedulers": {"constant": "NoLossOptions"},
    "metrics": {"auto": "NoLossOptions"},
    "boundaries": {"mixed_periodic": "NoLossOptions"},
    "mixers": {"sum": "MixerOptions"},
}
REQUIRES = {
    "energy_per_atom": "energy",
    "forces": "forces",
    "dipole": "dipole",
    "esps": "electrostatic_potentials or atomic_multipoles",
}


def write_registry(folder: Path) -> Catalog:
    """Write the entries above into a folder and return its catalog."""
    for kind, names in ENTRIES.items():
        (folder / kind).mkdir(parents=True)
        for name, options in names.items():
            requires = f'["{REQUIRES[name]}"]' if name in REQUIRES else "[]"
            (folder / kind / f"{name}.toml").write_text(
                f'kind = "{kind}"\nsummary = "{name} of the tests"\n'
                f'target = "fake_components:Thing"\noptions = "fake_components:{options}"\n'
                f"requires = {requires}\n"
            )
    return Catalog([folder])


class Thing:
    """What every entry points to."""


@attrs.frozen
class NoLossOptions:
    """None."""


@attrs.frozen
class DipoleLossOptions:
    per_atom: bool = option("Divide by atoms. It evens out sizes.", default=False)


@attrs.frozen
class AdamOptions:
    amsgrad: bool = option("Keep the largest step. It is steadier.", default=True)
    betas: tuple[float, float] = option("Decay rates. They smooth.", default=(0.9, 0.999))


@attrs.frozen
class SgdOptions:
    momentum: float = option("Momentum. It smooths.", validator=at_least(0.0))


@attrs.frozen
class MixerOptions:
    width: int = option("Width. Wider fits more.", default=4, validator=at_least(1))


@attrs.frozen
class ChargeFreeOptions:
    """A model without charges."""

    r_max: float = option("Cutoff in Å. Larger sees further.", default=6.0, validator=above(0.0))


@attrs.frozen(kw_only=True)
class ChargesOptions(ChargeFreeOptions):
    """A model with formal charges, a nested component, and a say about the recipe."""

    formal_charges: dict[str, float] | Literal["from_data"] = option("Charges in e. They are summed.")
    widths: tuple[int, ...] = option(
        "Layer widths. Wider fits more.", default=(8, 8), validator=[not_empty(), each(above(0))]
    )
    low: float = attrs.field(default=0.0, metadata={"doc": "Lower bound. It cuts."})
    high: float = option("Upper bound. It cuts.", default=1.0)
    mixer: Component = component("How charges enter. It matters.", kind="mixers", default="sum")
    start: str | None = option("Weights to start from. It saves time.", default=None, path=True)

    @low.validator
    def _below_high(self, _attribute: Any, value: float) -> None:
        if value >= self.high:
            raise ValueError(f"low = {value:g} must be below high = {self.high:g}")

    def formal_charge_rule(self) -> dict[str, float] | str | None:
        return self.formal_charges

    def problems(self, recipe: Any, where: str) -> list[Problem]:
        if recipe.electrostatics.multipoles_max_l == 0:
            return []
        return [
            Problem(where, "model.r_max", f"{self.r_max:g}", "no multipoles in this test model", "set l = 0")
        ]
