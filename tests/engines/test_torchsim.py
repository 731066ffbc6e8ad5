"""torch-sim: its own validation, batches, dynamics."""

import importlib.util

import numpy as np
import pytest
import torch

from lsf.data.statistics import DataFacts
from lsf.errors import LsfError
from tests.engines import engines
from tests.engines.engines import exported, reference, structures, water

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("torch_sim") is None,
        reason="torch-sim is not installed: pip install 'lsf[torchsim]'",
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
]


def test_torch_sims_own_validation(tmp_path, monkeypatch):
    from torch_sim.models.interface import validate_model_outputs

    from lsf.engines.torchsim import LsfModel

    facts = DataFacts((14, 26), {14: -8.0, 26: -9.0}, 7.3, {"train": 4})  # the elements of its structures
    monkeypatch.setattr(engines, "FACTS", facts)
    _, path = exported(tmp_path, charges={"Si": 0.0, "Fe": 0.0})
    validate_model_outputs(LsfModel(path), torch.device("cpu"), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_batch_gives_the_numbers_of_the_model(tmp_path, dtype):
    import torch_sim as ts

    from lsf.engines.torchsim import LsfModel

    loaded, path = exported(tmp_path)
    chosen = [structures()[name] for name in ("triclinic", "ortho")]
    state = ts.io.atoms_to_state(chosen, torch.device("cpu"), dtype)
    found = LsfModel(path, dtype=dtype)(state)
    single = dtype == torch.float32
    first = 0
    for index, atoms in enumerate(chosen):
        expected = reference(loaded, atoms)
        last = first + len(atoms)
        # positions of seven digits, energies of some 4000 eV
        close = {"rtol": 1e-6, "atol": 1e-4} if single else {"rtol": 0.0, "atol": 1e-9}
        np.testing.assert_allclose(float(found["energy"][index]), expected["energy"], **close)
        np.testing.assert_allclose(found["forces"][first:last], expected["forces"], **close)
        np.testing.assert_allclose(found["stress"][index], expected["stress"], **close)
        np.testing.assert_allclose(found["charges"][first:last], expected["charges"], **close)
        first = last


def test_neighbours_that_are_kept_change_nothing(tmp_path):
    import torch_sim as ts

    from lsf.engines.torchsim import LsfModel

    _, path = exported(tmp_path)
    kept, plain = LsfModel(path), LsfModel(path, skin=0.0)
    rng = np.random.default_rng(2)
    names = ["triclinic", "ortho"]
    for step in range(6):
        chosen = [structures()[name] for name in names]
        for atoms in chosen:
            atoms.positions += rng.normal(scale=0.03 * step, size=atoms.positions.shape)
        state = ts.io.atoms_to_state(chosen, torch.device("cpu"), torch.float64)
        found, expected = kept(state), plain(state)
        for name, value in expected.items():
            # the same edges in the same order
            np.testing.assert_allclose(found[name], value, rtol=0.0, atol=1e-12, err_msg=name)
        names = names[:1] if step == 2 else [*reversed(names)]  # systems come and go


def test_dynamics(tmp_path):
    import torch_sim as ts

    from lsf.engines.torchsim import LsfModel

    _, path = exported(tmp_path)
    model = LsfModel(path)
    final = ts.integrate(
        system=[structures()["ortho"], structures()["small"]],
        model=model,
        integrator=ts.integrators.nve,
        n_steps=4,
        temperature=100,
        timestep=0.00025,
    )
    assert torch.isfinite(final.energy).all()


def test_what_is_refused(tmp_path):
    import torch_sim as ts

    from lsf.engines.torchsim import LsfModel

    _, path = exported(tmp_path)
    device = torch.device("cpu")
    state = ts.io.atoms_to_state([structures()["ortho"]], device, torch.float64)
    with pytest.raises(LsfError, match="needs unwrapped positions"):
        LsfModel(path, electric_field=[0.0, 0.0, 0.1])(state)
    atoms = water(1)
    atoms.cell = np.eye(3) * 20.0
    with pytest.raises(LsfError, match="cannot treat a structure with 0 periodic directions"):
        LsfModel(path)(ts.io.atoms_to_state([atoms], device, torch.float64))
    _, path = exported(tmp_path, charges="from_data")
    with pytest.raises(LsfError, match="needs formal_charges_from"):
        LsfModel(path)
