"""Older formats of model files, brought to the present one step by step.

A format's number rises when files of the one before can no longer be read as they are: when an entry of the
header or an option of a recipe is renamed or means something else, or weights are named or laid out anew.
Such a change comes with the step in :data:`UPGRADES` that does the same to older files. A sample of every
format stands in ``tests/formats/samples`` and must give the numbers stored beside it for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from torch import Tensor

import lsf
from lsf.errors import ModelFileError

FORMAT_VERSION: Final = 2

Header = dict[str, Any]
Tensors = dict[str, Tensor]


def _same(content: Any) -> Any:
    return content


@attrs.frozen
class Upgrade:
    """One step, from a format to the next: functions of the header and of the weights by name."""

    header: Callable[[Header], Header] = _same
    tensors: Callable[[Tensors], Tensors] = _same


BOXED: Final = (
    "the model was trained with boundary {boundary!r} by an lsf that put molecules without a cell into boxes "
    "that followed their atoms; they are now summed in open space. Their energies differ by what the boxes "
    "left, up to some 30 meV for two ions 10 Å apart; of longer molecules forces were wrong"
)


def _boxes(header: Header) -> Header:
    """Format 2: in boundary methods that use a box, a molecule without a cell has none."""
    boundary = header.get("boundary")
    if boundary not in ("molecule_in_box", "mixed_periodic"):
        return header
    return {**header, "remarks": [*header.get("remarks", []), BOXED.format(boundary=boundary)]}


UPGRADES: Final[dict[int, Upgrade]] = {1: Upgrade(_boxes)}
"""Steps by the format they start from. A header's ``remarks`` are said when the model is loaded."""


def steps_from(header: Mapping[str, Any], path: Path) -> list[Upgrade]:
    """Return the steps that bring a file with this header to the present format.

    Raises :class:`lsf.errors.ModelFileError` when the file says no format, or a newer one.
    """
    version = header.get("format_version")
    if type(version) is not int or version < 1:
        raise ModelFileError(
            f"{path}: damaged: format_version is {version!r}; expected a number from 1 to {FORMAT_VERSION}"
        )
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: written by lsf {header.get('lsf_version', '?')} in format {version}; this lsf "
            f"{lsf.__version__} reads formats up to {FORMAT_VERSION}: update lsf"
        )
    return [UPGRADES[step] for step in range(version, FORMAT_VERSION)]


def upgraded_header(header: Header, path: Path) -> Header:
    """Return the header as the present format has it; raises as :func:`steps_from`."""
    for step in steps_from(header, path):
        header = step.header(header)
    return {**header, "format_version": FORMAT_VERSION}
