"""A loaded model that a test steps by hand: any tokens, positions and pages, and all raw logits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

import torch

from pascaline.core.progress import ignore_progress
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.start import start
from pascaline.kernels.policy import Arithmetic
from pascaline.kv.pages import PAGE_SIZE
from pascaline.kv.step_batch import StepBatch


@dataclass(frozen=True)
class Part:
    """A sequence's share of a step: its `tokens` from position `start` on, kept in `pages`."""

    tokens: list[int]
    pages: list[int]
    start: int = 0


class SteppedModel:
    """Weights, pages and runner as the engine makes them, without its scheduler."""

    def __init__(
        self,
        path: Path,
        *,
        pages: int,
        device: Literal["cpu", "cuda"] = "cpu",
        max_model_len: int | None = None,
        arithmetic: Arithmetic = "fp32",
        key_value_dtype: Literal["auto", "fp16", "fp32"] = "auto",
    ) -> None:
        config = EngineConfig(
            str(path),
            device=device,
            pages=pages,
            max_model_len=max_model_len,
            arithmetic=arithmetic,
            key_value_dtype=key_value_dtype,
        )
        self.started = start(config, ignore_progress)
        generator = torch.Generator().manual_seed(3)
        self._shuffled = torch.randperm(pages, generator=generator).tolist()

    def pages_for(self, tokens: int) -> list[int]:
        """Pages that nobody has yet, neighbours apart from each other."""
        return [self._shuffled.pop() for _ in range(-(-tokens // PAGE_SIZE))]

    def step(self, *parts: Part) -> list[torch.Tensor]:
        """Logits of every token of every part, (tokens, V) each."""
        counts = [len(part.tokens) for part in parts]
        positions = [part.start + index for part in parts for index in range(len(part.tokens))]
        slots = [
            part.pages[position // PAGE_SIZE] * PAGE_SIZE + position % PAGE_SIZE
            for part in parts
            for position in range(part.start, part.start + len(part.tokens))
        ]
        width = max(len(part.pages) for part in parts)

        def placed(values: list[int] | list[list[int]], dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype)

        logits = self.started.runner.run(
            StepBatch(
                token_ids=placed([token for part in parts for token in part.tokens], torch.int64),
                positions=placed(positions, torch.int64),
                slots=placed(slots, torch.int64),
                page_table=placed(
                    [part.pages + [0] * (width - len(part.pages)) for part in parts], torch.int32
                ),
                query_start=placed([0, *accumulate(counts)], torch.int32),
                context_lengths=placed([part.start + len(part.tokens) for part in parts], torch.int32),
                logit_rows=placed(list(range(sum(counts))), torch.int64),
            )
        )
        return list(logits.cpu().clone().split(counts))
