"""The memory behind the pages."""

from __future__ import annotations

import math
import mmap

import torch

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.kv.pages import PAGE_SIZE, page_bytes


class KeyValueCache:
    """Keys and values of all pages: two tensors a layer, each (pages, PAGE_SIZE, KV, D).

    Their memory is page by page and head by head, as attention reads it: a head's tokens one after the
    other, (pages, KV, PAGE_SIZE, D), but with `for_native` its keys element by element, (pages, KV, D,
    PAGE_SIZE), which the native CPU kernels read fastest. Plain torch takes any order.

    Of int8 they are codes, and `key_scales` and `value_scales` (pages, KV, PAGE_SIZE) in fp32 say what those
    are multiplied with; of other types there are None.
    """

    def __init__(
        self,
        config: ModelConfig,
        pages: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        for_native: bool = False,
    ) -> None:
        heads, size = config.num_key_value_heads, config.head_dim
        layers = range(config.num_hidden_layers)
        by_element, by_token = (pages, heads, size, PAGE_SIZE), (pages, heads, PAGE_SIZE, size)
        if for_native:
            self.keys = [_zeros(by_element, dtype, device).permute(0, 3, 1, 2) for _ in layers]
        else:
            self.keys = [_zeros(by_token, dtype, device).transpose(1, 2) for _ in layers]
        self.values = [_zeros(by_token, dtype, device).transpose(1, 2) for _ in layers]
        self.key_scales, self.value_scales = (
            [_zeros(by_token[:3], torch.float32, device) if dtype == torch.int8 else None for _ in layers]
            for _ in range(2)
        )
        self.bytes = pages * page_bytes(config, dtype.itemsize)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    # Zeros, not empty: padding of a page table is read (and masked), and must be finite.
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # A mapping of its own: pages of memory that the system provides when they are first touched.
    # torch.zeros writes them all, 2.8 GiB for the demo, and so does calloc where it has freed memory at hand.
    nbytes = math.prod(shape) * dtype.itemsize
    memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=torch.uint8)[:nbytes].view(dtype).view(shape)
