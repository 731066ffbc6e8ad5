"""ONNX files: the same numbers as the model without torch, and clear when they say no."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write

import lsf
from lsf import cli
from lsf.data.graph import GraphTensors, graph_tensors
from lsf.data.statistics import DataFacts
from lsf.errors import BoundaryError, ExportError, LsfError, MissingExtraError, ModelFileError
from lsf.formats import graph as graph_module
from lsf.formats.describe import described
from lsf.formats.onnx import read as onnx_files
from lsf.formats.onnx import write as exporter_module
from lsf.formats.onnx.inputs import ArrayInputs
from lsf.formats.onnx.read import OnnxFile
from lsf.formats.onnx.write import OnnxOptions, export_onnx
from tests.formats.test_torchscript import batch, expected, model_file
from tests.models.helpers import boxed_water, salt_slab, triclinic_salt, water

pytest.importorskip("onnx", reason="needs lsf[onnx]")
pytest.importorskip("onnxruntime", reason="needs lsf[onnx]")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small open model, exported through the command line once: recording takes half a minute."""
    folder = tmp_path_factory.mktemp("small")
    source = model_file(folder, more="num_interactions = 1")
    assert cli.main(["export", str(source), "--format", "onnx"]) == 0
    return lsf.load(source), OnnxFile(folder / "small.onnx"), folder / "small.onnx"


def assert_equal(loaded, file, structures, tolerance=1e-11):
    """Compare all outputs; sums are made in another order, which costs some 1e-13 of numbers of order 100."""
    reference = expected(loaded, structures)
    found = file.evaluate(file.inputs(structures))
    assert set(found) == set(reference)
    for name, value in reference.items():
        scale = max(1.0, float(value.abs().max()))
        np.testing.assert_allclose(found[name], value.numpy(), rtol=0.0, atol=tolerance * scale, err_msg=name)


def lone(atoms):
    """Return one atom of a structure."""
    return atoms[[0]]


def test_the_file_gives_the_numbers_of_the_model(small):
    loaded, file, _ = small
    for structures in ([water(1)], [water(30)], [water(2), water(5)]):
        assert_equal(loaded, file, structures)


def test_atoms_without_neighbours(small):
    loaded, file, _ = small
    pair = Atoms("NaCl", [[0.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    for structures in ([lone(water(1))], [pair], [lone(water(1)), water(2)]):
        assert_equal(loaded, file, structures)


def test_forces_follow_the_energy(small):
    _, file, _ = small
    atoms = water(2)
    atoms.info["external_field"] = np.array([0.3, -0.2, 0.1])
    forces = file.evaluate(file.inputs([atoms]), ["forces"])["forces"]
    step = 1.0e-4
    for atom, axis in ((0, 2), (4, 1)):
        energies = []
        for sign in (1.0, -1.0):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(float(file.evaluate(file.inputs([moved]), ["energy"])["energy"][0]))
        # error of central differences: third derivatives of some 100 eV/Å³ times step² / 6
        numerical = -(energies[0] - energies[1]) / (2.0 * step)
        assert float(forces[atom, axis]) == pytest.approx(numerical, abs=1e-6)


def test_what_the_file_says_about_itself(small):
    loaded, file, _ = small
    assert file.species == ["H", "O", "Na", "Cl"]
    assert file.cutoff == 3.5
    for name, value in described(loaded, torch.float64).items():
        assert file.metadata[name] == json.loads(json.dumps(value))
    assert file.metadata["verified"]["structures"] >= 5
    assert max(file.metadata["verified"]["largest_relative_difference"].values()) < 1e-9
    shapes = {item.name: item.shape for item in file.session.get_inputs()}
    assert shapes == {name: list(sizes) for name, sizes in file.metadata["sizes"].items()}
    assert shapes["positions"] == ["n_atoms", 3]
    assert shapes["open_pairs"] == [2, "n_pairs"]


def test_the_file_runs_without_torch(small, tmp_path):
    _, file, path = small
    write(tmp_path / "water.xyz", water(2))
    code = (
        "import sys; sys.modules['torch'] = None\n"  # as if it were not installed
        "from ase.io import read; from lsf.formats.onnx.read import OnnxFile\n"
        f"file = OnnxFile({str(path)!r}); atoms = read({str(tmp_path / 'water.xyz')!r})\n"
        "found = file.evaluate(file.inputs([atoms]))\n"
        "print(sorted(name for name in sys.modules if name.startswith(('torch', 'e3nn'))))\n"
        "print(float(found['energy'][0]).hex())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules, energy = done.stdout.splitlines()
    assert modules == "['torch']"  # the one that was forbidden
    # positions in the file have eight decimals
    here = float(file.evaluate(file.inputs([water(2)]), ["energy"])["energy"][0])
    assert float.fromhex(energy) == pytest.approx(here, abs=1e-5)


@pytest.mark.parametrize(
    ("atoms", "error", "message"),
    [
        (Atoms("He"), LsfError, "does not know atomic number 2; its elements: H, O, Na, Cl"),
        (Atoms(), LsfError, "a structure without atoms"),
        (triclinic_salt(), BoundaryError, "'realspace' cannot treat pbc = T T T"),
    ],
)
def test_structures_that_the_model_cannot_treat(small, atoms, error, message):
    _, file, _ = small
    with pytest.raises(error, match=message):
        file.inputs([atoms])


def test_wrong_names_and_numbers(small):
    _, file, _ = small
    inputs = file.inputs([water(1)])
    with pytest.raises(LsfError, match="no output 'enrgy'; it has energy, "):
        file.evaluate(inputs, ["enrgy"])
    with pytest.raises(LsfError, match="no input 'k_triplets'; it has positions, "):
        file.evaluate({**inputs, "k_triplets": inputs["open_pairs"]})
    with pytest.raises(LsfError, match="no structure to evaluate"):
        file.inputs([])
    atoms = water(1)
    atoms.info["external_field"] = [1.0, 0.0]
    with pytest.raises(LsfError, match=r'info\["external_field"\] has 2 numbers; expected 3'):
        file.inputs([atoms])


def test_formal_charges_that_are_missing_or_out_of_range(small):
    loaded, _, _ = small
    metadata = described(loaded, torch.float64)
    metadata |= {"formal_charges": "from_data", "formal_charge_range": [-2.0, 1.0], "inputs": []}
    make = ArrayInputs(metadata)
    atoms = water(1)
    make([atoms])
    atoms.arrays["formal_charges"] = np.array([-2.5, 1.0, 1.0])
    with pytest.raises(LsfError, match=r"charges from -2.5 to 1 e; the model small covers -2 to 1"):
        make([atoms])
    del atoms.arrays["formal_charges"]
    with pytest.raises(LsfError, match="needs the formal charge of every atom"):
        make([atoms])


STRUCTURES = {
    "mixed_periodic": lambda: [triclinic_salt(4), salt_slab() * (2, 1, 1), boxed_water(), water(3)],
    "auto": lambda: [salt_slab(), water(3), triclinic_salt(9), lone(water(1))],
}


@pytest.mark.parametrize("boundary", STRUCTURES)
def test_inputs_are_those_of_the_model_in_python(tmp_path, boundary):
    loaded = lsf.load(model_file(tmp_path, boundary=boundary))
    inputs = [name for name in GraphTensors._fields if not name.startswith(("mesh", "open_box", "trunc"))]
    structures = STRUCTURES[boundary]()
    for atoms in structures:
        atoms.info["external_field"] = np.array([0.1, 0.2, 0.3])
    found = ArrayInputs(described(loaded, torch.float64) | {"inputs": inputs})(structures)
    tensors = graph_tensors(batch(loaded, structures), loaded.model.species)
    for name, value in found.items():
        wanted = getattr(tensors, name).numpy()
        assert value.dtype == wanted.dtype, name
        np.testing.assert_array_equal(value, wanted, err_msg=name)


def test_a_file_that_disagrees_is_not_written(small, tmp_path, monkeypatch):
    loaded, _, path = small
    (tmp_path / "m.onnx").write_text("older")
    monkeypatch.setitem(exporter_module.TOLERANCES, torch.float64, -1.0)
    monkeypatch.setattr(graph_module, "_same", lambda *_: True)
    monkeypatch.setattr(OnnxFile, "evaluate", lambda *_: {"energy": np.full(2, np.nan)})
    with pytest.raises(ExportError, match=r"energy .* differ by nan .* nothing was written"):
        export_onnx(loaded, tmp_path / "m.onnx", OnnxOptions())
    assert (tmp_path / "m.onnx").read_text() == "older"
    assert path.exists()


def test_operations_without_counterpart_are_named():
    from torch.fx.experimental.proxy_tensor import make_fx

    from lsf.formats.graph import FlatGraph
    from lsf.formats.onnx.convert.graph import converted

    example = torch.ones(3, 3, dtype=torch.float64)
    module = make_fx(lambda x: (torch.special.i0(x),), tracing_mode="symbolic")(example)
    graph = FlatGraph(module, ("positions",), ("energy",), (example,))
    with pytest.raises(ExportError, match=r"cannot write as ONNX: aten.i0.default.* --format torchscript"):
        converted(graph, graph.inputs)


def test_missing_packages_are_named(small, tmp_path, monkeypatch):
    loaded, _, path = small
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"format onnx needs .* pip install 'lsf\[onnx\]'"):
        export_onnx(loaded, tmp_path / "m.onnx", OnnxOptions())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"an ONNX model needs .* pip install 'lsf\[onnx\]'"):
        OnnxFile(path)


def test_what_is_no_exported_model(small, tmp_path, monkeypatch):
    import onnx

    _, _, path = small
    with pytest.raises(ModelFileError, match="no such model file"):
        OnnxFile(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_text("text")
    with pytest.raises(ModelFileError, match="not a readable ONNX file"):
        OnnxFile(tmp_path / "m.onnx")
    monkeypatch.setattr(onnx_files, "FORMAT_VERSION", 0)
    with pytest.raises(ModelFileError, match=r"in format 1; this lsf reads formats up to 0: update lsf"):
        OnnxFile(path)
    model = onnx.load(path)
    del model.metadata_props[:]
    with pytest.raises(ModelFileError, match="not a model exported by lsf"):
        OnnxFile(model.SerializeToString())


SYMMETRIC = 'transfer = "symmetric"'
POLARIZABLE = 'polarizability = true\noxidation_mixer = "product"'
MACE = (
    'interaction = "density_residual"\ndistance_transform = "agnesi"\npair_repulsion = true\n'
    'radial_basis = "chebyshev"\ntotal_spin_embedding = true\nlocalization_width = 0.05'
)
STATE = "total_charge_embedding = true\nlocalization_width = 0.05"
QUADRUPOLES = 'hidden_irreps = "2x0e + 2x1o + 2x2e"'
CASES = {
    "mixture": ("auto", "LocalSplitCharges", "", 1, None),
    "quadrupoles": ("auto", "LocalCharges", QUADRUPOLES, 2, None),
    "boxes": ("mixed_periodic", "LocalSplitCharges", SYMMETRIC, 1, "float32"),
    "crystal": ("pbc", "FixedChargeBaselinedMACE", "", 1, None),
    "polarizable": ("pbc", "LocalSplitCharges", POLARIZABLE, 1, None),
    "layers": ("slab", "LocalCharges", STATE, 1, "float32"),
    "box": ("molecule_in_box", "LocalSplitCharges", "", 0, None),
    "no charges": ("realspace", "MACE", MACE, 1, "float32"),
}
SINGLE = {
    "pbc": lambda: [triclinic_salt(5) * (2, 1, 1), triclinic_salt(6)],
    "slab": lambda: [salt_slab(4) * (2, 1, 1)],
    "molecule_in_box": lambda: [boxed_water(), water(3)],
    "realspace": lambda: [water(1), water(9)],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_model_and_boundary_method(tmp_path, case):
    boundary, model, more, degree, dtype = CASES[case]
    more = "\n".join(["num_interactions = 1", more])
    loaded = lsf.load(model_file(tmp_path, boundary=boundary, model=model, more=more, degree=degree))
    told = export_onnx(loaded, tmp_path / "m.onnx", OnnxOptions(dtype))
    assert told.startswith("agrees with the model on ")
    file = OnnxFile(tmp_path / "m.onnx")
    # seven digits in a network in single precision, some lost in sums over neighbours
    tolerance = 1e-5 if dtype == "float32" else 1e-11
    structures = STRUCTURES[boundary]() if boundary in STRUCTURES else SINGLE[boundary]()
    for index, atoms in enumerate(structures):
        atoms.info |= {"total_charge": float(index), "total_spin": 1.0}
    for chosen in (structures, *([atoms] for atoms in structures)):
        assert_equal(loaded, file, chosen, tolerance)


@pytest.mark.slow
def test_slabs_with_the_older_dipole_correction(tmp_path):
    settings = 'correction = "dipole"'
    loaded = lsf.load(model_file(tmp_path, boundary="slab", more="num_interactions = 1", settings=settings))
    export_onnx(loaded, tmp_path / "m.onnx", OnnxOptions())
    file = OnnxFile(tmp_path / "m.onnx")
    slabs = [salt_slab(4), salt_slab(5) * (2, 1, 1)]
    for chosen in (slabs, slabs[1:]):
        assert_equal(loaded, file, chosen)
    # summed in the cell as given, with its vacuum: there is neither an internal cell nor a layer term
    assert not {"slab_length", "layer_pairs"} & set(file.inputs(slabs))


@pytest.mark.slow
def test_a_model_of_one_element(tmp_path):
    facts = DataFacts((18,), {18: -3.0}, 7.3, {"train": 4})
    loaded = lsf.load(model_file(tmp_path, "auto", "LocalCharges", "num_interactions = 1", facts=facts))
    export_onnx(loaded, tmp_path / "m.onnx", OnnxOptions())
    file = OnnxFile(tmp_path / "m.onnx")
    assert file.species == ["Ar"]
    crystal, cluster = triclinic_salt(5), water(3)
    for atoms in (crystal, cluster):
        atoms.numbers[:] = 18
    for chosen in ([crystal, cluster], [crystal], [cluster], [lone(cluster)]):
        assert_equal(loaded, file, chosen)
