"""Integers in 32-bit words, as the tools that write safetensors pack them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pascaline.formats.destination import Destination
from pascaline.weights.codes import packed_fields

SCALE_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_DTYPES = SCALE_DTYPES | {"I32": torch.int32, "I8": torch.int8}


def tensor_of(data: memoryview, type_name: str, shape: tuple[int, ...], to: Destination) -> torch.Tensor:
    """A tensor's bytes as they lie in the file: to be copied before the file is closed."""
    return to.bring(data).view(_DTYPES[type_name]).reshape(shape)


def unpack_rows(words: torch.Tensor, bits: int) -> torch.Tensor:
    """(R · bits / 32, N) int32, a bit stream down each column -> (R, N) uint8.

    3-bit fields cross words: 32 of them fill 3.
    """
    # Fields of 2, 4 and 8 bits fill words one by one: 48 rows of 4 bits are 6 words.
    count, length = (32, 3) if bits == 3 else (32 // bits, 1)
    mask = (1 << bits) - 1
    streams = words.view(-1, length, words.shape[1])
    rows = torch.empty((len(streams), count, words.shape[1]), dtype=torch.uint8, device=words.device)
    for field in range(count):
        word, shift = divmod(field * bits, 32)
        value = streams[:, word] >> shift
        if shift + bits > 32:
            # The arithmetic shift of a negative word brings ones in from the left.
            value = (value & ((1 << (32 - shift)) - 1)) | (streams[:, word + 1] << (32 - shift))
        rows[:, field] = value & mask
    return rows.flatten(0, 1)


def pack_columns(values: torch.Tensor, bits: int, planes: Sequence[torch.Tensor]) -> None:
    """Codes (K, N) uint8, a row an input feature, to planes (N, bytes): a bit stream along each row.

    K is a multiple of 8, so that rows end with bytes.
    """
    for plane, packed in zip(planes, packed_fields(values, bits), strict=True):
        plane.copy_(packed.t())
