"""Queries, keys and values as each side wants them, with the same numbers in all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from linears.way import copies_of

from attention.cases import HEAD_DIM, HEADS, KEY_VALUE_HEADS, LEAST_STREAMED_BYTES, SCALE
from pascaline.kernels.cuda.attention_call import PAGE_SIZE

Buffers = dict[str, torch.Tensor | None]


@dataclass(frozen=True)
class Operands:
    """Of sequences of one length.

    Parameters
    ----------
    queries : fp16 (S, N, H, D), the last N tokens of each sequence.
    codes : int8 (2, S, KV, L, D), keys and values.
    scales : fp32 (2, S, KV, L), powers of two: keys and values are scales · codes, which fp16 holds exactly.
    table : int32 (S, W), pages in no order.
    """

    queries: torch.Tensor
    codes: torch.Tensor
    scales: torch.Tensor
    table: torch.Tensor

    @classmethod
    def random(cls, sequences: int, tokens: int, context: int, width: int, device: torch.device) -> Operands:
        """For `tokens` new tokens each; `width` tokens have room in a row of the table."""
        generator = torch.Generator(device).manual_seed(sequences * context + tokens)
        queries = torch.randn(sequences, tokens, HEADS, HEAD_DIM, generator=generator, device=device)
        places = (2, sequences, KEY_VALUE_HEADS, context)
        codes = torch.empty(*places, HEAD_DIM, dtype=torch.int8, device=device)
        codes.random_(-127, 128, generator=generator)
        exponents = torch.randint(-8, -5, places, generator=generator, device=device)
        pages = torch.randperm(sequences * context // PAGE_SIZE, generator=generator, device=device)
        table = torch.zeros(sequences, width // PAGE_SIZE, dtype=torch.int32, device=device)
        table[:, : context // PAGE_SIZE] = pages.view(sequences, -1)
        return cls(queries.half(), codes, torch.exp2(exponents.float()), table)

    @property
    def context(self) -> int:
        return self.codes.shape[3]

    def dense(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, fp16 (S, KV, L, D)."""
        keys, values = ((codes * scales.half()[..., None]) for codes, scales in self._halves())
        return keys, values

    def paged(self, dtype: torch.dtype) -> Buffers:
        """Caches (pages, KV, 16, D) of fp16, or of int8 with scales (pages, KV, 16), by their names."""
        buffers: Buffers = {"key_scales": None, "value_scales": None}
        for name, (codes, scales) in zip(("key", "value"), self._halves(), strict=True):
            if dtype == torch.int8:
                buffers[f"{name}_cache"] = self._in_pages(codes)
                buffers[f"{name}_scales"] = self._in_pages(scales[..., None])[..., 0].contiguous()
            else:
                buffers[f"{name}_cache"] = self._in_pages(codes * scales.half()[..., None])
        return buffers

    def tables(self) -> Buffers:
        """What says whose tokens and pages are whose, and the queries in fp32, by their names."""
        sequences, tokens = self.queries.shape[:2]
        device = self.queries.device
        starts = torch.arange(0, (sequences + 1) * tokens, tokens, dtype=torch.int32, device=device)
        return {
            "query": self.queries.float().flatten(0, 1),
            "page_table": self.table,
            "query_start": starts,
            "context_lengths": torch.full((sequences,), self.context, dtype=torch.int32, device=device),
        }

    def exact(self) -> torch.Tensor:
        """fp64 (S · N, H · D), of causal attention."""
        sequences, tokens = self.queries.shape[:2]
        positions = torch.arange(self.context, device=self.queries.device)
        unseen = positions > positions[self.context - tokens :, None]
        found = torch.empty_like(self.queries, dtype=torch.float64)
        for index in range(sequences):
            for head in range(HEADS):
                shared = head * KEY_VALUE_HEADS // HEADS
                keys, values = (
                    codes[index, shared].double() * scales[index, shared].double()[:, None]
                    for codes, scales in self._halves()
                )
                scores = self.queries[index, :, head].double() @ keys.t() * SCALE
                found[index, :, head] = scores.masked_fill_(unseen, float("-inf")).softmax(-1) @ values
        return found.view(sequences * tokens, -1)

    def _halves(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Codes and scales of keys, and of values."""
        return [(self.codes[which], self.scales[which]) for which in range(2)]

    def _in_pages(self, values: torch.Tensor) -> torch.Tensor:
        """(S, KV, L, X) as (pages, KV, 16, X), where the table says."""
        sequences, heads, context, width = values.shape
        rows = (
            values.view(sequences, heads, context // PAGE_SIZE, PAGE_SIZE, width)
            .transpose(1, 2)
            .flatten(0, 1)
        )
        pages = torch.empty_like(rows, memory_format=torch.contiguous_format)
        pages[self.table[:, : context // PAGE_SIZE].flatten().long()] = rows
        return pages


def copies(buffers: Buffers) -> tuple[list[Buffers], int]:
    """`buffers` and clones of them, so many that no cache keeps one until its next turn; bytes of one."""
    nbytes = sum(tensor.nbytes for tensor in buffers.values() if tensor is not None)
    more = copies_of(nbytes, LEAST_STREAMED_BYTES) - 1
    clones: list[Buffers] = [
        {name: None if tensor is None else tensor.clone() for name, tensor in buffers.items()}
        for _ in range(more)
    ]
    return [buffers, *clones], nbytes
