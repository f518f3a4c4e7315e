"""A GGUF model as a `Checkpoint`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pascaline.checkpoint.checkpoint import TensorEntry, TokenizerSource
from pascaline.checkpoint.gguf_config import TOKENS_KEY, hf_config_of
from pascaline.checkpoint.gguf_split import SplitGguf
from pascaline.checkpoint.mapped_file import FileBytes
from pascaline.core.errors import CheckpointError


class GgufCheckpoint:
    """One GGUF file, or a model split into several; see `Checkpoint` for the members.

    `files` are its parts' bytes where they are not to be mapped from `path`.

    Raises
    ------
    CheckpointError, UnsupportedError : as `SplitGguf` and `hf_config_of` do.
    """

    container: Literal["gguf", "safetensors"] = "gguf"

    def __init__(self, path: Path, files: Sequence[FileBytes] | None = None) -> None:
        self._file = SplitGguf(path, files)
        self.path = self._file.path
        self.hf_config: Mapping[str, object] = hf_config_of(self._file)
        self.tensors: Mapping[str, TensorEntry] = self._file.tensors
        template = self._file.metadata.get("tokenizer.chat_template")
        self.chat_template = template if isinstance(template, str) else None

    def read(self, name: str) -> memoryview:
        if name not in self.tensors:
            raise CheckpointError(f"{self.path} has no tensor {name}")
        return self._file.read(name)

    def release(self, name: str) -> None:
        self._file.release(name)

    def tokenizer_source(self) -> TokenizerSource:
        """The vocabulary, decoded here and now, so that it outlives the file."""
        metadata = self._file.metadata
        vocabulary = {key: metadata[key] for key in metadata if key.startswith("tokenizer.")}
        if not isinstance(vocabulary.get(TOKENS_KEY), list):
            raise CheckpointError(
                f"{self.path} holds no vocabulary: {TOKENS_KEY} is missing", remedy="Convert the model again"
            )
        return TokenizerSource(
            tokenizer_json=None,
            gguf_metadata=vocabulary,
            bos_token=_token(vocabulary, "bos_token_id"),
            eos_token=_token(vocabulary, "eos_token_id"),
        )

    def close(self) -> None:
        self._file.close()


def _token(vocabulary: Mapping[str, object], name: str) -> str | None:
    tokens, token_id = vocabulary[TOKENS_KEY], vocabulary.get(f"tokenizer.ggml.{name}")
    if isinstance(tokens, list) and isinstance(token_id, int) and 0 <= token_id < len(tokens):
        return str(tokens[token_id])
    return None
