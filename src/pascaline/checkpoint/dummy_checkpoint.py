"""A checkpoint whose data nobody reads: its weights are made up when they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pascaline.checkpoint.checkpoint import Checkpoint, TensorEntry, TokenizerSource
from pascaline.core.errors import CheckpointError


class DummyCheckpoint:
    """Settings and vocabulary of `described`, and a directory: its own, or another in its place."""

    def __init__(self, described: Checkpoint, tensors: Mapping[str, TensorEntry] | None = None) -> None:
        self.container: Literal["gguf", "safetensors"] = described.container
        self.path = described.path
        self.hf_config = described.hf_config
        self.tensors: Mapping[str, TensorEntry] = described.tensors if tensors is None else tensors
        self.chat_template = described.chat_template
        self._described = described

    def read(self, name: str) -> memoryview:
        raise CheckpointError(f"{self.path.name}: the data of {name!r} is asked for", expected="no data")

    def release(self, name: str) -> None:
        """Nothing was read."""

    def tokenizer_source(self) -> TokenizerSource:
        return self._described.tokenizer_source()

    def close(self) -> None:
        self._described.close()
