"""Text and JSON files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path

from pascaline.core.errors import CheckpointError


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises CheckpointError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text", remedy="Fetch the file again") from error


def read_json_object(path: Path) -> dict[str, object]:
    """A file with one JSON object. Raises CheckpointError for anything else."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error})", remedy="Fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__}", expected="a JSON object")
    return value
