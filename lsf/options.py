"""Documented option fields: type, default, range and the sentence a user reads, in one place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs


@attrs.frozen
class Rule:
    """A validator that can say what it expects: the recipe reader and ``lsf describe`` print it.

    ``expected`` follows the type in a sentence: an integer, ``at least 1``. ``choices`` are the valid values
    where there are only a few, so that a wrong one gets the nearest.
    """

    expected: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()

    def __call__(self, _instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        """Raise ValueError when the value breaks the rule; attrs calls this on construction."""
        if not self.holds(value):
            raise ValueError(f"{attribute.name} = {value!r}: expected {self.expected}")


def above(bound: float) -> Rule:
    """Return the rule ``value > bound``."""
    return Rule(f"above {bound:g}", lambda value: value > bound)


def at_least(bound: float) -> Rule:
    """Return the rule ``value >= bound``."""
    return Rule(f"at least {bound:g}", lambda value: value >= bound)


def between(low: float, high: float, *, open_ends: bool = False) -> Rule:
    """Return the rule ``low <= value <= high``; with ``open_ends`` the bounds themselves are refused."""
    if open_ends:
        return Rule(f"between {low:g} and {high:g}, both excluded", lambda value: low < value < high)
    return Rule(f"from {low:g} to {high:g}", lambda value: low <= value <= high)


def one_of(*choices: str) -> Rule:
    """Return the rule that the value is one of a few words."""
    listed = ", ".join(f'"{choice}"' for choice in choices)
    return Rule(f"one of {listed}", lambda value: value in choices, choices)


def keys_among(*choices: str) -> Rule:
    """Return the rule that all keys of a table are among a few words."""
    listed = ", ".join(f'"{choice}"' for choice in choices)
    return Rule(f"keys among {listed}", lambda value: set(value) <= set(choices))


def not_empty() -> Rule:
    """Return the rule that a string, table or list is not empty."""
    return Rule("not empty", lambda value: len(value) > 0)


def file_name() -> Rule:
    """Return the rule that a name can be part of a file name on every system."""
    return Rule(
        "letters, digits, _, - and . only, a letter or digit first",
        lambda value: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value) is not None,
    )


def device_name() -> Rule:
    """Return the rule that a word names a device torch can compute on."""
    words = ("auto", "cpu", "cuda")
    return Rule(
        'one of "auto", "cpu", "cuda", "cuda:<number>"',
        lambda value: value in words or re.fullmatch(r"cuda:\d+", value) is not None,
        words,
    )


def unless_none(rule: Rule) -> Rule:
    """Return the rule for an optional value: None, or what ``rule`` allows."""
    return Rule(rule.expected, lambda value: value is None or rule.holds(value), rule.choices)


def each(rule: Rule) -> Rule:
    """Return the rule that every item of a list, or every value of a table, obeys ``rule``."""

    def holds(value: Any) -> bool:
        return all(rule.holds(item) for item in (value.values() if isinstance(value, dict) else value))

    return Rule(f"each {rule.expected}", holds, rule.choices)


@attrs.frozen
class Component:
    """A component chosen by name, with its own options: ``use = "adam"`` and its options inline."""

    use: str
    options: Any


@attrs.frozen
class Chosen:
    """A component chosen by its name as key, with the options of the registry entry of that name."""

    options: Any


@attrs.frozen
class NoOptions:
    """The options of a component that has none."""


def option(
    doc: str,
    *,
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    validator: Any = None,
    registry: str | None = None,
    path: bool = False,
    words: tuple[str, ...] = (),
) -> Any:
    """Return an attrs field whose ``metadata["doc"]`` says what it means and what changing it does.

    ``validator`` is a rule, an attrs validator or a list of them. ``registry`` tells that the value names a
    component of that kind. ``path`` marks file names, which the recipe reader makes absolute from the
    recipe's folder. ``words`` have a meaning of their own where a name or a file is expected.
    """
    validators = validator if isinstance(validator, list | tuple) else [validator]
    rules = tuple(rule for rule in validators if isinstance(rule, Rule))
    metadata = {"doc": doc, "registry": registry, "path": path, "words": words, "rules": rules}
    if factory is not None:
        return attrs.field(factory=factory, validator=validator, metadata=metadata)
    return attrs.field(default=default, validator=validator, metadata=metadata)
