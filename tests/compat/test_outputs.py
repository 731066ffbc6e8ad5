"""Log lines, results and error tables in the form the older trainer gave them."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from lsf.compat import outputs
from lsf.compat.outputs import HEADINGS, OldOutputs, count_line, epoch_line, error_table_text, result_record
from lsf.compat.table import names_of
from lsf.recipe.old_names import ERROR_TABLES
from lsf.train.objective.error_tables import build_error_table
from lsf.train.objective.metrics import ErrorStats, SplitMetrics

RMSE = {
    "energy": 0.1,
    "energy_per_atom": 3.5135,
    "forces": 0.6295,
    "stress": 0.002,
    "virials_per_atom": 0.01,
    "atomic_multipoles": 0.1541,
    "dipole_per_atom": 0.46889,
    "polarizability_per_atom": 0.25,
}
TRAIN = {"kind": "train", "epoch": 1, "stage": "a", "loss": 17.0, "terms": {"forces": 0.5}, "seconds": 2.0}
EVAL = {
    "kind": "eval",
    "split": "valid",
    "epoch": 1,
    "stage": "a",
    "loss": 16.56031,
    "rmse": RMSE,
    "mae": {},
    "seconds": 1.0,
}
FINAL = EVAL | {"kind": "final", "split": "test", "loss": math.nan, "seconds": None}
COUNTS = {
    "frames": 200,
    "labels": dict.fromkeys(outputs.COUNTED, 600),
    "labelled_frames": dict.fromkeys(outputs.COUNTED, 200) | {"stress": 0},
}


def test_line_of_counts() -> None:
    assert count_line("train", COUNTS).startswith(
        "Total Training set [energy: 200, dipole components: 600, polarizability: 200, stress: 0, "
    )
    assert count_line("valid", COUNTS).startswith("Total Validation set [energy: 200")
    assert count_line("far", COUNTS).startswith("Total Test (far) set [energy: 200")


def test_line_of_an_epoch() -> None:
    assert epoch_line(EVAL) == (
        "Epoch 0: loss=16.5603, RMSE_E_per_atom=3513.5 meV, RMSE_F=629.5 meV / A, RMSE_stress=2.0 meV / A^3, "
        "RMSE_virials_per_atom=10.0 meV, RMSE_DMA=154.1 me, RMSE_Mu_per_atom=468.89 meA, "
        "RMSE_polarizability_per_atom=250.00 me A^2 / V"
    )
    assert epoch_line(EVAL | {"loss": 1.5e-5, "rmse": {}}) == "Epoch 0: loss=1.500e-05"
    assert epoch_line(EVAL | {"loss": None, "rmse": {}}) == "Epoch 0: loss=nan"


def test_lines_of_results() -> None:
    assert result_record(TRAIN) == {
        "loss": 17.0,
        "time": 2.0,
        "mode": "opt",
        "epoch": 0,
        "stage": "a",
        "loss_forces": 0.5,
    }
    evaluated = result_record(EVAL)
    assert (evaluated["mode"], evaluated["split"]) == ("eval", "valid")
    assert evaluated["rmse_e_per_atom"] == 3.5135
    assert evaluated["rmse_mu_per_atom"] == 0.46889
    assert result_record(FINAL)["mode"] == "eval_test"


def split_metrics(*types: str) -> SplitMetrics:
    errors = {name: ErrorStats(3, rmse, rmse, 0.5, rmse) for name, rmse in RMSE.items()}
    return SplitMetrics(len(types), errors, dict.fromkeys(types, 1), dict.fromkeys(types, errors))


def test_error_table() -> None:
    metrics = {"train": split_metrics("Default"), "test": split_metrics("bulk", "slab")}
    lines = error_table_text(ERROR_TABLES["PerAtomRMSE"], metrics, "default").splitlines()
    headings = [cell.strip() for cell in lines[1].strip("|").split("|")]
    assert headings == ["config_type", "n", "RMSE E / meV / atom", "RMSE F / meV / A", "relative F RMSE %"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[3:-1]]
    assert [row[0] for row in rows] == ["train", "bulk_default", "slab_default"]
    assert rows[0] == ["train", "1", "3514", "629.5", "50.00"]


def test_missing_errors_are_not_found() -> None:
    text = error_table_text(ERROR_TABLES["PerAtomRMSE"], {"train": SplitMetrics(1, {}, {}, {})}, "default")
    assert text.count("not found") == 3


@pytest.mark.parametrize(
    "table", [name for name, item in names_of("error_tables").items() if not item.pending]
)
def test_every_column_has_its_old_heading(table: str) -> None:
    columns = build_error_table(ERROR_TABLES[names_of("error_tables")[table].becomes]).columns
    assert [item for item in columns if f"{item.heading} [{item.unit}]" not in HEADINGS] == []


@pytest.fixture
def old(tmp_path: Path) -> OldOutputs:
    run = tmp_path / "runs" / "a_run-1"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("a_one.safetensors", "checkpoints/best_one.pt"):
        (run / name).write_text(name)
    log = logging.Logger("test", logging.DEBUG)
    return OldOutputs(
        "a", "a_run-1", run, tmp_path / "results", tmp_path / "models", tmp_path / "checkpoints", log
    )


def write_metrics(old: OldOutputs, *records: dict[str, Any]) -> None:
    with (old.run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(outputs._finite(record)) + "\n" for record in records)


def results_of(old: OldOutputs) -> list[dict[str, Any]]:
    text = (old.results / "a_run-1_train.txt").read_text()
    assert "NaN" not in text
    return [json.loads(line) for line in text.splitlines()]


def test_results_and_files_appear(old: OldOutputs, caplog: pytest.LogCaptureFixture) -> None:
    old.log.addHandler(caplog.handler)
    old({"kind": "data", "splits": {"train": COUNTS, "valid": COUNTS, "test": COUNTS}})
    for record in (TRAIN, EVAL, TRAIN | {"epoch": 2, "stage": "b"}, FINAL):
        write_metrics(old, record)
        old(record)
    assert [line["mode"] for line in results_of(old)] == ["opt", "eval", "opt", "eval_test"]
    assert (old.models / "a_one.safetensors").read_text() == "a_one.safetensors"
    assert (old.checkpoints / "a_run-1_best_one.pt").exists()
    assert "Total number of configurations: train=200, valid=200, tests=[test: 200]" in caplog.text
    assert "loss breakdown: forces: 5.000000e-01" in caplog.text
    assert "Epoch 0: loss=16.5603" in caplog.text


def test_a_resumed_run_puts_the_results_in_step(old: OldOutputs) -> None:
    second, third = TRAIN | {"epoch": 2}, TRAIN | {"epoch": 3}
    old.results.mkdir()
    (old.results / "a_run-1_train.txt").write_text('{"of": "an epoch that was lost"}\n')
    write_metrics(old, TRAIN, EVAL, second, FINAL)
    old(second)
    old(FINAL)
    write_metrics(old, third)
    old(third)
    assert [line["epoch"] for line in results_of(old)] == [0, 0, 1, 0, 2]


def test_log_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handlers = outputs.log_handlers(tmp_path / "logs", "a_run-1", "WARNING")
    log = logging.Logger("test", logging.DEBUG)
    for handler in handlers:
        log.addHandler(handler)
    log.debug("small")
    log.info("plain")
    log.warning("loud")
    log.info("%s; %s left", "Epoch 1/2 a: loss=1", "3 s")
    for handler in handlers:
        handler.close()
    text = (tmp_path / "logs" / "a_run-1.log").read_text()
    assert "INFO: plain" in text
    assert "small" not in text
    assert "Epoch" not in text  # the trainer's own line, in whose place the old one stands
    assert "DEBUG: small" in (tmp_path / "logs" / "a_run-1_debug.log").read_text()
    assert "plain" not in capsys.readouterr().out
