"""The mutator: what it changes, what it leaves alone, and how it counts."""

from __future__ import annotations

import ast
import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tools import mutate
from tools.mutate import REQUIRED, ROOT, Result, Workplace, key_of, mutants_of_target, report, stands
from tools.mutation_operators import OPERATORS, Mutant, chosen, mutants_of
from tools.mutation_targets import TARGETS, Target

SOURCE = '''
"""Text with 2 * 3 in it."""
SCALE = 27.2


def energy(charge: float, width: float = 2.0 * 3.0) -> Tensor:
    """Return 1 + 1."""
    if charge > 0.5 and not width:
        raise ValueError(f"{charge + 1} is too much" + str(2 * charge))
    state.count += 1
    log.info("%d", 2 * charge)
    matrix = first(charge, width).T @ other.transpose(0, 1)
    return SCALE * charge / 2.0 - (width + 3) * -matrix
'''


def changes(source: str) -> set[tuple[str, str, str]]:
    return {(m.operator, m.before, m.after) for m in mutants_of("m.py", source)}


def test_every_operator_has_its_mutants() -> None:
    found = changes(SOURCE)
    assert {operator for operator, _, _ in found} == set(OPERATORS)
    formula = "SCALE * charge / 2.0 - (width + 3) * -matrix"
    assert found >= {
        ("factor", formula, f"1.001 * ({formula})"),
        ("factor", "SCALE * charge", "(1.001 * (SCALE * charge))"),
        ("sign", formula, "SCALE * charge / 2.0 + (width + 3) * -matrix"),
        ("sign", "-matrix", "(+matrix)"),
        ("dropped term", formula, "(SCALE * charge / 2.0)"),
        ("dropped term", "(width + 3) * -matrix", "(width + 3)"),
        ("constant", "27.2", "(1.001 * 27.2)"),
        ("constant", "SCALE", "(1.001 * SCALE)"),
        ("constant", "2.0", "(1.001 * 2.0)"),
        ("comparison", "charge > 0.5", "(charge >= 0.5)"),
        ("off by one", "3", "4"),
        ("transposed", "first(charge, width).T", "first(charge, width)"),
        ("transposed", "other.transpose(0, 1)", "other"),
        ("swapped", "charge, width", "width, charge"),
        ("negation", "not width", "bool(width)"),
        ("dropped statement", "state.count += 1", "pass"),
    }


def test_text_defaults_annotations_and_messages_are_left_alone() -> None:
    lines = {m.line for m in mutants_of("m.py", SOURCE)}
    texts = SOURCE.splitlines()
    untouched = {number for number, line in enumerate(texts, 1) if '"' in line or "def " in line}
    assert not lines & untouched - {texts.index('    log.info("%d", 2 * charge)') + 1}
    assert ("dropped statement", 'log.info("%d", 2 * charge)', "pass") not in changes(SOURCE)


@pytest.mark.parametrize(
    ("expression", "mutant", "value"),
    [
        ("2 - 3 * (4 + 5)", "2 - 3 * (4 - 5)", 5),
        ("2 - 3 * (4 + 5)", "2 + 3 * (4 + 5)", 29),
        ("2 - 3 * (4 + 5)", "2 - (4 + 5)", -7),
        ("(2 if True else 3) + 4", "(2 if True else 3)", 2),
        ("(2 if True else 3) + 4", "(2 if True else 3) - 4", -2),
        ("20 / (2 * 5)", "20 / (2)", 10.0),
        ("20 / (2 * 5)", "20", 20),
    ],
)
def test_parentheses_keep_their_meaning(expression: str, mutant: str, value: float) -> None:
    texts = {m.applied_to(expression) for m in mutants_of("m.py", expression)}
    assert mutant in texts
    assert eval(mutant) == value


def test_letters_of_several_bytes_move_nothing() -> None:
    source = "å = 'Å'\nenergy = å_1 * 2  # Å\n"
    assert "energy = å_1  # Å" in {m.applied_to(source).splitlines()[1] for m in mutants_of("m.py", source)}


def test_every_mutant_of_every_target_is_another_valid_module() -> None:
    count = 0
    for target in TARGETS:
        source = (ROOT / target.module).read_text(encoding="utf-8")
        for mutant in mutants_of_target(target, seed=0):
            changed = mutant.applied_to(source)
            assert changed != source
            ast.parse(changed)
            count += 1
    assert count >= 200


def test_targets_and_their_tests_exist_once() -> None:
    modules = [target.module for target in TARGETS]
    assert len(set(modules)) == len(modules)
    for target in TARGETS:
        assert (ROOT / target.module).is_file()
        for test in target.tests:
            assert (ROOT / test.partition("::")[0]).is_file(), f"{target.module}: {test}"


def test_choice_depends_on_the_seed_and_not_on_names_or_lines() -> None:
    here = mutants_of("lsf/here.py", SOURCE)
    there = mutants_of("lsf/moved/there.py", "\n\n" + SOURCE)

    def read(mutants: list[Mutant]) -> list[tuple[str, str]]:
        return [(m.before, m.after) for m in mutants]

    assert read(chosen(here, 12, seed=0)) == read(chosen(there, 12, seed=0))
    assert read(chosen(here, 12, seed=0)) != read(chosen(here, 12, seed=1))
    # one of each operator before any has a second one
    assert {m.operator for m in chosen(here, len(OPERATORS), seed=0)} == set(OPERATORS)
    assert len(chosen(here, 1000, seed=0)) == len(here)


def test_alike_mutants_are_numbered() -> None:
    mutants = mutants_of("m.py", "a = (b * c) ** (b * c)\n")
    assert len({key_of(m) for m in mutants}) == len(mutants)


RESULT = Result("lsf/a.py", "f", "sign", 3, "a + b", "a - b", 0, "killed", "t", 1.0, "m", "t")


def test_report_counts_accepted_survivors_neither_way() -> None:
    results = [RESULT] * 18 + [replace(RESULT, outcome="timeout"), replace(RESULT, outcome="survived")]
    text, share = report(results, {})
    assert share == pytest.approx(19 / 20)
    assert share >= REQUIRED
    assert "lsf/a.py                                     19 of 20 killed, 1 survived" in text
    assert "survived: lsf/a.py:3 in f (sign)\n  - a + b\n  + a - b" in text
    text, share = report(results, {("lsf/a.py", "f", "a + b", "a - b"): "b is zero"})
    assert share == 1.0
    assert "19 of 19 killed (100.0 %), 1 survivors accepted with a reason" in text
    text, _ = report(results, {("lsf/a.py", "g", "a + b", "a - b"): "b is zero"})
    assert "accepted, but not among the survivors: ('lsf/a.py', 'g', 'a + b', 'a - b')" in text


def test_results_are_known_until_module_or_tests_change(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("a")
    (tmp_path / "test_a.py").write_text("b")
    target = Target("a.py", ("test_a.py::test_it",))
    digests = (mutate.digest_of(tmp_path, ["a.py"]), mutate.digest_of(tmp_path, ["test_a.py"]))
    killed = replace(RESULT, module_digest=digests[0], tests_digest=digests[1])
    survived = replace(killed, outcome="survived")
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(asdict(result)) + "\n" for result in (survived, killed)))
    assert mutate.read_results(file) == {killed.key: killed}
    assert mutate.read_results(tmp_path / "none.jsonl") == {}
    assert stands(killed, tmp_path, target)
    assert stands(survived, tmp_path, target)
    (tmp_path / "test_a.py").write_text("another test")
    assert stands(killed, tmp_path, target)
    assert not stands(survived, tmp_path, target)
    (tmp_path / "a.py").write_text("another module")
    assert not stands(killed, tmp_path, target)


def test_accepted_mutants_have_reasons_and_modules() -> None:
    modules = {target.module for target in TARGETS}
    for (file, *_), reason in mutate.read_accepted().items():
        assert file in modules
        assert len(reason.split()) >= 4, reason


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a working tree with one module and one test, which sees one of two formulas."""
    root = tmp_path / "project"
    module = """
def area(a: float) -> float:
    return 2.0 * a


def unseen(a: float) -> float:
    return 3.0 * a
"""
    for name, text in {
        "lsf/__init__.py": "",
        "lsf/area.py": module,
        "tests/test_area.py": "from lsf.area import area\n\ndef test_area():\n    assert area(4.0) == 8.0\n",
        "tests/test_wrong.py": "def test_wrong():\n    assert False\n",
        "pytest.ini": "[pytest]\n",
        "ignored.log": "",
        ".gitignore": "*.log\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


def test_a_mutant_is_killed_by_the_test_that_sees_it(project: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    place = Workplace(project, tmp_path / "copy")
    assert not (place.folder / "ignored.log").exists()
    target = Target("lsf/area.py", ("tests/test_area.py",))
    found = {
        (mutant.function, mutant.after): place.trial(mutant, target.tests, 60.0)[:2]
        for mutant in mutants_of_target(target, 0, project)
        if mutant.after == "a"
    }
    assert found == {
        ("area", "a"): ("killed", "tests/test_area.py::test_area"),
        ("unseen", "a"): ("survived", ""),
    }
    assert (place.folder / target.module).read_text() == (project / target.module).read_text()
    with pytest.raises(SystemExit, match=r"lsf/area.py: its tests do not pass as they are \(exit code 1\)"):
        place.baseline(Target("lsf/area.py", ("tests/test_wrong.py",)))


def test_a_mutant_that_never_ends_is_noticed(project: Path, tmp_path: Path) -> None:
    (project / "tests" / "test_area.py").write_text(
        "from lsf.area import area\n\n\ndef test_area():\n    while area(1.0) != 2.0:\n        pass\n"
    )
    (tmp_path / "copy").mkdir()
    place = Workplace(project, tmp_path / "copy")
    target = Target("lsf/area.py", ("tests/test_area.py",))
    mutant = next(m for m in mutants_of_target(target, 0, project) if m.function == "area")
    outcome, _, seconds = place.trial(mutant, target.tests, limit=3.0)
    assert outcome == "timeout"
    assert seconds >= 3.0
