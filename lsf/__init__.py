"""lsf, the Local-Source Framework: charge-aware machine-learned interatomic potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lsf.export.package import LoadedModel

__version__ = "0.1.0"

__all__ = ["__version__", "load"]


def load(path: str | Path, kernels: str | None = None) -> LoadedModel:
    """Return the trained model stored in a ``.safetensors`` file written by lsf.

    ``kernels`` are those of the message passing to compute with (``lsf list kernels``), whatever the model
    was trained with. Raises :class:`lsf.errors.ModelFileError` when the file is missing, damaged or newer
    than this version of lsf.
    """
    from lsf.export.package import load_model

    return load_model(path, kernels)
