"""Every weight of every model belongs to one group of the learning rates."""

import pytest

from lsf.electrostatics.settings import Electrostatics
from lsf.recipe.schema import PARAMETER_GROUPS
from tests.models.helpers import MODELS, make_model


@pytest.mark.parametrize("name", MODELS)
def test_groups_hold_every_parameter_once(name):
    model = make_model(name, Electrostatics(boundary="realspace"))
    groups = model.parameter_groups()
    assert tuple(groups) == PARAMETER_GROUPS
    found = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(found) == sorted(map(id, model.parameters()))
    assert bool(groups["source_maps"]) == name.startswith("Local")
    assert bool(groups["polarizability_readouts"]) == (name == "LocalSplitCharges")
    for empty in ("embedding", "interactions_decay", "interactions_no_decay", "products", "readouts"):
        assert groups[empty]
