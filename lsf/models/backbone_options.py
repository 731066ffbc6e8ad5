"""Options of the equivariant network that all models share, and what of them does not fit together.

No torch here: ``lsf describe`` and recipe checks read these classes without loading it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import attrs

from lsf.errors import Problem
from lsf.models.irreps import parse_irreps
from lsf.options import Chosen, Rule, above, between, option, unless_none
from lsf.recipe.catalog import catalog

if TYPE_CHECKING:
    from lsf.recipe.schema import Recipe


FormalCharges = dict[str, float] | Literal["from_data"]


def _irreps_rule() -> Rule:
    return Rule('irreps such as "64x0e + 64x1o": equal channels, each degree once, 0e included', _is_irreps)


def _is_irreps(value: str) -> bool:
    try:
        parse_irreps(value)
    except ValueError:
        return False
    return True


def _scalars_rule() -> Rule:
    return Rule(
        'scalars such as "16x0e"', lambda value: _is_irreps(value) and parse_irreps(value).degrees == (0,)
    )


def _widths_rule() -> Rule:
    return Rule("one or more integers > 0", lambda value: len(value) > 0 and min(value) > 0)


def _correlation_rule() -> Rule:
    def holds(value: int | tuple[int, ...]) -> bool:
        orders = (value,) if isinstance(value, int) else value
        return len(orders) > 0 and all(1 <= order <= 3 for order in orders)

    return Rule("from 1 to 3, one for all layers or a list with one for each", holds)


Style = Literal["residual", "plain", "density_residual", "density"]
Scale = float | Literal["forces", "energies"] | None
Shift = float | Literal["mean"] | None

SCALE: Final = (
    'Factor of the short-range energy: a number, "forces" (root mean square of the training forces), '
    '"energies" (standard deviation of (E - Σ E0)/n_atoms) or "none". Data in large units is then fitted '
    "with weights of order one."
)
SHIFT: Final = (
    'Added to the short-range energy of every atom, in eV: a number, "mean" (of (E - Σ E0)/n_atoms over '
    'the training frames) or "none". An isolated atom then no longer has its E0.'
)


@attrs.frozen(kw_only=True)
class BackboneOptions:
    """The equivariant network all models share."""

    r_max: float = option(
        "Cutoff radius of the neighbour list in Å. Cost grows with its cube.",
        default=6.0,
        validator=above(0.0),
    )
    hidden_irreps: str = option(
        "Channels and degrees of the node features. More channels fit better and cost more; "
        "atomic dipoles need 1o.",
        default="64x0e + 64x1o",
        validator=_irreps_rule(),
    )
    num_interactions: int = option(
        "Number of message-passing layers. Each adds r_max to the receptive field.",
        default=2,
        validator=between(1, 8),
    )
    correlation: int | tuple[int, ...] = option(
        "Order of the many-body contraction, for all layers or a list with one for each: 3 gives four-body "
        "terms per layer. Lower is faster.",
        default=3,
        validator=_correlation_rule(),
    )
    product_basis: Literal["natural", "complete"] = option(
        "Polynomials of the contraction: natural couples through degrees of natural parity, complete adds "
        "the few others there are where hidden_irreps has 2e or max_ell is 4. They fit a little more.",
        default="natural",
    )
    interaction: Style = option(
        "How messages are made in all layers after the first: residual adds the atom's own features, mixed "
        "by element; plain mixes the messages by element instead; density_residual and density divide them "
        "by a learned local density, which suits data of very different densities.",
        default="residual",
    )
    interaction_first: Style = option(
        "The same for the first layer. With plain or density an isolated atom has exactly its E0 (and "
        "shift).",
        default="residual",
    )
    last_layer: Literal["all", "scalars"] = option(
        "What the last layer keeps: all hidden irreps, or scalars alone, which is faster and what mace-torch "
        "does. Atomic dipoles are then read from the earlier layers.",
        default="all",
    )
    max_ell: int = option(
        "Highest degree of the spherical harmonics on edges. Higher resolves angles better.",
        default=3,
        validator=between(0, 4),
    )
    num_radial: int = option(
        "Number of radial basis functions. More resolve shorter length scales.",
        default=8,
        validator=between(1, 64),
    )
    radial_basis: Literal["bessel", "gaussian", "chebyshev"] = option(
        "Functions of the distance the radial network sees. bessel resolves short distances best.",
        default="bessel",
    )
    distance_transform: Literal["none", "agnesi", "soft"] = option(
        "What the radial functions see in place of the distance: it relative to the covalent radii (agnesi), "
        "or it flattened below the bond length (soft). Either evens out elements of different size.",
        default="none",
    )
    pair_repulsion: bool = option(
        "Whether to add the screened repulsion of nuclei (ZBL) below the sum of covalent radii. Atoms that "
        "come too close in a simulation are then pushed apart.",
        default=False,
    )
    cutoff_p: int = option(
        "Exponent of the polynomial envelope at r_max. Larger keeps weights flat further out.",
        default=5,
        validator=between(2, 12),
    )
    radial_mlp: tuple[int, ...] = option(
        "Widths of the hidden layers of the radial network. The last one dominates the cost per edge.",
        default=(64, 64, 64),
        validator=_widths_rule(),
    )
    mlp_irreps: str = option(
        "Hidden scalars of the last layer's non-linear energy readout. Wider readouts fit more.",
        default="16x0e",
        validator=_scalars_rule(),
    )
    final_readout: Literal["nonlinear", "linear"] = option(
        "How the energy is read from the last of several layers; all others are read linearly. linear has "
        "fewer weights and fits less.",
        default="nonlinear",
    )
    gate: Literal["silu", "tanh", "abs", "none"] = option(
        "Activation of the non-linear readout. none makes it a product of two linear maps.",
        default="silu",
    )
    avg_num_neighbors: float | None = option(
        "Number of neighbours that messages are divided by; measured on the training frames where not given. "
        "Fix it to give models of different data the same scale.",
        default=None,
        validator=unless_none(above(0.0)),
    )
    scale: Scale = option(SCALE, default=None)
    shift: Shift = option(SHIFT, default=None)
    start_from: str | None = option(
        "Model file whose backbone and short-range readout the training starts from; charges start anew. "
        "Options of the backbone that are not given are then those of the file, others must agree with it.",
        default=None,
        path=True,
    )
    total_charge_embedding: bool = option(
        "Whether atoms see the total charge of their structure (info_keys.total_charge). Without it, one "
        "geometry has one energy, whatever its charge.",
        default=False,
    )
    total_spin_embedding: bool = option(
        "Whether atoms see the number of unpaired electrons of their structure (info_keys.total_spin). "
        "Without it, one geometry has one energy, whatever its spin.",
        default=False,
    )
    localization_width: float | None = option(
        "Lets an excess charge or unpaired electrons sit at the atom where they cost least: the lowest of "
        "one energy per atom is added, rounded within this many eV (0.02 is a good start). Charged symmetric "
        "molecules (Jahn-Teller) and polarons need such cusps. none leaves it out.",
        default=None,
        validator=unless_none(above(0.0)),
    )
    energies: dict[str, Chosen] = option(
        "Energy terms to add to those the model has, by name: [model.energies.NAME] with the options of the "
        "term. Each is trained with the rest and shown as energy_NAME.",
        factory=dict,
        registry="energies",
    )
    recompute: bool = option(
        "Whether backward passes compute intermediates again instead of keeping them. Takes "
        "less memory and somewhat more time.",
        default=False,
    )
    kernels: str = option(
        "Implementation of the message passing; all give the same numbers from the same weights. auto is "
        "native.",
        default="auto",
        registry="kernels",
    )

    def problems(self, recipe: Recipe, where: str) -> list[Problem]:
        """Return what is wrong with the model in the context of the whole recipe."""
        return [
            *_wrong_layers(self, where),
            *_unmapped_state(self, recipe, where),
            *_blind(self, where),
            *_own_terms(self, where),
        ]

    def seen_state(self) -> dict[str, str]:
        """Return what the model sees of total_charge and total_spin, with the option that asks for it."""
        embedded = {
            "total_charge": "total_charge_embedding" if self.total_charge_embedding else None,
            "total_spin": "total_spin_embedding" if self.total_spin_embedding else None,
        }
        required = {
            name: path
            for kind, chosen, path in self.chosen_parts()
            for name in catalog().entry(kind, chosen).requires
            if name in embedded
        }
        return required | {name: path for name, path in embedded.items() if path is not None}

    def chosen_parts(self) -> list[tuple[str, str, str]]:
        """Return kind, name and option of every component of the registry that the model is built of."""
        return [("energies", name, f"energies.{name}") for name in self.energies]

    def short_range_terms(self) -> tuple[str, ...]:
        """Return the terms of the short-range energy besides the readout, in the order of their sum."""
        wanted = {
            "pair_repulsion": self.pair_repulsion,
            "localized_charge": self.localization_width is not None,
        }
        return tuple(name for name, has in wanted.items() if has)

    def needs_bond_lengths(self) -> bool:
        """Tell whether the model uses the sums of covalent radii."""
        return self.pair_repulsion or self.distance_transform != "none"

    def read_degrees(self) -> tuple[int, ...]:
        """Return the degrees that the features of at least one layer have."""
        only_scalars = self.last_layer == "scalars" and self.num_interactions == 1
        return (0,) if only_scalars else parse_irreps(self.hidden_irreps).degrees

    def formal_charge_rule(self) -> FormalCharges | None:
        """Return where the formal charges of atoms come from; None for models without them."""
        return None


def _wrong_layers(options: BackboneOptions, where: str) -> list[Problem]:
    """A list of correlations has one for every layer."""
    orders = options.correlation
    if isinstance(orders, int) or len(orders) == options.num_interactions:
        return []
    expected = f"{options.num_interactions}, since model.num_interactions = {options.num_interactions}"
    return [Problem(where, "model.correlation", f"a list of {len(orders)}", expected)]


def _unmapped_state(options: BackboneOptions, recipe: Recipe, where: str) -> list[Problem]:
    """A charge or spin that no head reads would be zero everywhere."""
    found = []
    for name, path in options.seen_state().items():
        wanted = "true" if path.endswith("_embedding") else f"a component that sees {name}"
        found += [
            Problem(
                where,
                f"model.{path}",
                f"{wanted}, but heads.{head} maps no {name}",
                f"the key of the files that holds it: heads.{head}.info_keys.{name}",
            )
            for head, keys in recipe.heads.items()
            if name not in keys.info_keys
        ]
    return found


OWN_TERMS: Final = ("atomic", "readout", "pair_repulsion", "localized_charge", "coulomb", "field")
"""Energy terms that models have by themselves or by an option of their own."""


def _own_terms(options: BackboneOptions, where: str) -> list[Problem]:
    """A term that the model has by itself would count twice."""
    by_option = {"pair_repulsion": "pair_repulsion = true", "localized_charge": "localization_width"}
    return [
        Problem(
            where,
            f"model.energies.{name}",
            "a term that models have by themselves",
            f"the option model.{by_option[name]}" if name in by_option else "another term, or none",
        )
        for name in OWN_TERMS
        if name in options.energies
    ]


def _blind(options: BackboneOptions, where: str) -> list[Problem]:
    """Localized states are those of an excess charge or spin, which the network has to see."""
    if options.localization_width is None or options.total_charge_embedding or options.total_spin_embedding:
        return []
    return [
        Problem(
            where,
            "model.localization_width",
            f"{options.localization_width:g}, but the model sees neither total charge nor total spin",
            "total_charge_embedding = true or total_spin_embedding = true",
        )
    ]


def needs_degrees(options: BackboneOptions, recipe: Recipe, where: str) -> list[Problem]:
    """Return hidden irreps that are missing for the multipoles of the recipe; never a silent zero."""
    wanted = recipe.electrostatics.multipoles_max_l
    degrees = options.read_degrees()
    missing = [degree for degree in range(wanted + 1) if degree not in degrees]
    if not missing:
        return []
    if degrees == (0,) != parse_irreps(options.hidden_irreps).degrees:
        expected = f'"all", since the multipoles up to {wanted} are read from the only layer there is'
        return [Problem(where, "model.last_layer", '"scalars" with one layer', expected)]
    names = " and ".join(f"{degree}{'eo'[degree % 2]}" for degree in missing)
    return [
        Problem(
            where,
            "model.hidden_irreps",
            repr(options.hidden_irreps),
            f"{names} among the hidden irreps, since electrostatics.multipoles_max_l = {wanted}",
            "add it, or lower multipoles_max_l",
        )
    ]
