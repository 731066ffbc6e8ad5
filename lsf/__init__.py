"""lsf, the Local-Source Framework: charge-aware machine-learned interatomic potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lsf.engines.load import Model

__version__ = "0.1.0"

__all__ = ["__version__", "load"]

# names of earlier versions (lsf.deploy, lsf.pipeline, …) are found there, after everything else
__path__.append(f"{__path__[0]}/compat/doors")


def load(path: str | Path, kernels: str | None = None) -> Model:
    """Return the trained model stored in a ``.safetensors`` file written by lsf.

    ``kernels`` are those of the message passing to compute with (``lsf list kernels``), whatever the model
    was trained with. Raises :class:`lsf.errors.ModelFileError` when the file is missing, damaged or newer
    than this version of lsf.
    """
    from lsf.engines import load as engines

    return engines.load(path, kernels)
