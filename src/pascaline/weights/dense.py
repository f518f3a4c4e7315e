"""A weight kept as the checkpoint stored it: fp32, fp16 or bf16."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Dense:
    """Element values as they are; `tensor` is (N, K) or (N,), in its stored dtype.

    bf16 stays bf16 on every chip: widening to fp32 is a 16-bit shift, exact and cheap, while
    bf16 to fp16 loses range.
    """

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def resident_bytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()

    def dequantise(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Write rows `start`…`stop` to `out`, (stop − start, K), fp32 or fp64; widening is exact."""
        out.copy_(self.tensor[start:stop])

    def gather(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Write the rows whose indices are in `rows` (T,) to `out`, (T, K), fp32."""
        out.copy_(self.tensor.index_select(0, rows))

    def reorder_rows(self, order: torch.Tensor) -> None:
        """Put the rows into another order, in place: row i becomes what was row order[i]."""
        self.tensor.copy_(self.tensor.index_select(0, order))

    def to(self, device: torch.device) -> Dense:
        return Dense(self.tensor.to(device))
