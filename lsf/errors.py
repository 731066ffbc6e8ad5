"""Errors a user can act on, and the one place that formats them.

Every message names where (file, line, frame), what was found, what was expected and, for names, the
nearest valid one. Checks collect :class:`Problem` objects and raise once with all of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import attrs


@attrs.frozen
class Problem:
    """One thing wrong with the input.

    ``where`` is a file with line or frame (``recipe.toml:12``, ``train.xyz, frame 3``), ``key`` the
    dotted path or property it is about (empty when there is none), ``found`` and ``expected`` say
    what stood there and what may stand there, ``hint`` the next thing to try.
    """

    where: str
    key: str
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        subject = f"{self.where}: {self.key}: " if self.key else f"{self.where}: "
        text = f"{subject}found {self.found}; expected {self.expected}"
        return f"{text}\n    {self.hint}" if self.hint else text


class LsfError(Exception):
    """Base of all errors caused by input: the command line prints the message without a traceback."""


class ProblemsError(LsfError):
    """Several problems reported at once."""

    def __init__(self, title: str, problems: Sequence[Problem]) -> None:
        self.title = title
        self.problems = tuple(problems)
        super().__init__(format_problems(title, self.problems))


class RecipeError(ProblemsError):
    """The recipe cannot be used as written."""


class DataError(ProblemsError):
    """A data file, frame or label cannot be used."""


class CatalogError(LsfError):
    """A registry entry is missing, broken or duplicated."""


class ModelFileError(LsfError):
    """A model file is missing, damaged or of an unknown version."""


class ExportError(LsfError):
    """A model cannot be written in a format."""


class BoundaryError(LsfError):
    """A boundary method cannot treat a structure's periodicity or cell."""


class MissingExtraError(LsfError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed: pip install 'lsf[{extra}]'"
        )


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate closest to ``name``, or None when nothing is close."""
    names = list(candidates)
    folded = {candidate.lower(): candidate for candidate in names}
    if name.lower() in folded:
        return folded[name.lower()]
    matches = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=0.5)
    return folded[matches[0]] if matches else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` or, when nothing is close, the list of valid names."""
    names = sorted(candidates)
    match = nearest(name, names)
    if match is not None:
        return f"did you mean {match!r}?"
    return f"valid names: {', '.join(names)}" if names else "there are no valid names here"


def format_problems(title: str, problems: Sequence[Problem]) -> str:
    """Return the title and one line per problem."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"{title} ({count})", *(f"  - {problem}" for problem in problems)])
