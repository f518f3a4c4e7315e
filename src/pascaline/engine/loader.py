"""Checkpoint -> weights in the model's slots."""

from __future__ import annotations

import re

import torch

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ProgressCallback, Stage
from pascaline.formats import format_of
from pascaline.layers.module import WeightSlot
from pascaline.models import Decoder, family_of, gguf_name
from pascaline.weights import Dense, Weight

EXPECTED_BYTES_PER_S = 1.0e9
"""First guess at the rate of loading, until some of it has been measured."""

GGUF_ROPE_FACTORS = "rope_freqs.weight"
_LAYER_PREFIX = re.compile(r"^model\.layers\.\d+\.")


def file_name(checkpoint: Checkpoint, slot: WeightSlot) -> str:
    """The checkpoint's own name for the tensor of a slot."""
    return gguf_name(slot.name) if checkpoint.container == "gguf" else slot.name


def check_tensors(model: Decoder, checkpoint: Checkpoint) -> None:
    """Every slot has a tensor of its shape, in a format that we read.

    Raises
    ------
    CheckpointError : a tensor is missing or has another shape.
    UnsupportedError : a tensor's format is not among ours.
    """
    for slot in model.weight_slots():
        name = file_name(checkpoint, slot)
        entry = checkpoint.tensors.get(name)
        if entry is None:
            raise CheckpointError(
                f"{checkpoint.path.name} has no tensor {name!r}",
                expected=f"{model.config.num_hidden_layers} complete layers of {model.config.model_type!r}",
                remedy="The file may be incomplete: fetch it again",
            )
        if entry.shape != slot.shape:
            raise CheckpointError(
                f"{checkpoint.path.name}: tensor {name!r} has shape {list(entry.shape)}",
                expected=f"{list(slot.shape)} from the model's configuration",
            )
        format_of(checkpoint, name)


def planned_bytes(model: Decoder, checkpoint: Checkpoint) -> int:
    """What `load_weights` will keep resident, from the file's directory alone."""
    total = 0
    for slot in model.weight_slots():
        *rows, columns = slot.shape
        name = file_name(checkpoint, slot)
        total += rows[0] * format_of(checkpoint, name).bytes_per_row(columns) if rows else 4 * columns
    return total


def load_weights(
    model: Decoder, checkpoint: Checkpoint, device: torch.device, report: ProgressCallback
) -> int:
    """Fill all slots, tensor by tensor; returns the bytes that the weights keep resident."""
    slots = list(model.weight_slots())
    names = [file_name(checkpoint, slot) for slot in slots]
    total = sum(checkpoint.tensors[name].nbytes for name in names)
    resident = 0
    with Stage(report, "loading weights", total, "bytes", total / EXPECTED_BYTES_PER_S) as stage:
        for slot, name in zip(slots, names, strict=True):
            weight = _load(model, checkpoint, slot, name).to(device)
            slot.fill(weight)
            resident += weight.resident_bytes
            checkpoint.release(name)
            stage.advance(checkpoint.tensors[name].nbytes)
    return resident


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
    weight = format_of(checkpoint, GGUF_ROPE_FACTORS).load(checkpoint.read(GGUF_ROPE_FACTORS), entry.shape)
    factors = torch.empty(entry.shape)
    weight.dequantise(0, rotary_dimensions, factors)
    if not (factors.isfinite() & (factors > 0)).all():
        raise CheckpointError(
            f"{checkpoint.path.name}: tensor {GGUF_ROPE_FACTORS!r} has zeros, negative or infinite numbers",
            expected="divisors of the rotary frequencies",
        )
    return factors


def _load(model: Decoder, checkpoint: Checkpoint, slot: WeightSlot, name: str) -> Weight:
    entry = checkpoint.tensors[name]
    weight = format_of(checkpoint, name).load(checkpoint.read(name), entry.shape)
    if len(slot.shape) == 1 and isinstance(weight, Dense):
        # Norm gains and biases are a few kilobytes: widened once, not at every step.
        weight = Dense(weight.tensor.float())
    if checkpoint.container == "gguf":
        module = _LAYER_PREFIX.sub("", slot.name).rpartition(".")[0]
        order = family_of(model.config).gguf_row_order(model.config, module)
        if order is not None:
            return weight.select_rows(torch.tensor(order))
    return weight
