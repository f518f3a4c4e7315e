"""One interface to a model on disk, whatever its container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file's directory.

    `type_name` is the file's own name for the element type ("F32", "BF16", "Q4_1"); `shape` is
    in elements, outermost first; `nbytes` counts the bytes on disk.
    """

    name: str
    type_name: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class TokenizerSource:
    """Where a checkpoint keeps its vocabulary.

    Exactly one of the two is set: `tokenizer_json` is the path of a tokenizer.json;
    `gguf_metadata` holds a GGUF's `tokenizer.*` keys. `bos_token` and `eos_token` are spelled
    out for chat templates, None when the checkpoint names none.
    """

    tokenizer_json: Path | None
    gguf_metadata: Mapping[str, object] | None
    bos_token: str | None
    eos_token: str | None


class Checkpoint(Protocol):
    """A model on disk, opened: directory and settings are read, tensors are not."""

    container: Literal["gguf", "safetensors"]
    path: Path
    """The file or folder."""
    hf_config: Mapping[str, object]
    """config.json, or a GGUF's metadata in config.json's spelling."""
    tensors: Mapping[str, TensorEntry]
    """By the file's own tensor names."""
    chat_template: str | None

    def read(self, name: str) -> memoryview:
        """The tensor's bytes as on disk: a view of the mapped file, copied by nobody."""
        ...

    def release(self, name: str) -> None:
        """Tell the operating system that the tensor's mapped pages are not needed any more."""
        ...

    def tokenizer_source(self) -> TokenizerSource: ...

    def close(self) -> None: ...
