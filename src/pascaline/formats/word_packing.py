"""Integers in 32-bit words, as the tools that write safetensors pack them."""

from __future__ import annotations

import numpy
import torch

from pascaline.weights.codes import Codes, Plane

SCALE_TYPES = ("F16", "BF16", "F32")
_ALIGNMENT = 8
_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "I32": torch.int32,
    "I8": torch.int8,
}


def tensor_of(data: memoryview, type_name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor's bytes as they lie in the file: to be copied before the file is closed."""
    raw = numpy.frombuffer(data, numpy.uint8)
    if raw.ctypes.data % _ALIGNMENT:
        raw = raw.copy()
    return torch.from_numpy(raw).view(_DTYPES[type_name]).reshape(shape)


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    """A transposed copy: `contiguous()` would hand a tensor of one row through, file and all."""
    return tensor.t().clone(memory_format=torch.contiguous_format)


def unpack_rows(words: torch.Tensor, bits: int) -> torch.Tensor:
    """(R · bits / 32, N) int32, a bit stream down each column -> (R, N) uint8.

    3-bit fields cross words: 32 of them fill 3.
    """
    # Fields of 2, 4 and 8 bits fill words one by one: 48 rows of 4 bits are 6 words.
    count, length = (32, 3) if bits == 3 else (32 // bits, 1)
    mask = (1 << bits) - 1
    streams = words.view(-1, length, words.shape[1])
    rows = torch.empty((len(streams), count, words.shape[1]), dtype=torch.uint8)
    for field in range(count):
        word, shift = divmod(field * bits, 32)
        value = streams[:, word] >> shift
        if shift + bits > 32:
            # The arithmetic shift of a negative word brings ones in from the left.
            value = (value & ((1 << (32 - shift)) - 1)) | (streams[:, word + 1] << (32 - shift))
        rows[:, field] = value & mask
    return rows.flatten(0, 1)


def transposed_codes(words: torch.Tensor, bits: int) -> Codes:
    """(K · bits / 32, N) int32, a bit stream down each column -> codes (N, K), for 2, 4 and 8 bits.

    No field crosses a word, so that whole words change places and nothing is unpacked.
    """
    rows = transposed(words).view(torch.uint8)
    return Codes(words.shape[0] * 32 // bits, (Plane(bits, 8 // bits, rows),))
