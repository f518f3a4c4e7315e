"""Quantised linears in the tensors that GPTQ, AWQ and compressed-tensors checkpoints keep them in.

Written from the formats' definitions, with numpy's bit packing only, in both directions. A code is
an unsigned integer q of `bits` bits, a zero an integer z on the same scale, and the weight is
(q − z) · scale. That these packers and the tools agree is tested on files that the tools wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray

Integers = NDArray[numpy.int64]
Tensors = dict[str, torch.Tensor]

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring outputs each field of an AWQ word holds, lowest field first."""


@dataclass(frozen=True)
class QuantisedLinear:
    """`codes` (N, K), `zeros` and `scales` (N, groups), `group_of_input` (K,)."""

    bits: int
    codes: Integers
    zeros: Integers
    scales: torch.Tensor
    group_of_input: Integers

    def dequantised(self) -> torch.Tensor:
        """(N, K), fp32: one rounding, and none for scales of 16 bits."""
        steps = self.codes - self.zeros[:, self.group_of_input]
        return torch.from_numpy(steps).float() * self.scales.float()[:, self.group_of_input]


def round_to_nearest(
    weight: torch.Tensor,
    bits: int,
    group_of_input: Integers,
    *,
    symmetric: bool,
    zeros: tuple[int, int],
    scale_dtype: torch.dtype = torch.float16,
) -> QuantisedLinear:
    """Quantise (N, K) values; `zeros` is the range, last included, that the format can store.

    Where zeros are free, every eighth row has the smallest one and its neighbour the largest: in
    random weights they would not occur.
    """
    values = weight.detach().double().numpy()
    largest, groups = (1 << bits) - 1, int(group_of_input.max()) + 1
    scales = torch.empty(len(values), groups, dtype=scale_dtype)
    chosen = numpy.full((len(values), groups), 1 << (bits - 1))
    for group in range(groups):
        members = values[:, group_of_input == group]
        low, high = numpy.minimum(members.min(1), 0), numpy.maximum(members.max(1), 0)
        step = 2 * numpy.abs(members).max(1) / largest if symmetric else (high - low) / largest
        scales[:, group] = torch.from_numpy(step).to(scale_dtype)
        if not symmetric:
            chosen[:, group] = numpy.clip(numpy.rint(-low / scales[:, group].double().numpy()), *zeros)
            chosen[1::8, group], chosen[2::8, group] = zeros
    steps = numpy.rint(values / scales.double().numpy()[:, group_of_input])
    codes = numpy.clip(steps + chosen[:, group_of_input], 0, largest).astype(numpy.int64)
    return QuantisedLinear(bits, codes, chosen, scales, group_of_input)


def pack_gptq(linear: QuantisedLinear, version: int = 1) -> Tensors:
    """`version` 1 stores zeros less one, 2 as they are."""
    return {
        "qweight": _words(linear.codes, linear.bits).t().contiguous(),
        "qzeros": _words(linear.zeros.T - (2 - version), linear.bits),
        "scales": linear.scales.t().contiguous(),
        "g_idx": torch.from_numpy(linear.group_of_input).int(),
    }


def unpack_gptq(tensors: Mapping[str, torch.Tensor], version: int = 1) -> QuantisedLinear:
    inputs = len(tensors["g_idx"])
    bits = tensors["qweight"].shape[0] * 32 // inputs
    return QuantisedLinear(
        bits,
        _fields(tensors["qweight"].t(), bits, inputs),
        _fields(tensors["qzeros"], bits, tensors["scales"].shape[1]).T + (2 - version),
        tensors["scales"].t(),
        tensors["g_idx"].long().numpy(),
    )


def pack_awq(linear: QuantisedLinear) -> Tensors:
    def interleaved(values: Integers) -> torch.Tensor:
        rows = values.T.reshape(values.shape[1], -1, 8)[:, :, list(AWQ_ORDER)]
        return _words(rows.reshape(values.shape[1], -1), 4)

    return {
        "qweight": interleaved(linear.codes),
        "qzeros": interleaved(linear.zeros),
        "scales": linear.scales.t().contiguous(),
    }


def unpack_awq(tensors: Mapping[str, torch.Tensor]) -> QuantisedLinear:
    inputs, (groups, outputs) = len(tensors["qweight"]), tensors["scales"].shape

    def ordered(words: torch.Tensor) -> Integers:
        fields = _fields(words, 4, outputs).reshape(len(words), -1, 8)
        return fields[:, :, numpy.argsort(AWQ_ORDER)].reshape(len(words), -1).T

    order = numpy.arange(inputs) // (inputs // groups)
    codes, zeros = ordered(tensors["qweight"]), ordered(tensors["qzeros"])
    return QuantisedLinear(4, codes, zeros, tensors["scales"].t(), order)


def pack_compressed_tensors(
    linear: QuantisedLinear, *, symmetric: bool, act_order: bool, unpacked_zeros: bool = False
) -> Tensors:
    """`unpacked_zeros`: one signed byte each, as releases before 0.9.4 left them."""
    tensors = {
        "weight_packed": _words(linear.codes, linear.bits),
        "weight_scale": linear.scales,
        "weight_shape": torch.tensor(linear.codes.shape),
    }
    if not symmetric:
        tensors["weight_zero_point"] = (
            torch.from_numpy(linear.zeros - (1 << (linear.bits - 1))).to(torch.int8)
            if unpacked_zeros
            else _words(linear.zeros.T, linear.bits).t().contiguous()
        )
    if act_order:
        tensors["weight_g_idx"] = torch.from_numpy(linear.group_of_input).int()
    return tensors


def unpack_compressed_tensors(tensors: Mapping[str, torch.Tensor]) -> QuantisedLinear:
    outputs, inputs = tensors["weight_shape"].tolist()
    scales = tensors["weight_scale"]
    bits = tensors["weight_packed"].shape[1] * 32 // inputs
    zero = tensors.get("weight_zero_point")
    if zero is None:
        zeros = numpy.full(tuple(scales.shape), 1 << (bits - 1))
    elif zero.dtype == torch.int8:
        zeros = zero.long().numpy() + (1 << (bits - 1))
    else:
        zeros = _fields(zero.t(), bits, outputs).T
    order = tensors.get("weight_g_idx", torch.arange(inputs) // (inputs // scales.shape[1])).long().numpy()
    return QuantisedLinear(bits, _fields(tensors["weight_packed"], bits, inputs), zeros, scales, order)


def _words(fields: Integers, bits: int) -> torch.Tensor:
    """(R, count) -> (R, ⌈count · bits / 32⌉) int32: each row a little-endian bit stream."""
    assert fields.min() >= 0
    assert fields.max() < 1 << bits
    stream = (fields[:, :, None] >> numpy.arange(bits)) & 1
    raw = numpy.packbits(stream.reshape(len(fields), -1).astype(numpy.uint8), axis=1, bitorder="little")
    return torch.from_numpy(numpy.pad(raw, ((0, 0), (0, -raw.shape[1] % 4))).view("<i4"))


def _fields(words: torch.Tensor, bits: int, count: int) -> Integers:
    """The first `count` fields of each row's bit stream, (R, count)."""
    raw = words.contiguous().numpy().view(numpy.uint8)
    stream = numpy.unpackbits(raw, axis=1, count=count * bits, bitorder="little")
    return (stream.reshape(len(raw), count, bits).astype(numpy.int64) << numpy.arange(bits)).sum(2)
