"""Text and JSON files of a model folder, read within limits that no honest file meets."""

from __future__ import annotations

import json
from pathlib import Path

from pascaline.core.errors import CheckpointError

MAX_TEXT_BYTES = 16 << 20
"""The index of a model of 10^12 parameters has 14 MiB."""

_MAX_ITEMS = 1 << 19
_MAX_DEPTH = 64


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises CheckpointError when it cannot be read, or is too long for a settings file."""
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text", remedy="Fetch the file again") from error


def read_json_object(path: Path) -> dict[str, object]:
    """A file with one JSON object. Raises CheckpointError for anything else."""
    try:
        value = parse_json(_read(path))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error})", remedy="Fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__}", expected="a JSON object")
    return value


def parse_json(data: bytes, *, unique_keys: bool = False) -> object:
    """JSON in UTF-8 from an untrusted source.

    A short text can hold a great many values, or values so deep in each other that they can be neither
    compared nor printed; both are refused.

    Raises
    ------
    ValueError : it is no JSON, or too large for what it should be; with `unique_keys` a key stands twice.
    """
    items = sum(data.count(mark) for mark in (b",", b"[", b"{"))
    if items > _MAX_ITEMS:
        raise ValueError(f"{items} values are more than the {_MAX_ITEMS} that any model has")
    try:
        value: object = json.loads(data.decode(), object_pairs_hook=_unique if unique_keys else None)
    except RecursionError:
        raise _too_deep() from None
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return value
    raise _too_deep()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_TEXT_BYTES:
        raise CheckpointError(
            f"{path} is larger than {MAX_TEXT_BYTES >> 20} MiB", expected="a model's settings"
        )
    return data


def _children(item: object) -> list[object]:
    """The lists and objects directly in a list or object."""
    values = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return [value for value in values if isinstance(value, list | dict)]


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands there twice")
    return result


def _too_deep() -> ValueError:
    return ValueError(f"values in more than {_MAX_DEPTH} others")
