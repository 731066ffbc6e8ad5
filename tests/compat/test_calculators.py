"""Calculators with the keywords and result names of the older ones."""

from __future__ import annotations

import logging
from pathlib import Path

import lsf.deploy.ase
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from lsf.deploy.ase import LocalChargesCalculator, LocalSplitChargesCalculator

import lsf
from lsf.compat.calculators import with_boundary
from lsf.errors import LsfError
from tests.formats.test_package import stored
from tests.models.helpers import water


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A LocalSplitCharges model trained, as it were, with the boundary method realspace."""
    return stored(tmp_path)[1]


def boxed(n: int = 1) -> Atoms:
    atoms = water(n)
    atoms.set_cell([30.0, 30.0, 30.0])
    return atoms


def test_old_keywords_and_results(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    atoms = water(1)
    atoms.info["homogeneous_field"] = [0.0, 0.0, 0.1]
    calculator = LocalSplitChargesCalculator(
        model_path=str(model),
        device="cpu",
        energy_units_to_eV=1.0,
        length_units_to_A=1.0,
        default_dtype="float64",
        formal_charges_key="formal_oxidation_states",
        external_field_key="homogeneous_field",
        fermi_level_key="VBM",
        use_compile=False,
        compile_backend="inductor",
        compile_mode="reduce-overhead",
        compile_dynamic=False,
        compile_fullgraph=False,
        compile_warmup=True,
    )
    atoms.calc = calculator
    atoms.get_potential_energy()
    results = calculator.results
    names = (
        "energy free_energy forces partial_charges partial_dipoles density_coefficients dipole external_field"
    )
    assert set(names.split()) <= set(results)
    given = "compile_backend, compile_mode, compile_dynamic, compile_fullgraph, compile_warmup"
    assert [record.getMessage() for record in caplog.records] == [
        "fermi_level_key: no effect, local-source models have no Fermi level",
        f"{given}: no effect, compiling is not available",
    ]
    assert results["external_field"].tolist() == [0.0, 0.0, 0.1]
    reference = water(1)
    reference.info["external_field"] = [0.0, 0.0, 0.1]
    reference.calc = lsf.load(model).ase_calculator()
    assert results["energy"] == reference.get_potential_energy()  # the same code: equal to the last bit
    assert np.array_equal(results["forces"], reference.get_forces())
    atoms.info["homogeneous_field"] = [0.0, 0.0, 0.2]
    assert atoms.get_potential_energy() != results["energy"]
    assert calculator.results["external_field"].tolist() == [0.0, 0.0, 0.2]


def test_the_boundary_method_is_that_of_training_unless_another_is_asked_for(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    energies = {}
    for boundary in (None, "realspace", "pbc"):
        caplog.clear()
        atoms = boxed()
        atoms.pbc = boundary == "pbc"
        atoms.calc = LocalSplitChargesCalculator(model, pbc_handling=boundary)
        energies[boundary] = atoms.get_potential_energy()
        said = "trained with the boundary method realspace and is evaluated with pbc" in caplog.text
        assert said is (boundary == "pbc")
    assert energies[None] == energies["realspace"]
    assert energies["pbc"] != energies["realspace"]


def test_an_override_leaves_the_loaded_model_as_it_was(model: Path) -> None:
    loaded = lsf.load(model)
    assert with_boundary(loaded, "pbc").recipe.electrostatics.boundary == "pbc"
    assert loaded.recipe.electrostatics.boundary == "realspace"


def test_units(model: Path) -> None:
    atoms = water(1)
    atoms.calc = LocalSplitChargesCalculator(model)
    plain, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = LocalSplitChargesCalculator(model, energy_units_to_eV=2.0, length_units_to_A=4.0)
    assert atoms.get_potential_energy() == 2.0 * plain
    assert np.array_equal(atoms.get_forces(), 0.5 * forces)


def test_float32(model: Path) -> None:
    atoms = water(1)
    atoms.calc = LocalSplitChargesCalculator(model)
    exact = atoms.get_potential_energy()
    atoms.calc = LocalSplitChargesCalculator(model, default_dtype="float32")
    # the short-range energy of a few eV carries 7 digits
    assert atoms.get_potential_energy() == pytest.approx(exact, abs=1e-4)
    assert atoms.get_potential_energy() != exact


def test_a_model_without_polarizability_says_so(model: Path) -> None:
    atoms = water(1)
    atoms.calc = LocalSplitChargesCalculator(model)
    with pytest.raises(PropertyNotImplementedError, match="has no polarizability readout"):
        atoms.calc.get_property("polarizability", atoms)


def test_a_fermi_level_is_not_invented(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    atoms = water(1)
    atoms.calc = LocalSplitChargesCalculator(model)
    assert caplog.text == "", "settings that were not given are not spoken of"
    atoms.get_potential_energy()
    assert "fermi_level" not in atoms.calc.results
    with pytest.raises(PropertyNotImplementedError, match="fermi_level: local-source models have none"):
        atoms.calc.get_property("fermi_level", atoms)


def test_old_file_names(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        LocalSplitChargesCalculator(model.with_suffix(".model"))
    assert "small.model is not there; reading" in caplog.text
    pickled = model.with_name("old.model")
    pickled.write_bytes(b"\x80")
    with pytest.raises(LsfError, match="pickled code, which lsf does not run"):
        LocalSplitChargesCalculator(pickled)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_compile": True}, "use_compile: these calculators run the model as it is"),
        ({"default_dtype": "float16"}, "default_dtype 'float16': expected float64 or float32"),
        (
            {"pbc_handling": "realspce"},
            r"pbc_handling 'realspce': no such boundary method; did you mean 'realspace'\?",
        ),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str, model: Path) -> None:
    with pytest.raises(LsfError, match=message):
        LocalSplitChargesCalculator(model, **settings)


def test_another_kind_of_model_is_refused(model: Path) -> None:
    with pytest.raises(
        LsfError, match="is a LocalSplitCharges model, not LocalCharges: use LocalSplitCharges"
    ):
        LocalChargesCalculator(model)


def test_the_names_stand_in_the_deploy_module() -> None:
    assert lsf.deploy.ase.FixedChargeBaselineCalculator.model_name == "FixedChargeBaselinedMACE"
    with pytest.raises(AttributeError, match="no attribute 'MissingCalculator'"):
        lsf.deploy.ase.MissingCalculator  # noqa: B018
