"""Weights made up in the forms that a checkpoint's directory tells of; none of its data is read."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pascaline.checkpoint.dummy_checkpoint import DummyCheckpoint
from pascaline.formats.destination import IN_MEMORY, Destination
from pascaline.formats.format import Format, StoredRows, StoredWeight
from pascaline.formats.word_packing import SCALE_DTYPES
from pascaline.weights import Dense, Packed, Weight
from pascaline.weights.codes import Codes
from pascaline.weights.random_weights import random_matrix, random_packed
from pascaline.workload.directory import WeightDirectory
from pascaline.workload.stored_weight import StoredLinear, StoredWeightEntry
from pascaline.workload.weight_form import TENSOR_FORMS

_BIAS_DEVIATION = 0.02


@dataclass(frozen=True)
class DummyWeight(StoredWeight):
    """A weight that is made up when it is loaded, on the device: the same each time on such a device.

    Parameters
    ----------
    entry : what the directory says of it, or of the first of several below each other.
    pattern : a weight of the same form, of any size.
    """

    entry: StoredWeightEntry
    pattern: Dense | Packed

    def load(self, to: Destination = IN_MEMORY) -> Weight:
        """The weight: gains are 1, biases small, matrices about 1/√K."""
        generator = torch.Generator(to.device).manual_seed(zlib.crc32(self.names[0].encode()))
        if isinstance(self.pattern, Packed):
            rows, columns = self.shape
            is_permuted = self.form.is_permuted
            return random_packed(self.pattern, rows, columns, generator, is_permuted=is_permuted)
        dtype = self.pattern.tensor.dtype
        if len(self.shape) == 2:
            return Dense(random_matrix(*self.shape, dtype, generator))
        values = torch.ones(self.shape, dtype=dtype, device=to.device)
        if self.names[0].endswith(".bias"):
            values.normal_(std=_BIAS_DEVIATION, generator=generator)
        return Dense(values)

    def joined(self, other: StoredWeight) -> DummyWeight | None:
        if not isinstance(other, DummyWeight) or not self.entry.joins(other.entry):
            return None
        shape = (self.shape[0] + other.shape[0], *self.shape[1:])
        return DummyWeight(self.file, self.names + other.names, shape, self.form, self.entry, self.pattern)


@dataclass(frozen=True)
class DummyReader:
    """As `WeightReader`, of a checkpoint whose data is not read; `formats` are those of single tensors."""

    directory: WeightDirectory
    formats: Mapping[str, Format]

    @classmethod
    def of(cls, checkpoint: DummyCheckpoint, formats: Mapping[str, Format]) -> DummyReader:
        """Errors as `WeightReader.of`."""
        return cls(WeightDirectory.of(checkpoint), formats)

    def locate(self, name: str, shape: tuple[int, ...], interleaved_heads: int | None = None) -> DummyWeight:  # noqa: ARG002 - rows are alike
        """Errors as `WeightReader.locate`."""
        entry = self.directory.locate(name, shape)
        if isinstance(entry, StoredLinear):
            pattern: Dense | Packed = _linear(entry)
        else:
            pattern = _block(self.formats[entry.type_name], max(entry.form.super_size, 1))
        path = self.directory.checkpoint.path
        return DummyWeight(path.name, entry.names, entry.shape, entry.form, entry, pattern)


def _linear(entry: StoredLinear) -> Packed:
    """A row of one group."""
    zero, zeros = entry.zero, None
    if entry.zeros is not None and entry.symmetric:
        zero = 1 << (entry.bits - 1)
    elif entry.zeros is not None:
        zeros = Codes.pack(torch.zeros(1, 1), entry.bits)
    return Packed(
        Codes.pack(torch.zeros(1, entry.group_size), entry.bits),
        entry.group_size,
        entry.group_size,
        torch.ones(1, 1, dtype=SCALE_DTYPES[entry.scale_type]),
        zero=zero,
        zeros=zeros,
    )


def _block(item: Format, elements: int) -> Dense | Packed:
    """A row of one block, all zeros."""
    data = memoryview(bytearray(TENSOR_FORMS[item.type_name].packed_bytes(1, elements)))
    weight = item.load([StoredRows(lambda: data, (1, elements))], IN_MEMORY)
    assert isinstance(weight, Dense | Packed)  # noqa: S101 - as every format gives
    return weight
