"""One file a format: tensors on disk -> Weight. A new format is a file and a line here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.checkpoint.dummy_checkpoint import DummyCheckpoint
from pascaline.formats.awq import AwqTensors
from pascaline.formats.compressed_tensors import CompressedTensors
from pascaline.formats.dense import BF16, F16, F32
from pascaline.formats.destination import IN_MEMORY, Card, Destination
from pascaline.formats.dummy import DummyReader
from pascaline.formats.format import Format, StoredRows, StoredTensors, StoredWeight
from pascaline.formats.gguf_iq4_nl import IQ4_NL
from pascaline.formats.gguf_iq4_xs import IQ4_XS
from pascaline.formats.gguf_mxfp4 import MXFP4
from pascaline.formats.gguf_q2_k import Q2_K
from pascaline.formats.gguf_q3_k import Q3_K
from pascaline.formats.gguf_q4_0 import Q4_0
from pascaline.formats.gguf_q4_1 import Q4_1
from pascaline.formats.gguf_q4_k import Q4_K
from pascaline.formats.gguf_q5_0 import Q5_0
from pascaline.formats.gguf_q5_1 import Q5_1
from pascaline.formats.gguf_q5_k import Q5_K
from pascaline.formats.gguf_q6_k import Q6_K
from pascaline.formats.gguf_q8_0 import Q8_0
from pascaline.formats.gptq import GptqTensors
from pascaline.formats.linears import LinearTensors, StoredLinears
from pascaline.workload.directory import WeightDirectory
from pascaline.workload.stored_weight import StoredLinear

FORMATS: dict[str, Format] = {
    item.type_name: item
    for item in (
        *(F32, F16, BF16),
        *(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0),
        *(Q2_K, Q3_K, Q4_K, Q5_K, Q6_K),
        *(IQ4_NL, IQ4_XS, MXFP4),
    )
}
"""By the element type in a file's directory."""

LINEAR_READERS: dict[str, type[LinearTensors]] = {
    "gptq": GptqTensors,
    "awq": AwqTensors,
    "compressed-tensors": CompressedTensors,
}
"""By the scheme, as `workload.schemes` calls it."""


@dataclass(frozen=True)
class WeightReader:
    """Finds a model's weights in a checkpoint, whatever form each is stored in."""

    directory: WeightDirectory

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> WeightReader:
        """A reader for the scheme that the checkpoint declares, if it declares one.

        Raises
        ------
        ConfigError : quantization_config is malformed.
        UnsupportedError : its method, or a variant of it, is none of ours.
        """
        return cls(WeightDirectory.of(checkpoint))

    def locate(self, name: str, shape: tuple[int, ...], interleaved_heads: int | None = None) -> StoredWeight:
        """The weight that the checkpoint knows as `name` ("….q_proj.weight", "blk.0.attn_q.weight").

        `interleaved_heads` is described at `StoredRows`; only GGUF files need it.

        Raises
        ------
        CheckpointError : it is missing, or its tensors contradict the shape that the model wants.
        UnsupportedError : it is stored in a way that we do not read.
        """
        checkpoint, stored = self.directory.checkpoint, self.directory.locate(name, shape)
        if isinstance(stored, StoredLinear):
            return StoredLinears.of(LINEAR_READERS[stored.method](checkpoint, stored))
        rows = StoredRows(lambda: checkpoint.read(name), shape, interleaved_heads)
        return StoredTensors.of(checkpoint.path.name, (name,), FORMATS[stored.type_name], (rows,))


def weight_reader(checkpoint: Checkpoint) -> WeightReader | DummyReader:
    """What finds the weights of a checkpoint, or makes them up; errors as `WeightReader.of`."""
    if isinstance(checkpoint, DummyCheckpoint):
        return DummyReader.of(checkpoint, FORMATS)
    return WeightReader.of(checkpoint)


@contextmanager
def loading_to(device: torch.device) -> Iterator[Destination]:
    """Where a device's weights go; at the end all of them are there."""
    if device.type == "cpu":
        yield IN_MEMORY
        return
    card = Card(device)
    try:
        yield card
    finally:
        card.close()


__all__ = [
    "FORMATS",
    "IN_MEMORY",
    "LINEAR_READERS",
    "Destination",
    "Format",
    "StoredRows",
    "StoredTensors",
    "StoredWeight",
    "WeightReader",
    "loading_to",
    "weight_reader",
]
