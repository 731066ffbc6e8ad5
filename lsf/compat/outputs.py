"""What users of the older trainer look for, where they look: its log lines, results, tables and files.

Everything here is fed from the records and the folder of an ordinary run.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from lsf.report.tables import format_cell
from lsf.train.objective.error_tables import build_error_table
from lsf.train.objective.metrics import SplitMetrics
from lsf.train.progress import MetricsFile, Record

FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname)s: %(message)s"
DATES: Final = "%Y-%m-%d %H:%M:%S"

EPOCH_QUANTITIES: Final = (
    ("energy_per_atom", "RMSE_E_per_atom", "meV", 1),
    ("forces", "RMSE_F", "meV / A", 1),
    ("stress", "RMSE_stress", "meV / A^3", 1),
    ("virials_per_atom", "RMSE_virials_per_atom", "meV", 1),
    ("atomic_multipoles", "RMSE_DMA", "me", 1),
    ("dipole_per_atom", "RMSE_Mu_per_atom", "meA", 2),
    ("polarizability_per_atom", "RMSE_polarizability_per_atom", "me A^2 / V", 2),
    ("electrostatic_potentials", "RMSE_ESP", "mV", 1),
)
"""Quantities of the epoch line: name, old name, unit (a thousandth of the stored one), digits."""

RESULT_NAMES: Final = {
    "energy": "e",
    "energy_per_atom": "e_per_atom",
    "forces": "f",
    "stress": "stress",
    "virials": "virials",
    "virials_per_atom": "virials_per_atom",
    "dipole": "mu",
    "dipole_per_atom": "mu_per_atom",
    "polarizability": "polarizability",
    "polarizability_per_atom": "polarizability_per_atom",
    "total_charge": "total_charge",
    "atomic_multipoles": "dma",
    "atomic_charges": "charges",
    "atomic_dipoles": "local_dipoles",
    "electrostatic_potentials": "esp",
}
"""Quantities of a results file by their old names, in eV, Å and e."""

COUNTED: Final = (
    "energy",
    "dipole",
    "polarizability",
    "stress",
    "virials",
    "total_charge",
    "forces",
    "atomic_multipoles",
    "electrostatic_potentials",
)
"""Properties of the line of counts, in the old order."""

SPLITS: Final = {"train": "Training", "valid": "Validation"}

HEADINGS: Final = {
    "RMSE E [meV/atom]": "RMSE E / meV / atom",
    "RMSE E [meV]": "RMSE E / meV",
    "MAE E [meV/atom]": "MAE E / meV / atom",
    "MAE E [meV]": "MAE E / meV",
    "RMSE F [meV/Å]": "RMSE F / meV / A",
    "MAE F [meV/Å]": "MAE F / meV / A",
    "rel F [%]": "relative F RMSE %",
    "RMSE stress [meV/Å³]": "RMSE Stress / meV / A^3",
    "MAE stress [meV/Å³]": "MAE Stress / meV / A^3",
    "RMSE virials [meV/atom]": "RMSE Virials / meV / atom",
    "MAE virials [meV/atom]": "MAE Virials / meV / atom",
    "RMSE ESP [mV]": "RMSE ESP / mV",
    "RMSE DMA [me·Å^l]": "RMSE DMA / me A^l",
    "rel DMA [%]": "relative DMA RMSE %",
    "RMSE qs [me]": "RMSE qs / me",
    "RMSE dipoles [me·Å]": "RMSE dipoles / me A",
    "RMSE mu [me·Å]": "RMSE MU / me A",
    "RMSE mu [me·Å/atom]": "RMSE MU / me A / atom",
    "MAE mu [me·Å/atom]": "MAE MU / me A / atom",
    "rel mu [%]": "relative MU RMSE %",
    "RMSE polarizability [me·Å²/V/atom]": "RMSE polarizability / me A^2 / V / atom",
}
"""Headings of the error tables in the older trainer's spelling."""


def count_line(split: str, counts: Mapping[str, Any]) -> str:
    """Return ``Total Training set [energy: 200, dipole components: 600, …]`` of one split."""
    parts = []
    for name in COUNTED:
        if name == "dipole":
            parts.append(f"dipole components: {counts['labels']['dipole']}")
        else:
            parts.append(f"{name}: {counts['labelled_frames'][name]}")
    title = SPLITS.get(split, f"Test ({split})")
    return f"Total {title} set [{', '.join(parts)}]"


def epoch_line(record: Record) -> str:
    """Return ``Epoch 3: loss=0.1234, RMSE_E_per_atom=5.0 meV, …``; epochs count from 0 as they did."""
    loss = record["loss"]
    shown = "nan" if loss is None else f"{loss:.4f}" if loss >= 1e-3 else f"{loss:.3e}"
    errors = [
        f"{old}={1e3 * record['rmse'][name]:.{digits}f} {unit}"
        for name, old, unit, digits in EPOCH_QUANTITIES
        if name in record["rmse"]
    ]
    return ", ".join([f"Epoch {record['epoch'] - 1}: loss={shown}", *errors])


def loss_line(record: Record) -> str:
    """Return ``loss breakdown: forces: 0.01, dipole: 0.002`` of an epoch's training terms."""
    terms = [f"{name}: {value:.6e}" for name, value in record["terms"].items() if value is not None]
    return f"loss breakdown: {', '.join(terms)}"


def result_record(record: Record) -> dict[str, Any]:
    """Return a line of the results file: mode opt, eval or eval_test, and errors by their old names."""
    mode = {"train": "opt", "eval": "eval", "final": "eval_test"}[record["kind"]]
    result: dict[str, Any] = {"loss": record["loss"], "time": record["seconds"], "mode": mode}
    result |= {"epoch": record["epoch"] - 1, "stage": record["stage"]}
    if mode == "opt":
        return result | {f"loss_{name}": value for name, value in record["terms"].items()}
    for kind in ("rmse", "mae"):
        result |= {
            f"{kind}_{RESULT_NAMES[name]}": value
            for name, value in record[kind].items()
            if name in RESULT_NAMES
        }
    return result | {"split": record["split"]}


def error_table_text(table: str | Sequence[str], metrics: Mapping[str, SplitMetrics], head: str) -> str:
    """Return the error table as text: rows train, valid and ``<config type>_<head>`` of the test frames."""
    columns = build_error_table(table).columns
    lines = [
        (name, metrics[name].n_frames, metrics[name].errors) for name in ("train", "valid") if name in metrics
    ]
    for name, split in metrics.items():
        if name not in SPLITS:
            lines += [
                (f"{config_type}_{head}", split.frames_by_type[config_type], errors)
                for config_type, errors in split.errors_by_type.items()
            ]
    headings = ["config_type", "n", *(_heading(f"{item.heading} [{item.unit}]") for item in columns)]
    rows = [
        [name, str(count), *(_cell(item.cell(errors)) for item in columns)] for name, count, errors in lines
    ]
    return _boxed([headings, *rows])


def _heading(name: str) -> str:
    return HEADINGS.get(name, name)


def _cell(value: Any) -> str:
    return "not found" if value is None else format_cell(value)


def _boxed(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    rule = "+".join(["", *("-" * (width + 2) for width in widths), ""])
    lines = [
        "|".join(["", *(f" {cell:^{width}} " for cell, width in zip(row, widths, strict=True)), ""])
        for row in rows
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


# ---------------------------------------------------------------------------------------------------
# log and results


class _NoEpochLines(logging.Filter):
    """Drops the trainer's own epoch lines, in whose place the old ones stand."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the message is to be written."""
        return not str(record.msg).startswith("%s; %s left")


def log_handlers(folder: Path, tag: str, level: str) -> list[logging.Handler]:
    """Return the handlers of the screen, of ``<tag>.log`` and of ``<tag>_debug.log``."""
    folder.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        logging.StreamHandler(sys.stdout),
        logging.FileHandler(folder / f"{tag}.log", encoding="utf-8"),
        logging.FileHandler(folder / f"{tag}_debug.log", encoding="utf-8"),
    ]
    for handler, limit in zip(handlers, (level, "INFO", "DEBUG"), strict=True):
        handler.setLevel(limit)
        handler.setFormatter(logging.Formatter(FORMAT, DATES))
        handler.addFilter(_NoEpochLines())
    return handlers


@attrs.define
class OldOutputs:
    """Writes log lines and results in the old form as a run goes on, and copies models and checkpoints.

    ``run`` is the run folder; the others are where the older trainer put its files.
    """

    name: str
    tag: str
    run: Path
    results: Path
    models: Path
    checkpoints: Path
    log: logging.Logger
    _stage: str | None = None
    _results_begun: bool = False

    def __call__(self, record: Record) -> None:
        """Take one record of the run."""
        record = _finite(record)
        if record["kind"] == "data":
            self._data(record["splits"])
            return
        self._result(record)
        if record["kind"] == "train":
            if self._stage not in (None, record["stage"]):
                self.publish()
            self._stage = record["stage"]
            self.log.debug("%s", loss_line(record))
        elif record["kind"] == "eval":
            self.log.info("%s", epoch_line(record))

    def _data(self, splits: Mapping[str, Any]) -> None:
        tests = ", ".join(
            f"{name}: {counts['frames']}" for name, counts in splits.items() if name not in SPLITS
        )
        sizes = ", ".join(f"{name}={splits[name]['frames'] if name in splits else 0}" for name in SPLITS)
        self.log.info("Total number of configurations: %s, tests=[%s]", sizes, tests)
        for split, counts in splits.items():
            self.log.info("%s", count_line(split, counts))

    def _result(self, record: Record) -> None:
        """Append a line; the first one of a resumed run puts the file in step with the run's metrics."""
        self.results.mkdir(parents=True, exist_ok=True)
        path = self.results / f"{self.tag}_train.txt"
        records: Iterable[Record] = [record]
        if not self._results_begun:
            self._results_begun = True
            path.unlink(missing_ok=True)
            records = _until(MetricsFile(self.run / "metrics.jsonl").read(), record)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(result_record(item)) + "\n" for item in records)

    def table(self, table: str | Sequence[str], metrics: Mapping[str, SplitMetrics], head: str) -> None:
        """Log the final error table."""
        self.log.info("Error-table on TRAIN, VALID and TEST:\n%s", error_table_text(table, metrics, head))

    def publish(self) -> None:
        """Copy the stages' models and best checkpoints to where they are looked for."""
        for model in sorted(self.run.glob(f"{self.name}*.safetensors")):
            _copy(model, self.models / model.name)
        for checkpoint in sorted((self.run / "checkpoints").glob("*.pt")):
            _copy(checkpoint, self.checkpoints / f"{self.tag}_{checkpoint.name}")


def _finite(value: Any) -> Any:
    """Return a record as the metrics file holds it: NaN and infinities, which JSON does not know, as None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _until(records: Sequence[Record], last: Record) -> list[Record]:
    """Return the records up to the one at hand; records of one epoch are written together."""
    shown = json.dumps(last, sort_keys=True)
    for place, record in enumerate(records):
        if json.dumps(record, sort_keys=True) == shown:
            return list(records[: place + 1])
    return list(records)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
