"""TorchScript files compute where their inputs are: no tensor is made on a device written down."""

import json
import zipfile

import pytest
import torch
from torch import nn

from lsf.errors import ExportError, LsfError
from lsf.formats.torchscript.devices import devices_written_down, follow_inputs
from lsf.formats.torchscript.read import METADATA_FILE, ScriptFile
from tests.formats.elsewhere import PLACE, Elsewhere, SecondDevice, move, unwrapped
from tests.formats.test_torchscript import exported
from tests.models.helpers import boxed_water, salt_slab, triclinic_salt, water

MACE = (
    'interaction = "density_residual"\ndistance_transform = "agnesi"\npair_repulsion = true\n'
    "total_charge_embedding = true\nlocalization_width = 0.05"
)
CASES = {
    "auto": ({"boundary": "auto", "degree": 2}, lambda: [triclinic_salt(4), salt_slab(), water(3)]),
    "boxes": (
        {"boundary": "mixed_periodic", "model": "LocalCharges"},
        lambda: [boxed_water(), salt_slab(), triclinic_salt(3)],
    ),
    "no charges": ({"boundary": "pbc", "model": "MACE", "more": MACE}, lambda: [triclinic_salt(4)]),
}


@pytest.mark.parametrize("case", CASES)
def test_tensors_are_made_where_the_inputs_are(tmp_path, case):
    settings, structures = CASES[case]
    more = settings.get("more", 'hidden_irreps = "2x0e + 2x1o + 2x2e"')
    _, path = exported(tmp_path, **(settings | {"more": f"num_interactions = 1\n{more}"}))
    file = ScriptFile(path)
    assert file.metadata["devices"] == "any"
    assert not devices_written_down(file.module.traced)
    inputs = file.inputs(structures())
    for always in (False, True):
        file.module.planner.meshes.always = always
        expected = file.evaluate(inputs, detail=2)
        there = ScriptFile(path).module
        there.planner.meshes.always = always
        move(there)
        with SecondDevice(), torch.jit.optimized_execution(False):
            found = there(**{name: Elsewhere(value) for name, value in inputs.items()}, detail=2)
        for name, value in expected.items():
            assert found[name].device == PLACE, name
            torch.testing.assert_close(unwrapped(found[name]), value, rtol=0.0, atol=1e-10, msg=name)


class Made(nn.Module):
    """Makes a tensor."""

    def forward(self, x):
        """Return it, added."""
        return x + torch.zeros(3, dtype=x.dtype, device=x.device)


def test_the_second_device_finds_devices_that_are_written_down():
    module = torch.jit.trace(Made(), torch.ones(3))
    assert devices_written_down(module) == [""]
    with SecondDevice() as mode, pytest.raises(RuntimeError, match="failed in the TorchScript interpreter"):
        module(Elsewhere(torch.ones(3)))
    assert mode.refused == ["aten.add.Tensor"]
    module = torch.jit.trace(Made(), torch.ones(3), check_trace=False)  # a check compiles it as it is
    follow_inputs(module)
    assert devices_written_down(module) == []
    with SecondDevice():
        assert module(Elsewhere(torch.ones(3))).device == PLACE


def test_a_part_without_arguments_has_no_device_to_follow():
    class Alone(nn.Module):
        def forward(self):
            return torch.zeros(3, device=torch.device("cpu"))

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Alone()

        def forward(self, x):
            return x + self.inner()

    with pytest.raises(ExportError, match="inner makes tensors and has no argument"):
        follow_inputs(torch.jit.trace(Outer(), torch.ones(3)))


@pytest.mark.parametrize("device", ["quantum", "mps", "cuda:99"])
def test_devices_that_are_not_there(tmp_path, device):
    with pytest.raises(LsfError, match=f"device '{device}': not usable here .* expected 'cpu' or 'cuda'"):
        ScriptFile(tmp_path / "m.pt", device=device)


def test_older_files_stay_on_the_cpu(tmp_path, monkeypatch):
    _, path = exported(tmp_path, more="num_interactions = 1")
    older = tmp_path / "older.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(older, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            if item.filename.endswith(METADATA_FILE):
                metadata = json.loads(content)
                del metadata["devices"]
                content = json.dumps(metadata).encode()
            target.writestr(item, content)
    assert "devices" not in ScriptFile(older).metadata
    load = torch.jit.load
    # a device that is everywhere, onto which torch loads nothing
    monkeypatch.setattr(
        torch.jit, "load", lambda source, **other: load(source, **(other | {"map_location": "cpu"}))
    )
    ScriptFile(path, device="meta")
    with pytest.raises(LsfError, match=r"older.pt was written by an older lsf, for the CPU"):
        ScriptFile(older, device="meta")
