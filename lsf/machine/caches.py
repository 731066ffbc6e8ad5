"""All caches of lsf, and the switch that turns them off: ``LSF_CACHES=off``.

A cache never changes a result. When a wrong number is suspected of being an old one, run once more with the
switch off: every function then computes anew, and memory for intermediates is fresh in every call. There are:

====================  ====================================================  =================================
kind                  keyed by                                              for
====================  ====================================================  =================================
:func:`constant`      the arguments                                         tables that follow from integers
:class:`ByIdentity`   tensors in use, by identity and version               layouts and weights of a plan
:func:`kept_scratch`  owner, dtype, device and thread                       memory of intermediates
:class:`Pool`         --                                                    memory lent to one taker
====================  ====================================================  =================================

Objects that a simulation carries along (:class:`lsf.electrostatics.PlanCache`,
:class:`lsf.data.neighbors.NeighborCache`) and the survey of shards on disk ask :func:`enabled`, too.
:func:`once` is for parts of the program itself, such as the registry, which no switch changes.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, cast

from lsf.errors import LsfError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SWITCH: Final = "LSF_CACHES"
"""Environment variable: "on", the default, or "off"."""

P = ParamSpec("P")
T = TypeVar("T")

once = functools.cache
"""Keep the result of a function that reads a part of the program: a registry, a table of the package."""


class _State(threading.local):
    """What this thread keeps; ``off`` counts the blocks of :func:`switched_off` it is in."""

    def __init__(self) -> None:
        self.off = 0
        self.scratch: dict[tuple[str, torch.dtype, torch.device], Scratch] = {}


_state = _State()


def enabled() -> bool:
    """Return whether caches are used; LsfError when ``LSF_CACHES`` is neither "on" nor "off"."""
    return not _state.off and _switch_on(os.environ.get(SWITCH, "on"))


@functools.cache
def _switch_on(word: str) -> bool:
    if word not in ("on", "off"):
        raise LsfError(f'environment variable {SWITCH} = {word!r}; expected "on" or "off"')
    return word == "on"


@contextmanager
def switched_off() -> Iterator[None]:
    """Compute anew what this thread asks for inside the block."""
    _state.off += 1
    try:
        yield
    finally:
        _state.off -= 1


def constant(make: Callable[P, T]) -> Callable[P, T]:
    """Keep what a function of hashable arguments returns; nobody may change it."""
    return _by_arguments(make, 128)


def large_constant(make: Callable[P, T]) -> Callable[P, T]:
    """Keep the last few results of a function of hashable arguments, which are large."""
    return _by_arguments(make, 8)


def _by_arguments(make: Callable[P, T], entries: int) -> Callable[P, T]:
    kept = functools.lru_cache(entries)(make)

    @functools.wraps(make)
    def find(*args: P.args, **kwargs: P.kwargs) -> T:
        if not enabled():
            return make(*args, **kwargs)
        return kept(*args, **kwargs)  # type: ignore[arg-type]

    return find


class ByIdentity(Generic[T]):
    """Values that belong to tensors, kept for as long as the same tensors are in use and unchanged."""

    def __init__(self) -> None:
        from torch.utils.weak import WeakIdKeyDictionary

        self._known: Any = WeakIdKeyDictionary()  # type: ignore[no-untyped-call]

    def find(
        self,
        owner: Tensor,
        others: Sequence[Tensor],
        key: Hashable,
        make: Callable[[], T],
        serves: Callable[[T], bool] = lambda _: True,
    ) -> T:
        """Return the value of these tensors and this key, made by ``make`` where none is known.

        ``serves`` may refuse a known value. One value is kept per ``owner``.
        """
        if not enabled():
            return make()
        key = (key, owner._version, *(tensor._version for tensor in others))
        kept = self._known.get(owner)
        if kept is not None:
            references, known_key, value = kept
            same = len(references) == len(others) and all(
                reference() is tensor for reference, tensor in zip(references, others, strict=True)
            )
            if same and known_key == key and serves(value):
                return cast(T, value)
        made = make()
        self._known[owner] = ([weakref.ref(tensor) for tensor in others], key, made)
        return made


class Scratch:
    """Named pieces of memory; each name's piece grows to the largest that was asked for."""

    def __init__(self, like: Tensor) -> None:
        self._like = like.new_empty(0)
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return memory of that shape, with what the last use of the name left in it."""
        size = math.prod(shape)
        held = self._held.get(name)
        if held is None or held.numel() < size:
            held = self._held[name] = self._like.new_empty(size)
        return held[:size].view(shape)


def kept_scratch(owner: str, like: Tensor) -> Scratch:
    """Return the scratch of ``owner`` that this thread keeps.

    For pieces of bounded size that are neither returned nor saved for a backward pass: fresh pages for every
    call would take as long as what is computed in them.
    """
    if not enabled():
        return Scratch(like)
    key = (owner, like.dtype, like.device)
    if key not in _state.scratch:
        _state.scratch[key] = Scratch(like)
    return _state.scratch[key]


class Pool:
    """At most one piece of memory that is lent for as long as its taker lives, and then lent again."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, like: Tensor, size: int) -> Tensor:
        """Return memory (>= size,) of the kind of ``like``; fresh where what there is does not fit."""
        if not enabled():
            return like.new_empty(size)
        try:
            held = self._free.pop()
        except IndexError:
            return like.new_empty(size)
        fits = held.numel() >= size and held.dtype == like.dtype and held.device == like.device
        return held if fits else like.new_empty(size)

    def give_back(self, memory: Tensor) -> None:
        """Keep memory that nobody uses any more."""
        if not self._free and enabled():
            self._free.append(memory)
