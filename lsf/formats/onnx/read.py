"""Exported ONNX files with onnxruntime: neither torch nor the model's code or recipe is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lsf.errors import LsfError, MissingExtraError, ModelFileError
from lsf.formats.metadata import checked_metadata
from lsf.formats.onnx.inputs import Array, ArrayInputs

if TYPE_CHECKING:
    from ase import Atoms

FORMAT: Final = "lsf-onnx"
FORMAT_VERSION: Final = 1
METADATA_KEY: Final = "lsf"


class OnnxFile:
    """A model in an ONNX file, with its metadata.

    Parameters
    ----------
    file : path, or the bytes of a file
    providers : where onnxruntime computes, its names in order of preference
    threads : threads of one operation; 0 leaves the number to onnxruntime

    Raises
    ------
    MissingExtraError
        when onnxruntime is not installed.
    ModelFileError
        when the file is missing, damaged, no model of lsf, or of a newer format.
    """

    def __init__(
        self,
        file: str | Path | bytes,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int = 0,
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "onnx", "an ONNX model") from error
        name = "file" if isinstance(file, bytes) else str(file)
        if not isinstance(file, bytes) and not Path(file).is_file():
            raise ModelFileError(f"{file}: there is no such model file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors: warnings are about sizes of its own example runs
        content = file if isinstance(file, bytes) else Path(file).read_bytes()
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=list(providers))
        except Exception as error:  # onnxruntime has an exception of its own for every kind of damage
            raise ModelFileError(f"{name}: not a readable ONNX file ({error})") from error
        text = self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "")
        self.metadata = checked_metadata(text, FORMAT, FORMAT_VERSION, name, "an ONNX file")
        self._inputs = ArrayInputs(self.metadata)

    @property
    def cutoff(self) -> float:
        """Cutoff of the neighbour list in Å."""
        return float(self.metadata["cutoff"])

    @property
    def species(self) -> list[str]:
        """Chemical symbols the model knows."""
        return list(self.metadata["species"])

    def inputs(self, structures: Sequence[Atoms]) -> dict[str, Array]:
        """Return the inputs for ASE structures, see :class:`lsf.formats.onnx.inputs.ArrayInputs`."""
        return self._inputs(structures)

    def evaluate(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Return outputs by name, all by default.

        Raises :class:`lsf.errors.LsfError` on an input or output the model does not have.
        """
        names = list(self.metadata["outputs"]) if outputs is None else list(outputs)
        for kind, given, known in (
            ("output", names, self.metadata["outputs"]),
            ("input", inputs, self.metadata["inputs"]),
        ):
            wrong = sorted(set(given) - set(known))
            if wrong:
                raise LsfError(f"the model has no {kind} {wrong[0]!r}; it has {', '.join(known)}")
        found = self.session.run(names, dict(inputs))
        return dict(zip(names, found, strict=True))
