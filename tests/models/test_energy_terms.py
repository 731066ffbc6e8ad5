"""Energy terms: all are in the outputs, parts add up to the energy, terms to their parts."""

from __future__ import annotations

import pytest
import torch

from lsf.data.statistics import DataFacts
from lsf.electrostatics.settings import Electrostatics
from lsf.models.derivatives import evaluate
from lsf.models.local_source import LocalSourceModel
from lsf.models.options import MACEOptions
from lsf.models.setting import ModelSetting
from tests.models.helpers import MODELS, batch_of, make_model, water

OPEN = Electrostatics(boundary="realspace")
PARTS = ("atomic", "short_range", "coulomb", "field")
SHORT_RANGE = ("readout", "pair_repulsion", "localized_charge")


@pytest.mark.parametrize("name", MODELS)
def test_parts_add_up_to_the_energy_and_terms_to_their_part(name: str) -> None:
    more = {"pair_repulsion": True, "total_charge_embedding": True, "localization_width": 0.05}
    model = make_model(name, OPEN, scale=2.0, **more)
    near = water(2)
    near.positions[1] = near.positions[0] + 0.5 * (near.positions[1] - near.positions[0])  # nuclei repel
    batch = batch_of([near, water(1)], model, OPEN)
    batch.total_charge[:] = 1.0
    batch.external_field[:] = 0.1
    found = evaluate(model, batch, ())
    # rounding of energies of 10³ eV
    total = sum(found[f"energy_{part}"] for part in PARTS)
    assert torch.allclose(found["energy"], total, rtol=0.0, atol=1e-11)
    short_range = sum(found[f"energy_{term}"] for term in SHORT_RANGE)
    assert torch.allclose(found["energy_short_range"], short_range, rtol=0.0, atol=1e-11)
    assert all(float(found[f"energy_{term}"].abs().max()) > 1e-6 for term in SHORT_RANGE)
    of_atoms = torch.zeros(2, dtype=torch.float64).index_add(0, batch.batch, found["node_energy"])
    expected = found["energy_atomic"] + found["energy_short_range"]
    assert torch.allclose(of_atoms, expected, rtol=0.0, atol=1e-11)


def test_two_terms_of_one_name_are_refused() -> None:
    model = make_model("MACE", OPEN)
    setting = ModelSetting(MACEOptions(), OPEN, DataFacts((1,), {1: 0.0}, 9.0, {"train": 1}))
    energies = [*model.energies, model.readout]
    parts = model.polarizability, model.charge_state
    with pytest.raises(ValueError, match="a part of the name 'readout' already"):
        LocalSourceModel(setting, model.backbone, model.radial, model.source, energies, *parts)
