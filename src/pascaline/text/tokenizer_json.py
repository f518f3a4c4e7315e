"""A folder's tokenizer.json as a tokenizer of the `tokenizers` library, which it is the format of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers

from pascaline.core.errors import CheckpointError
from pascaline.core.units import format_bytes

MAX_BYTES = 128 << 20
"""Four times the largest in use."""
MAX_GROWTH = 64
"""Characters that a file's rules may make of one; Unicode's own normal forms make 18."""
MAX_ADDED_IDS = 64
"""Ids that a file's rules may put around a text."""


def read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer in the file, without its author's truncation and padding.

    Raises CheckpointError for a file that is missing or damaged, or whose rules would blow a text up.
    """
    if not path.is_file():
        raise CheckpointError(
            f"There is no file {path}", remedy="Copy the original model's tokenizer.json into its folder"
        )
    nbytes = path.stat().st_size
    if nbytes > MAX_BYTES:
        raise CheckpointError(
            f"{path} has {format_bytes(nbytes)}", expected=f"at most {format_bytes(MAX_BYTES)}"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:
        raise CheckpointError(
            f"{path} cannot be read as a tokenizer: {library_failure(error)}",
            remedy="Fetch the file again; if it is whole, a newer `tokenizers` package may know its format",
        ) from error
    _refuse_growth(path, backend)
    # Batch settings of the file's author: they would cut or fill prompts.
    backend.no_truncation()
    backend.no_padding()
    return backend


def library_failure(error: BaseException) -> str:
    """What the `tokenizers` library says went wrong; raises `error` again where that is not its own.

    The library raises bare Exception for whatever is wrong. Where its Rust code panics, as it does on some
    files and texts, comes a BaseException of a class that has no module to import it from.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return str(error)[:300]


def decoder_steps(backend: tokenizers.Tokenizer) -> list[dict[str, object]]:
    """The rules that turn tokens into text, one after another."""
    return list(_steps(backend.decoder, "decoders"))


def _refuse_growth(path: Path, backend: tokenizers.Tokenizer) -> None:
    growth = 1
    for step in _steps(backend.normalizer, "normalizers"):
        growth *= max(1, len(str(step.get("content", ""))))
        growth += len(str(step.get("prepend", "")))
        if growth > MAX_GROWTH:
            raise _damaged(f"{path} makes more than {MAX_GROWTH} characters of one")
    for step in _steps(backend.post_processor, "processors"):
        if step["type"] == "TemplateProcessing" and _added_ids(step) > MAX_ADDED_IDS:
            raise _damaged(f"{path} puts more than {MAX_ADDED_IDS} tokens around a text")


def _added_ids(template: dict[str, object]) -> int:
    """How many ids a template's pieces stand for; the text itself counts as one wherever it stands."""
    pieces, special = template["single"], template["special_tokens"]
    if not isinstance(pieces, list) or not isinstance(special, dict):
        return 0
    names = [piece["SpecialToken"]["id"] if "SpecialToken" in piece else None for piece in pieces]
    return sum(len(special[name]["ids"]) if name in special else 1 for name in names)


def _steps(part: Any, key: str) -> Iterator[dict[str, object]]:
    """The steps of a part of the library's pipeline; those of a sequence, and of sequences in it."""
    pending = [] if part is None else [json.loads(part.__getstate__())]
    while pending:
        step = pending.pop()
        if step["type"] == "Sequence":
            pending.extend(reversed(step[key]))
        else:
            yield step


def _damaged(seen: str) -> CheckpointError:
    return CheckpointError(seen, remedy="The file is faulty or malicious; fetch the model from its author")
