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
