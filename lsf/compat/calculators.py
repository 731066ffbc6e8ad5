"""ASE calculators with the keywords and result names of the older local-source calculators."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar, Final

import attrs
import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from lsf.engines.ase.calculator import LsfCalculator
from lsf.errors import LsfError, did_you_mean
from lsf.formats.model_file.file import LoadedModel, load_model
from lsf.models.build import DTYPES
from lsf.recipe.catalog import catalog

LOG: Final = logging.getLogger("lsf.compat")

ENERGIES: Final = (
    "energy",
    "free_energy",
    "energies",
    "energy_atomic",
    "energy_short_range",
    "energy_coulomb",
    "energy_field",
    "potential",
)
"""Results that count in the unit of energy."""


def model_file(path: str | Path) -> Path:
    """Return the model file; for an old name ``X.model`` that is not there, ``X.safetensors`` beside it."""
    path = Path(path)
    beside = path.with_suffix(".safetensors")
    if path.suffix == ".model" and not path.exists() and beside.exists():
        LOG.warning("%s is not there; reading %s", path, beside)
        return beside
    if path.suffix in (".model", ".pt", ".pth"):
        raise LsfError(
            f"{path}: models of the older trainer are pickled code, which lsf does not run; give the "
            f".safetensors file of a training with lsf, which `lsf compat train` writes as {beside.name}"
        )
    return path


def with_boundary(loaded: LoadedModel, boundary: str | None) -> LoadedModel:
    """Return the model with another boundary method than it was trained with, which is logged."""
    settings = loaded.recipe.electrostatics
    if boundary is None or boundary == settings.boundary:
        return loaded
    names = catalog().names("boundaries")
    if boundary not in names:
        raise LsfError(f"pbc_handling {boundary!r}: no such boundary method; {did_you_mean(boundary, names)}")
    LOG.warning(
        "%s was trained with the boundary method %s and is evaluated with %s: energies differ",
        loaded.path.name,
        settings.boundary,
        boundary,
    )
    changed = attrs.evolve(settings, boundary=boundary)
    return attrs.evolve(loaded, recipe=attrs.evolve(loaded.recipe, electrostatics=changed))


def _without_effect(reason: str, **settings: object) -> None:
    """Log which of some old settings were given, and why they change nothing."""
    given = [name for name, value in settings.items() if value is not None]
    if given:
        LOG.warning("%s: no effect, %s", ", ".join(given), reason)


class OldCalculator(LsfCalculator):
    """A calculator made from a file name, with the keywords of the older ones.

    Parameters
    ----------
    model_path : model file (.safetensors)
    device : "cpu", "cuda", …
    energy_units_to_eV, length_units_to_A : the model's units in eV and Å; energies, forces and stresses are
        multiplied accordingly
    default_dtype : "float64" or "float32", the precision of the short-range part; that of training where
        not given
    formal_charges_key : column of formal charges, for models that read them from the data
    external_field_key : entry of ``atoms.info`` with the gradient of the potential, V/Å
    fermi_level_key : no effect, which is logged: local-source models have no Fermi level
    pbc_handling : boundary method; that of training where not given. Another one is logged as a warning
    use_compile : compiling is not available here; True is refused
    compile_backend, compile_mode, compile_dynamic, compile_fullgraph, compile_warmup : no effect, which is
        logged

    Results are those of :class:`lsf.engines.ase.calculator.LsfCalculator`, and ``external_field`` (3,) V/Å.
    There is no ``fermi_level``. Only the model class named ``model`` is accepted.
    """

    model_name: ClassVar[str] = ""
    implemented_properties: ClassVar[list[str]] = [
        *LsfCalculator.implemented_properties,
        "external_field",
    ]

    def __init__(
        self,
        model_path: str | Path,
        device: str = "cpu",
        energy_units_to_eV: float = 1.0,
        length_units_to_A: float = 1.0,
        default_dtype: str | None = None,
        formal_charges_key: str = "charges",
        external_field_key: str = "external_field",
        fermi_level_key: str | None = None,
        pbc_handling: str | None = None,
        use_compile: bool = False,
        compile_backend: str | None = None,
        compile_mode: str | None = None,
        compile_dynamic: bool | None = None,
        compile_fullgraph: bool | None = None,
        compile_warmup: bool | None = None,
    ) -> None:
        if use_compile:
            raise LsfError(
                "use_compile: these calculators run the model as it is, without compiling; leave it out"
            )
        _without_effect("local-source models have no Fermi level", fermi_level_key=fermi_level_key)
        _without_effect(
            "compiling is not available",
            compile_backend=compile_backend,
            compile_mode=compile_mode,
            compile_dynamic=compile_dynamic,
            compile_fullgraph=compile_fullgraph,
            compile_warmup=compile_warmup,
        )
        loaded = load_model(model_file(model_path))
        if loaded.recipe.model.use != self.model_name:
            right = {cls.model_name: cls.__name__ for cls in OldCalculator.__subclasses__()}
            hint = right.get(loaded.recipe.model.use, "lsf.load(…).ase_calculator()")
            raise LsfError(
                f"{loaded.path.name} is a {loaded.recipe.model.use} model, not {self.model_name}: use {hint}"
            )
        if default_dtype is not None:
            if default_dtype not in DTYPES:
                raise LsfError(f"default_dtype {default_dtype!r}: expected float64 or float32")
            loaded.model.set_dtype(DTYPES[default_dtype])
        super().__init__(
            with_boundary(loaded, pbc_handling),
            device=device,
            external_field_key=external_field_key,
            formal_charges_key=formal_charges_key,
        )
        self.energy_unit = energy_units_to_eV
        self.length_unit = length_units_to_A

    def finished(self, results: dict[str, Any], atoms: Atoms) -> dict[str, Any]:
        """Return the results under the old names, in the units asked for."""
        powers = {**dict.fromkeys(ENERGIES, 0), "forces": 1, "hessian": 2, "stress": 3}
        for name, power in powers.items():
            if name in results:
                results[name] = results[name] * (self.energy_unit / self.length_unit**power)
        field = self.external_field(atoms)
        return {**results, "external_field": np.zeros(3) if field is None else field}

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a property; what no local-source model has is refused by name."""
        if name == "fermi_level":
            raise PropertyNotImplementedError("fermi_level: local-source models have none; leave it out")
        return super().get_property(name, atoms, allow_calculation)


class LocalChargesCalculator(OldCalculator):
    """Calculator of LocalCharges models, with the keywords of the older one."""

    model_name = "LocalCharges"


class LocalSplitChargesCalculator(OldCalculator):
    """Calculator of LocalSplitCharges models, with the keywords of the older one."""

    model_name = "LocalSplitCharges"


class FixedChargeBaselineCalculator(OldCalculator):
    """Calculator of FixedChargeBaselinedMACE models, with the keywords of the older one."""

    model_name = "FixedChargeBaselinedMACE"
