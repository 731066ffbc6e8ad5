"""What a model of mace-torch is made of, read from the file that tools/export_mace_weights.py writes.

Everything lsf lacks is refused here, all of it at once and by name, before a weight is looked at.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

import attrs
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lsf.errors import ModelFileError, Problem, ProblemsError, did_you_mean
from lsf.models.irreps import parse_irreps

FORMAT_VERSION: Final = 1

STYLES: Final = {
    "RealAgnosticResidualInteractionBlock": "residual",
    "RealAgnosticInteractionBlock": "plain",
    "RealAgnosticDensityResidualInteractionBlock": "density_residual",
    "RealAgnosticDensityInteractionBlock": "density",
}
BASES: Final = {"BesselBasis": "bessel", "GaussianBasis": "gaussian"}
TRANSFORMS: Final = {"none": "none", "AgnesiTransform": "agnesi", "SoftTransform": "soft"}
GATES: Final = ("silu", "tanh", "abs", "none")
CLASSES: Final = {"MACE": "MACE", "ScaleShiftMACE": "ScaleShiftMACE"}


@attrs.frozen(eq=False)
class MaceFile:
    """Settings and weights of a model of mace-torch, of one of its heads."""

    path: Path
    facts: dict[str, Any]
    tensors: dict[str, Tensor]
    head: int

    def weight(self, name: str) -> Tensor:
        """Return a tensor in float64."""
        return self.tensors[name].to(torch.float64)

    @property
    def numbers(self) -> list[int]:
        """Atomic numbers in the order of the weights."""
        numbers: list[int] = torch.atleast_1d(self.tensors["atomic_numbers"]).tolist()
        return numbers

    @property
    def precision(self) -> float:
        """Relative rounding error of the stored numbers."""
        return 1e-6 if self.facts["dtype"] == "float32" else 1e-12

    def of_head(self, name: str) -> float:
        """Return a number that may be given for every head."""
        values = torch.atleast_1d(self.weight(name))
        return float(values[self.head if values.shape[0] > 1 else 0])


def read_mace(path: str | Path, head: str | None = None) -> MaceFile:
    """Return the content of a file of tools/export_mace_weights.py; ``head`` names one of several heads.

    Raises :class:`lsf.errors.LsfError` when the file is no such file, when the head is not there, and with
    every setting that lsf does not have.
    """
    path = Path(path)
    facts, tensors = _read(path)
    if facts["format_version"] > FORMAT_VERSION:
        raise ModelFileError(f"{path}: written by a newer tools/export_mace_weights.py than this lsf reads")
    file = MaceFile(path, facts, tensors, _head(path, facts["heads"], head))
    # a model of another kind differs in everything else, too
    problems = _class_problems(facts) or (_setting_problems(file) + _layer_problems(facts))
    if problems:
        placed = [attrs.evolve(problem, where=str(path)) for problem in problems]
        raise ProblemsError("the model has settings that lsf does not have", placed)
    return file


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("mace")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        hint = "write it from a .model file with tools/export_mace_weights.py"
        raise ModelFileError(f"{path}: not a readable safetensors file ({error}); {hint}") from error
    if text is None:
        raise ModelFileError(
            f"{path}: a safetensors file, but not one written by tools/export_mace_weights.py"
        )
    facts: dict[str, Any] = json.loads(text)
    return facts, tensors


def _head(path: Path, heads: list[str], wanted: str | None) -> int:
    if wanted is None and len(heads) == 1:
        return 0
    if wanted is None:
        raise ModelFileError(f"{path}: the model has the heads {', '.join(heads)}; choose one with --head")
    if wanted not in heads:
        raise ModelFileError(f"{path}: the model has no head {wanted!r}; {did_you_mean(wanted, heads)}")
    return heads.index(wanted)


def _problem(key: str, found: str, expected: str) -> Problem:
    return Problem("", key, found, expected)


def _class_problems(facts: dict[str, Any]) -> list[Problem]:
    if facts["class"] in CLASSES:
        return []
    return [_problem("class", facts["class"], " or ".join(CLASSES))]


def _setting_problems(file: MaceFile) -> list[Problem]:
    facts = file.facts
    found = []
    if facts["radial_type"] not in BASES:
        found.append(_problem("radial_type", facts["radial_type"], " or ".join(BASES)))
    if facts["distance_transform"] not in TRANSFORMS:
        found.append(_problem("distance_transform", facts["distance_transform"], " or ".join(TRANSFORMS)))
    if not facts["apply_cutoff"]:
        found.append(_problem("apply_cutoff", "False", "True"))
    if facts["use_so3"]:
        found.append(_problem("use_so3", "True", "False"))
    if facts["embedding"] is not None:
        found.append(_problem("embedding_specs", str(facts["embedding"]), "none"))
    if facts["max_ell"] > 4:
        found.append(_problem("max_ell", str(facts["max_ell"]), "at most 4"))
    if not found:
        found += _radial_problems(file)
    return found


def _radial_problems(file: MaceFile) -> list[Problem]:
    """Frequencies and centres of the radial functions have to be the ones they start from."""
    r_max = float(file.weight("r_max"))
    bessel = file.facts["radial_type"] == "BesselBasis"
    name = "bessel_weights" if bessel else "gaussian_weights"
    stored = file.weight(f"radial_embedding.bessel_fn.{name}")
    count = stored.shape[0]
    if bessel:
        expected = torch.arange(1, count + 1, dtype=torch.float64) * (math.pi / r_max)
    else:
        expected = torch.linspace(0.0, r_max, count, dtype=torch.float64)
    if torch.allclose(stored, expected, rtol=file.precision, atol=file.precision):
        return []
    return [_problem(f"radial_embedding.{name}", "trained values", "those of an untrained model")]


def _layer_problems(facts: dict[str, Any]) -> list[Problem]:
    found = []
    for index, block in enumerate(facts["interactions"]):
        name = f"interactions.{index}"
        if block["class"] not in STYLES:
            found.append(_problem(name, block["class"], " or ".join(STYLES)))
            continue
        if block["paths"] is None or block["radial"] is None:
            found.append(_problem(name, "a converted layer", "one in the layout of e3nn"))
            continue
        if block["edge_inputs"] != block["inputs"]:
            found.append(_problem("edge_irreps", block["edge_inputs"], block["inputs"]))
        names = {act["name"] for act in block["radial"]["activations"][:-1]}
        if names != {"silu"}:
            found.append(_problem(f"{name}.conv_tp_weights", ", ".join(sorted(names)), "silu"))
    later = {block["class"] for block in facts["interactions"][1:]}
    if len(later) > 1:
        found.append(_problem("interactions", " and ".join(sorted(later)), "one kind after the first layer"))
    neighbors = {block["avg_num_neighbors"] for block in facts["interactions"]}
    if len(neighbors) > 1:
        found.append(_problem("avg_num_neighbors", "different values by layer", "one for all layers"))
    widths = {tuple(block["radial"]["widths"][:-1]) for block in facts["interactions"] if block["radial"]}
    if len(widths) > 1:
        found.append(_problem("radial_MLP", "different widths by layer", "the same in all layers"))
    return found + _product_problems(facts) + _readout_problems(facts)


def _product_problems(facts: dict[str, Any]) -> list[Problem]:
    found = []
    for index, block in enumerate(facts["products"]):
        if block["correlation"] is None:
            found.append(_problem(f"products.{index}", "a converted product", "one in the layout of e3nn"))
        elif not 1 <= block["correlation"] <= 3:
            found.append(_problem("correlation", str(block["correlation"]), "from 1 to 3"))
        try:
            outputs = parse_irreps(block["outputs"])
        except ValueError as error:
            found.append(_problem("hidden_irreps", repr(block["outputs"]), str(error)))
            continue
        if block["outputs"].replace(" ", "") != str(outputs).replace(" ", ""):
            expected = f"{str(outputs)!r}, degrees rising"
            found.append(_problem("hidden_irreps", repr(block["outputs"]), expected))
    return found


def _readout_problems(facts: dict[str, Any]) -> list[Problem]:
    readouts, n_layers = facts["readouts"], len(facts["interactions"])
    if len(readouts) != n_layers:
        return [_problem("use_last_readout_only", f"{len(readouts)} readouts", f"{n_layers}, one per layer")]
    found = []
    for index, block in enumerate(readouts):
        last = index == n_layers - 1 and n_layers > 1
        allowed = ("LinearReadoutBlock", "NonLinearReadoutBlock") if last else ("LinearReadoutBlock",)
        if block["class"] not in allowed:
            found.append(_problem(f"readouts.{index}", block["class"], " or ".join(allowed)))
        elif block["gate"] is not None and block["gate"]["name"] not in GATES:
            found.append(_problem("gate", block["gate"]["name"], " or ".join(GATES)))
    return found
