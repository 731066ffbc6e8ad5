"""Make small mace-torch models with random weights and what they predict; runs where mace-torch is installed.

    python make_models.py FOLDER [CASE …]

For every case FOLDER gets ``CASE.model`` (the pickle), ``CASE.weights.safetensors`` (what
``tools/export_mace_weights.py`` makes of it) and ``CASE.predictions.safetensors``: energies, forces and
stresses of the structures of ``structures()``, which is the only thing lsf's tests import from here.
"""

import sys
from pathlib import Path

import numpy as np

BLOCKS = {
    "residual": "RealAgnosticResidualInteractionBlock",
    "plain": "RealAgnosticInteractionBlock",
    "density_residual": "RealAgnosticDensityResidualInteractionBlock",
    "density": "RealAgnosticDensityInteractionBlock",
}
BASE = {
    "class": "ScaleShiftMACE",
    "r_max": 4.0,
    "num_bessel": 8,
    "num_polynomial_cutoff": 5,
    "max_ell": 3,
    "first": "residual",
    "later": "residual",
    "num_interactions": 2,
    "hidden_irreps": "8x0e + 8x1o",
    "MLP_irreps": "16x0e",
    "correlation": 3,
    "gate": "silu",
}
CASES = {
    # the settings of MACE-MP-0 (arXiv:2401.00096) with fewer channels: small, medium, large
    "mp0_small": {"hidden_irreps": "16x0e", "r_max": 6.0, "num_bessel": 10},
    "mp0_medium": {"r_max": 6.0, "num_bessel": 10},
    "mp0_large": {"hidden_irreps": "6x0e + 6x1o + 6x2e", "r_max": 6.0, "num_bessel": 10},
    # those of MACE-OFF23 (arXiv:2312.15211): an isolated atom has exactly its E0
    "off23_medium": {"first": "plain", "r_max": 5.0},
    "off23_large": {"first": "plain", "hidden_irreps": "6x0e + 6x1o + 6x2e", "r_max": 5.0},
    # those of MACE-MP-0b and later: density interactions, transformed distances, repulsion of nuclei
    "mp0b": {
        "first": "density",
        "later": "density_residual",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
        "r_max": 6.0,
        "num_bessel": 10,
        "hidden_irreps": "6x0e + 6x1o",
    },
    "heads": {"heads": ["dft", "mp2"], "pair_repulsion": True, "distance_transform": "Soft"},
    "plain_mace": {
        "class": "MACE",
        "first": "plain",
        "later": "plain",
        "gate": "tanh",
        "correlation": [2, 3],
    },
    "one_layer": {"num_interactions": 1, "max_ell": 2, "radial_type": "gaussian", "radial_MLP": [16, 32]},
    "kept_irreps": {"keep_last_layer_irreps": True, "num_interactions": 3, "max_ell": 2, "gate": "abs"},
    "agnostic": {"use_agnostic_product": True, "max_ell": 4, "correlation": 2, "r_max": 3.5},
    "float32": {"dtype": "float32", "pair_repulsion": True, "distance_transform": "Agnesi"},
    # tiny: stored, so that the fast tests compare without mace-torch
    "sample": {
        "first": "density",
        "max_ell": 2,
        "hidden_irreps": "2x0e + 2x1o + 2x2e",
        "MLP_irreps": "4x0e",
        "num_bessel": 4,
        "radial_MLP": [4, 4],
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
        "heads": ["dft", "mp2"],
        "r_max": 3.0,
        "correlation": 2,
    },
    "sample_scalars": {
        "num_interactions": 3,
        "max_ell": 2,
        "hidden_irreps": "3x0e",
        "MLP_irreps": "4x0e",
        "num_bessel": 4,
        "radial_MLP": [4],
        "r_max": 3.0,
        "correlation": 2,
    },
}
NUMBERS = (1, 6, 8)


def structures():
    """Return (numbers, positions, cell, pbc) of two molecules and a cell, the same everywhere."""
    rng = np.random.default_rng(7)
    water = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
    carbon = np.array([[0.0, 0.0, 0.0], [1.2, 0.1, 0.0], [-0.6, 0.9, 0.2], [-0.5, -0.9, 0.1]])
    cell = np.array([[4.4, 0.0, 0.0], [0.7, 4.1, 0.0], [-0.3, 0.5, 4.6]])
    crowd = rng.uniform(size=(9, 3)) @ cell
    spread = [crowd[0]]
    for point in rng.uniform(size=(400, 3)) @ cell:
        shifts = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3), -1).reshape(-1, 3) @ cell
        nearest = min(np.linalg.norm(point + shifts - other, axis=1).min() for other in spread)
        if nearest > 1.0 and len(spread) < 9:
            spread.append(point)
    return [
        (np.array([8, 1, 1]), water, np.zeros((3, 3)), np.zeros(3, dtype=bool)),
        (np.array([6, 8, 1, 1]), carbon, np.zeros((3, 3)), np.zeros(3, dtype=bool)),
        (np.resize([8, 1, 6, 1], len(spread)), np.array(spread), cell, np.ones(3, dtype=bool)),
    ]


def build(case):
    """Return the model of a case; its weights depend on the name of the case alone."""
    import torch
    from e3nn import o3
    from mace import modules

    settings = {**BASE, **CASES[case]}
    torch.set_default_dtype(getattr(torch, settings.get("dtype", "float64")))
    torch.manual_seed(sum(map(ord, case)))
    heads = settings.get("heads")
    rng = np.random.default_rng(1)
    n_heads = len(heads or [None])
    energies = rng.normal(size=(n_heads, len(NUMBERS))) * 10.0
    gates = {"silu": torch.nn.functional.silu, "tanh": torch.tanh, "abs": torch.abs}
    kinds = modules.interaction_classes
    given = ("r_max", "num_bessel", "num_polynomial_cutoff", "max_ell", "num_interactions", "correlation")
    optional = ("pair_repulsion", "distance_transform", "radial_type", "radial_MLP", "use_agnostic_product")
    arguments = {
        **{name: settings[name] for name in given},
        **{name: settings[name] for name in (*optional, "keep_last_layer_irreps") if name in settings},
        "interaction_cls": kinds[BLOCKS[settings["later"]]],
        "interaction_cls_first": kinds[BLOCKS[settings["first"]]],
        "num_elements": len(NUMBERS),
        "hidden_irreps": o3.Irreps(settings["hidden_irreps"]),
        "MLP_irreps": o3.Irreps(settings["MLP_irreps"]),
        "atomic_energies": energies,
        "avg_num_neighbors": 11.3,
        "atomic_numbers": list(NUMBERS),
        "gate": gates[settings["gate"]],
        "heads": heads,
    }
    if settings["class"] == "ScaleShiftMACE":
        arguments["atomic_inter_scale"] = np.array([0.8, 1.3][:n_heads])
        arguments["atomic_inter_shift"] = np.array([0.17, -0.4][:n_heads])
    return getattr(modules, settings["class"])(**arguments)


def predict(model, head):
    """Return energies (n,), forces (Σ n_atoms, 3) and stresses (n, 3, 3) of one head, in float64."""
    import torch
    from ase import Atoms
    from mace import data
    from mace.tools import torch_geometric, utils

    torch.set_default_dtype(torch.float64)
    model = model.double()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    table = utils.AtomicNumberTable(list(NUMBERS))
    heads = getattr(model, "heads", ["Default"])
    results = {"energy": [], "forces": [], "stress": []}
    for numbers, positions, cell, pbc in structures():
        atoms = Atoms(numbers, positions, cell=cell, pbc=pbc)
        configuration = data.config_from_atoms(atoms, head_name=heads[head])
        item = data.AtomicData.from_config(
            configuration, z_table=table, cutoff=float(model.r_max), heads=heads
        )
        batch = next(iter(torch_geometric.dataloader.DataLoader([item], batch_size=1)))
        output = model(batch.to_dict(), compute_stress=bool(pbc.all()))
        results["energy"].append(output["energy"].detach().reshape(()))
        results["forces"].append(output["forces"].detach())
        stress = output["stress"]
        results["stress"].append(torch.zeros(3, 3) if stress is None else stress.detach().reshape(3, 3))
    return {
        "energy": torch.stack(results["energy"]),
        "forces": torch.cat(results["forces"]),
        "stress": torch.stack(results["stress"]),
    }


def main(folder, cases):
    """Write the files of the cases."""
    import torch

    torch.serialization.add_safe_globals([slice])
    from safetensors.torch import save_file

    sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
    import export_mace_weights

    folder = Path(folder)
    for case in cases or CASES:
        model = build(case)
        torch.save(model, folder / f"{case}.model")
        export_mace_weights.export(model, folder / f"{case}.weights.safetensors")
        heads = getattr(model, "heads", ["Default"])
        predicted = {
            f"{heads[head]}.{name}": value.contiguous()
            for head in range(len(heads))
            for name, value in predict(model, head).items()
        }
        save_file(predicted, folder / f"{case}.predictions.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
