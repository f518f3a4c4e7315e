"""Checkpoint -> weights in the model's slots."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy
import torch
from numpy.typing import NDArray

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.checkpoint.dummy_checkpoint import DummyCheckpoint
from pascaline.checkpoint.model_config import ModelConfig
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ProgressCallback, Stage
from pascaline.formats import Destination, StoredWeight, WeightReader, loading_to, weight_reader
from pascaline.layers.decoder import Decoder
from pascaline.layers.module import Layer, WeightSlot
from pascaline.layers.norm import RMSNorm
from pascaline.models import family_of
from pascaline.weights import Dense, Weight
from pascaline.weights.memory import give_back
from pascaline.workload.holdings import (
    HeldWeight,
    head_names,
    heads_alike,
    held_matrix,
    held_vector,
    no_place_for,
    settled_tying,
    unread_tensors,
)

EXPECTED_BYTES_PER_S = {"cpu": 1.0e9, "cuda": 3.0e9}
"""First guess at the rate of loading, until some of it has been measured."""

GGUF_ROPE_FACTORS = "rope_freqs.weight"
_LAYER_PREFIX = re.compile(r"^model\.layers\.\d+\.")


@dataclass(frozen=True)
class FoundWeight:
    """A place in the model and what the checkpoint has for it: weights that are read as one each,
    with the number of the place's parts that they are made of."""

    slot: WeightSlot
    stored: list[tuple[StoredWeight, int]]

    @property
    def is_vector(self) -> bool:
        return len(self.slot.parts[0].shape) == 1

    @property
    def names(self) -> list[str]:
        return [name for stored, _ in self.stored for name in stored.names]

    def held(self) -> Iterator[HeldWeight]:
        """The weights as they will be held."""
        module, parts = self.slot.module.path, iter(self.slot.parts)
        if self.is_vector:
            yield held_vector(module, self.slot.parts)
            return
        for stored, count in self.stored:
            yield held_matrix(module, tuple(islice(parts, count)), stored.form)


def find_weights(model: Decoder, checkpoint: Checkpoint) -> list[FoundWeight]:
    """Every slot's weights in the checkpoint, in the order of the slots, checked but not read.

    Raises
    ------
    CheckpointError : a tensor is missing or has another shape.
    UnsupportedError : a weight is stored in a way that we do not read.
    """
    reader, family = weight_reader(checkpoint), family_of(model.config)
    found = []
    for slot in model.weight_slots():
        stored: list[tuple[StoredWeight, int]] = []
        for part in slot.parts:
            heads = None
            if checkpoint.container == "gguf":
                heads = family.gguf_interleaved_heads(model.config, _LAYER_PREFIX.sub("", part.module))
            one = reader.locate(family.file_name(checkpoint, part.name), part.shape, heads)
            joined = stored[-1][0].joined(one) if stored else None
            if joined is None:
                stored.append((one, 1))
            else:
                stored[-1] = joined, stored[-1][1] + 1
        found.append(FoundWeight(slot, stored))
    for name in unread_tensors(checkpoint, family, {name for item in found for name in item.names}):
        if len(checkpoint.tensors[name].shape) != 1 or _has_numbers(checkpoint, name):
            raise no_place_for(checkpoint, family, name)
    return found


def settle_tying(config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """The config with its head untied where a folder has another head than the embedding.

    As transformers 5 does: what is there counts more than what config.json says. A GGUF says it by
    having the tensor.
    """
    if not heads_alike(config, checkpoint) or isinstance(checkpoint, DummyCheckpoint):
        return settled_tying(config, checkpoint)
    names = head_names(config, checkpoint)
    first, second = (_bytes_of(checkpoint, name) for name in names)
    alike = numpy.array_equal(first, second)
    for name in names:
        checkpoint.release(name)
    return config if alike else replace(config, tie_word_embeddings=False)


def _has_numbers(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor is more than zeros, which some tools add; of a dummy nobody knows."""
    return not isinstance(checkpoint, DummyCheckpoint) and bool(_bytes_of(checkpoint, name).any())


def _bytes_of(checkpoint: Checkpoint, name: str) -> NDArray[numpy.uint8]:
    return numpy.frombuffer(checkpoint.read(name), numpy.uint8)


def load_weights(
    model: Decoder,
    checkpoint: Checkpoint,
    weights: list[FoundWeight],
    device: torch.device,
    prepare: Callable[[Weight], Weight],
    report: ProgressCallback,
) -> int:
    """Fill all slots, layer by layer; returns the bytes that the weights keep resident.

    Each matrix is turned into what `prepare` makes of it as soon as its layer is there.
    """
    family = family_of(model.config)
    has_whole_gains = checkpoint.container == "gguf" or isinstance(checkpoint, DummyCheckpoint)
    norm_offset = 0.0 if has_whole_gains else family.norm_offset
    total = sum(checkpoint.tensors[name].nbytes for found in weights for name in found.names)
    expected_s = total / EXPECTED_BYTES_PER_S[device.type]
    remaining = iter(weights)
    with (
        Stage(report, "loading weights", total, "bytes", expected_s) as stage,
        loading_to(device) as to,
        _single_threaded_operations(),
    ):
        # Embedding, each decoder layer, norm and head: each is settled before the next is loaded.
        for unit in model.sublayers():
            for _, found in zip(unit.weight_slots(), remaining, strict=False):
                found.slot.fill(_load(found, norm_offset, to))
                for name in found.names:
                    checkpoint.release(name)
                    stage.advance(checkpoint.tensors[name].nbytes)
            unit.settle()
            for module in unit.modules():
                if isinstance(module, Layer):
                    module.replace_weights(prepare)
    give_back()
    return model.resident_bytes()


@contextmanager
def _single_threaded_operations() -> Iterator[None]:
    """Torch's operations on one thread each: they copy, and wait for memory and not for arithmetic."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def load_rope_factors(checkpoint: Checkpoint, rotary_dimensions: int) -> torch.Tensor | None:
    """GGUF's divisors of the rotary frequencies, (D / 2,), where a file has them (Llama 3.1)."""
    entry = checkpoint.tensors.get(GGUF_ROPE_FACTORS) if checkpoint.container == "gguf" else None
    if entry is None or isinstance(checkpoint, DummyCheckpoint):
        return None
    if entry.shape != (rotary_dimensions,):
        raise CheckpointError(
            f"{checkpoint.path.name}: tensor {GGUF_ROPE_FACTORS!r} has shape {list(entry.shape)}",
            expected=str([rotary_dimensions]),
        )
    weight = WeightReader.of(checkpoint).locate(GGUF_ROPE_FACTORS, entry.shape).load()
    factors = torch.empty(entry.shape)
    weight.dequantise(0, rotary_dimensions, factors)
    if not (factors.isfinite() & (factors > 0)).all():
        raise CheckpointError(
            f"{checkpoint.path.name}: tensor {GGUF_ROPE_FACTORS!r} has zeros, negative or infinite numbers",
            expected="divisors of the rotary frequencies",
        )
    return factors


def _load(found: FoundWeight, norm_offset: float, to: Destination) -> list[tuple[Weight, int]]:
    """A slot's weights there, each with its number of parts."""
    weights = [(stored.load(to), count) for stored, count in found.stored]
    if not found.is_vector:
        return weights
    # Norm gains and biases are a few kilobytes: widened once, not at every step.
    offset = norm_offset if isinstance(found.slot.module, RMSNorm) else 0.0
    return [
        (Dense(weight.tensor.float() + offset) if isinstance(weight, Dense) else weight, count)
        for weight, count in weights
    ]
