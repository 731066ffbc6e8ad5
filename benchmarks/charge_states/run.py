"""One geometry in two charge states: what seeing the total charge buys, and what a localized charge adds.

Trains ``recipes/charge_states.toml`` (Ag3+ and Ag3-) as it is, with ``localization_width = "none"`` and blind
to the charge, each with several seeds. Errors are those of the forces on the test split, in units of the
spread of the reference forces.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import ase.io
import numpy as np
from rich.console import Console

from benchmarks.bars import Bar, arguments, report
from lsf import load
from lsf.commands.train import run_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
SMOOTH = ("model.localization_width=none",)
BLIND = (*SMOOTH, "model.total_charge_embedding=false")
MODELS = {"localized": (), "smooth": SMOOTH, "blind": BLIND}
QUICK = ("stages.0.epochs=10", "stages.1.epochs=5")
SEEDS = (3, 0, 1)

Forces = tuple[np.ndarray, np.ndarray]


def main() -> int:
    """Train, evaluate, print, and return the exit status."""
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "benchmark", help="where the runs go")
    chosen = parser.parse_args()
    seeds, shorter = (SEEDS[:1], QUICK) if chosen.quick else (SEEDS, ())
    found: dict[str, list[dict[str, float]]] = {}
    for name, overrides in MODELS.items():
        for seed in seeds:
            folder = chosen.out / f"charge_states_{name}_{seed}{'_quick' if chosen.quick else ''}"
            errors = force_errors(folder, *overrides, *shorter, f"seed={seed}")
            found.setdefault(name, []).append(relative_errors(errors))
    bars = [
        _bar("forces of Ag3+", [one["+1"] for one in found["localized"]], 15.0, at_least=False),
        _bar("forces of Ag3-", [one["-1"] for one in found["localized"]], 15.0, at_least=False),
        _bar("forces of Ag3-, smooth atomic energies", [one["-1"] for one in found["smooth"]], 30.0),
        _bar("forces of both, blind to the charge", [one["both"] for one in found["blind"]], 60.0),
    ]
    return report(bars, chosen.json)


def _bar(name: str, values: list[float], bound: float, at_least: bool = True) -> Bar:
    """Return the row of a median over seeds, in per cent."""
    percent = [100.0 * value for value in values]
    listed = ", ".join(f"{value:.1f}" for value in percent)
    return Bar(name, float(np.median(percent)), bound, "% of their spread", at_least, f"by seed: {listed}")


def force_errors(folder: Path, *overrides: str) -> dict[float, Forces]:
    """Train the recipe and return errors and references of the test forces (eV/Å) by total charge."""
    result = run_recipe(
        RECIPES / "charge_states.toml", overrides, folder, fresh=True, console=Console(file=io.StringIO())
    )
    calculator = load(result.model_file).ase_calculator()
    found: dict[float, list[Forces]] = {}
    for atoms in ase.io.read(RECIPES / "data" / "ag3_test.xyz", ":"):
        reference = atoms.arrays["REF_forces"]
        atoms.calc = calculator
        found.setdefault(atoms.info["total_charge"], []).append((atoms.get_forces() - reference, reference))
    return {charge: _joined(pairs) for charge, pairs in found.items()}


def relative_errors(errors: dict[float, Forces]) -> dict[str, float]:
    """Return root mean square errors in units of the spread: of either state, and of both together."""
    groups = {f"{charge:+g}": pair for charge, pair in errors.items()}
    groups["both"] = _joined(list(errors.values()))
    return {
        name: float(np.sqrt(np.mean(error**2)) / np.std(reference))
        for name, (error, reference) in groups.items()
    }


def _joined(pairs: list[Forces]) -> Forces:
    errors, references = zip(*pairs, strict=True)
    return np.concatenate(errors), np.concatenate(references)


if __name__ == "__main__":
    sys.exit(main())
