"""Lengths of modules and functions: what is counted, and that the package keeps the limits."""

from pathlib import Path

import pytest

from tools import check_lengths
from tools.check_lengths import FUNCTION_LIMIT, MODULE_LIMIT, Length, lengths, problems

BODY = "        x = 1\n"


def counted(tmp_path, source):
    path = tmp_path / "m.py"
    path.write_text(source, encoding="utf-8")
    return {item.place: item.lines for item in lengths(path, "m.py")}


def test_functions_are_counted_without_decorators_and_docstrings(tmp_path):
    source = (
        "class A:\n    @staticmethod\n    def f():\n"
        '        """One.\n\n        Three.\n        """\n' + 3 * BODY + "\n"
        "        def inner():\n            return x\n\n        return inner\n"
    )
    assert counted(tmp_path, source) == {"m.py": 15, "m.py::A.f": 9, "m.py::A.f.inner": 2}


def test_functions_in_branches_count_too(tmp_path):
    assert counted(tmp_path, "if True:\n    def f():\n        pass\n")["m.py::f"] == 2


@pytest.mark.parametrize(("kind", "limit"), [("m.py", MODULE_LIMIT), ("m.py::f", FUNCTION_LIMIT)])
def test_the_limit_itself_is_too_long(kind, limit):
    assert problems([Length(kind, limit - 1, limit)], {}) == []
    (said,) = problems([Length(kind, limit, limit)], {})
    assert said == f"{kind}: {limit} lines, expected fewer than {limit}"


def test_an_exception_allows_what_is_long_and_nothing_else():
    long = Length("m.py::f", 70, FUNCTION_LIMIT)
    assert problems([long], {"m.py::f": "a reason"}) == []
    (said,) = problems([Length("m.py::f", 7, FUNCTION_LIMIT)], {"m.py::f": "a reason"})
    assert said == "m.py::f: an exception that is not needed"


def test_the_package_keeps_the_limits():
    assert check_lengths.main(Path(__file__).parent.parent) == 0


def test_a_long_function_fails_the_check(tmp_path, capsys):
    (tmp_path / "lsf").mkdir()
    (tmp_path / "lsf" / "m.py").write_text("def f():\n" + 60 * "    x = 1\n", encoding="utf-8")
    assert check_lengths.main(tmp_path) == 1
    assert "lsf/m.py::f: 61 lines" in capsys.readouterr().err
