"""One step's input: new tokens of several sequences, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepBatch:
    """T new tokens of S sequences; all tensors on the model's device.

    `token_ids`, `positions` (T,) int64; `slots` (T,) int64: where each token's key and value go
    (page · PAGE_SIZE + offset); `page_table` (S, W) int32, padded with page 0; `query_start`
    (S + 1,) int32: first row of each sequence; `context_lengths` (S,) int32: tokens of each
    sequence including the new ones; `logit_rows` (R,) int64: rows whose next-token logits are
    wanted.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    page_table: torch.Tensor
    query_start: torch.Tensor
    context_lengths: torch.Tensor
    logit_rows: torch.Tensor

    @staticmethod
    def of_sizes(tokens: int, sequences: int, pages: int) -> StepBatch:
        """Zeros on the CPU, for as many tokens, sequences and pages a sequence; logits of every token."""

        def zeros(dtype: torch.dtype, *shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype)

        return StepBatch(
            token_ids=zeros(torch.int64, tokens),
            positions=zeros(torch.int64, tokens),
            slots=zeros(torch.int64, tokens),
            page_table=zeros(torch.int32, sequences, pages),
            query_start=zeros(torch.int32, sequences + 1),
            context_lengths=zeros(torch.int32, sequences),
            logit_rows=zeros(torch.int64, tokens),
        )
