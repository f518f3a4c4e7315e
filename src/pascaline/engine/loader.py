"""Checkpoint -> weights in the model's slots."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ProgressCallback, Stage
from pascaline.formats import StoredWeight, WeightReader
from pascaline.layers.module import Layer, WeightSlot
from pascaline.layers.norm import RMSNorm
from pascaline.models import Decoder, family_of
from pascaline.weights import Dense, Weight

EXPECTED_BYTES_PER_S = 1.0e9
"""First guess at the rate of loading, until some of it has been measured."""

GGUF_ROPE_FACTORS = "rope_freqs.weight"
_LAYER_PREFIX = re.compile(r"^model\.layers\.\d+\.")


@dataclass(frozen=True)
class FoundWeight:
    """A place in the model and what the checkpoint has for it."""

    slot: WeightSlot
    stored: StoredWeight

    @property
    def is_vector(self) -> bool:
        return len(self.slot.shape) == 1


def find_weights(model: Decoder, checkpoint: Checkpoint) -> list[FoundWeight]:
    """Every slot's weight in the checkpoint, in the order of the slots, checked but not read.

    Raises
    ------
    CheckpointError : a tensor is missing or has another shape.
    UnsupportedError : a weight is stored in a way that we do not read.
    """
    reader, family = WeightReader.of(checkpoint), family_of(model.config)
    return [
        FoundWeight(slot, reader.locate(family.file_name(checkpoint, slot.name), slot.shape))
        for slot in model.weight_slots()
    ]


def planned_bytes(weights: list[FoundWeight]) -> int:
    """What `load_weights` will keep resident, at most, from the file's directory alone."""
    return sum(
        4 * weight.slot.shape[0] if weight.is_vector else weight.stored.resident_bytes for weight in weights
    )


def load_weights(
    model: Decoder,
    checkpoint: Checkpoint,
    weights: list[FoundWeight],
    device: torch.device,
    report: ProgressCallback,
) -> int:
    """Fill all slots, layer by layer; returns the bytes that the weights keep resident."""
    sizes = [sum(checkpoint.tensors[name].nbytes for name in weight.stored.names) for weight in weights]
    total = sum(sizes)
    with Stage(report, "loading weights", total, "bytes", total / EXPECTED_BYTES_PER_S) as stage:
        remaining = iter(zip(weights, sizes, strict=True))
        for unit in _units(model):
            for _, (weight, nbytes) in zip(unit.weight_slots(), remaining, strict=False):
                weight.slot.fill(_load(model, checkpoint, weight).to(device))
                for name in weight.stored.names:
                    checkpoint.release(name)
                stage.advance(nbytes)
            unit.settle()
    return model.resident_bytes()


def _units(model: Decoder) -> Iterator[Layer]:
    """Embedding, each decoder layer, norm and head: what is settled before the next is loaded."""
    for child in model.children():
        yield from cast(Iterable[Layer], child if isinstance(child, nn.ModuleList) else [child])


def load_rope_factors(checkpoint: Checkpoint, rotary_dimensions: int) -> torch.Tensor | None:
    """GGUF's divisors of the rotary frequencies, (D / 2,), where a file has them (Llama 3.1)."""
    entry = checkpoint.tensors.get(GGUF_ROPE_FACTORS) if checkpoint.container == "gguf" else None
    if entry is None:
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


def _load(model: Decoder, checkpoint: Checkpoint, found: FoundWeight) -> Weight:
    weight = found.stored.load()
    if found.is_vector and isinstance(weight, Dense):
        # Norm gains and biases are a few kilobytes: widened once, not at every step.
        weight = Dense(weight.tensor.float())
    family = family_of(model.config)
    if checkpoint.container == "gguf":
        module = _LAYER_PREFIX.sub("", found.slot.name).rpartition(".")[0]
        order = family.gguf_row_order(model.config, module)
        if order is not None:
            return weight.select_rows(torch.tensor(order))
    elif family.norm_offset and isinstance(found.slot.module, RMSNorm) and isinstance(weight, Dense):
        weight = Dense(weight.tensor + family.norm_offset)
    return weight
