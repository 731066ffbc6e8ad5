"""What an exported file says of itself, checked before anything of it is used; needs no torch."""

from __future__ import annotations

import json
from typing import Any

from lsf.errors import ModelFileError


def checked_metadata(text: str | bytes, kind: str, version: int, name: str, what: str) -> dict[str, Any]:
    """Return the metadata of a file of format ``kind``, of ``version`` at most.

    ``name`` is the file's, ``what`` one like it, for messages. Raises :class:`lsf.errors.ModelFileError`
    where the text is empty, damaged, of another format or of a newer version.
    """
    try:
        metadata: dict[str, Any] = json.loads(text) if text else {}
    except ValueError as error:
        raise ModelFileError(f"{name}: its metadata cannot be read ({error})") from error
    if not isinstance(metadata, dict) or metadata.get("format") != kind:
        raise ModelFileError(f"{name}: {what}, but not a model exported by lsf")
    if metadata["format_version"] > version:
        raise ModelFileError(
            f"{name}: written by lsf {metadata['lsf_version']} in format {metadata['format_version']}; this "
            f"lsf reads formats up to {version}: update lsf"
        )
    return metadata
