"""ASE calculators with the keywords and result names of the older local-source calculators."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar, Final

import attrs
import numpy as np
from ase import Atoms

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
    fermi_level_key : accepted; local-source models have no Fermi level, the result is 0
    pbc_handling : boundary method; that of training where not given. Another one is logged as a warning
    use_compile, compile_backend, compile_mode, compile_dynamic, compile_fullgraph, compile_warmup :
        accepted where ``use_compile`` is false

    Results are those of :class:`lsf.engines.ase.calculator.LsfCalculator`, and ``external_field`` (3,) V/Å
    and ``fermi_level``. Only the model class named ``model`` is accepted.
    """

    model_name: ClassVar[str] = ""
    implemented_properties: ClassVar[list[str]] = [
        *LsfCalculator.implemented_properties,
        "external_field",
        "fermi_level",
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
        fermi_level_key: str = "e_fermi",  # noqa: ARG002
        pbc_handling: str | None = None,
        use_compile: bool = False,
        compile_backend: str = "inductor",  # noqa: ARG002
        compile_mode: str = "reduce-overhead",  # noqa: ARG002
        compile_dynamic: bool = False,  # noqa: ARG002
        compile_fullgraph: bool = False,  # noqa: ARG002
        compile_warmup: bool = True,  # noqa: ARG002
    ) -> None:
        if use_compile:
            raise LsfError("use_compile: these calculators run the model as it is; leave it out")
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
        return {**results, "external_field": np.zeros(3) if field is None else field, "fermi_level": 0.0}


class LocalChargesCalculator(OldCalculator):
    """Calculator of LocalCharges models, with the keywords of the older one."""

    model_name = "LocalCharges"


class LocalSplitChargesCalculator(OldCalculator):
    """Calculator of LocalSplitCharges models, with the keywords of the older one."""

    model_name = "LocalSplitCharges"


class FixedChargeBaselineCalculator(OldCalculator):
    """Calculator of FixedChargeBaselinedMACE models, with the keywords of the older one."""

    model_name = "FixedChargeBaselinedMACE"
