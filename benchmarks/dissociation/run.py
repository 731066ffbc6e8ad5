"""What charge awareness buys: an ion pair pulled apart, with and without electrostatics.

Trains ``recipes/dissociation.toml`` and ``recipes/dissociation_mace.toml``, the same network, data and
training with and without charges, and follows NH4+···BF4- from 3 to 15 Å. Training pairs are at most
6 Å apart; the cutoff is 4.5 Å. Draws ``docs/images/dissociation.png``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.bars import Bar, arguments, report
from lsf import load
from lsf.commands.train import run_recipe

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "recipes" / "data"
RUNS = {"with electrostatics": "dissociation", "without": "dissociation_mace"}
COLOURS = {"with electrostatics": "#0072B2", "without": "#D55E00"}
QUICK = ["stages.0.epochs=6", "stages.1.epochs=4"]
CUTOFF, TRAINED_TO = 4.5, 6.0


def main() -> int:
    """Train, evaluate, draw, and return the exit status."""
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "benchmark", help="where the runs go")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "dissociation.png")
    chosen = parser.parse_args()
    models = {}
    for label, name in RUNS.items():
        result = run_recipe(
            ROOT / "recipes" / f"{name}.toml",
            QUICK if chosen.quick else [],
            chosen.out / (f"{name}_quick" if chosen.quick else name),
            False,
            Console(),
        )
        models[label] = load(result.model_file).ase_calculator()
    curve = ase.io.read(DATA / "dissociation_curve.xyz", ":")
    far = ase.io.read(DATA / "dissociation_test_far.xyz", ":")
    errors = {label: rms(interaction(far, model) - interaction(far)) for label, model in models.items()}
    tail = [atoms for atoms in curve if atoms.info["distance"] > TRAINED_TO]
    tails = {label: rms(interaction(tail, model) - interaction(tail)) for label, model in models.items()}
    if not chosen.quick:
        draw(curve, models, chosen.picture)
    bars = [
        Bar(
            "pairs 6-15 Å: error without / with electrostatics",
            errors["without"] / errors["with electrostatics"],
            10.0,
            "×",
            note=f"RMSE {1e3 * errors['without']:.0f} and {1e3 * errors['with electrostatics']:.0f} meV",
        ),
        Bar(
            "curve beyond 6 Å: error with electrostatics",
            1e3 * tails["with electrostatics"],
            60.0,
            "meV",
            at_least=False,
            note=f"without: {1e3 * tails['without']:.0f} meV",
        ),
    ]
    return report(bars, chosen.json)


def interaction(frames: list[Atoms], calculator: object = None) -> np.ndarray:
    """Return energies minus those of the two ions alone, eV; the reference's without a calculator."""
    energies = []
    for atoms in frames:
        energy = atoms.info["REF_energy"]
        if calculator is not None:
            copy = atoms.copy()
            copy.calc = calculator
            energy = copy.get_potential_energy()
        energies.append(energy - atoms.info["energyA"] - atoms.info["energyB"])
    return np.array(energies)


def rms(values: np.ndarray) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(values**2)))


def draw(curve: list[Atoms], models: dict[str, object], path: Path) -> None:
    """Draw the interaction energy along the curve, and below it the errors."""
    distance = np.array([atoms.info["distance"] for atoms in curve])
    reference = interaction(curve)
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1.0))
    for axes in (upper, lower):
        axes.axvspan(distance.min(), TRAINED_TO, color="0.93", zorder=0)
        axes.axvline(CUTOFF, color="0.6", linewidth=0.9, linestyle=":")
        axes.spines[["top", "right"]].set_visible(False)
    upper.plot(distance, reference, "o", color="black", markersize=3.5, label="GFN2-xTB")
    for label, model in models.items():
        predicted = interaction(curve, model)
        upper.plot(distance, predicted, color=COLOURS[label], linewidth=1.8, label=f"lsf {label}")
        lower.plot(distance, predicted - reference, color=COLOURS[label], linewidth=1.8)
    lower.axhline(0.0, color="black", linewidth=0.8)
    upper.set_ylabel("interaction energy [eV]")
    lower.set_ylabel("error [eV]")
    lower.set_xlabel("distance N–B [Å]")
    upper.set_title("NH₄⁺ ··· BF₄⁻, trained at 3–6 Å (grey)", fontsize=11)
    upper.text(CUTOFF + 0.1, upper.get_ylim()[0], " cutoff", color="0.4", fontsize=8, va="bottom")
    upper.legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    sys.exit(main())
