"""Placeholder until the kernel's branch is merged."""

from __future__ import annotations

import torch

from pascaline.engine.sampler import Sampled, Samples
from pascaline.engine.sequence import Sequence
from pascaline.kernels.cuda.kernel_set import KernelSet


class _Greedy:
    def __init__(self, host: torch.Tensor, event: torch.cuda.Event, count: int) -> None:
        self._host, self._event, self._count = host, event, count

    def read(self) -> list[Sampled]:
        self._event.synchronize()
        return [Sampled(token) for token in self._host[: self._count].tolist()]


class CardSampler:
    def __init__(self, kernels: KernelSet, max_sequences: int, vocab_size: int) -> None:
        self.ids = torch.zeros(max_sequences, dtype=torch.int64, device=kernels.device)

    def launch(self, logits: torch.Tensor, sequences: list[Sequence]) -> Samples:
        n = len(sequences)
        if n:
            torch.argmax(logits, dim=-1, out=self.ids[:n])
        host = torch.empty(max(n, 1), dtype=torch.int64, pin_memory=True)
        host[:n].copy_(self.ids[:n], non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return _Greedy(host, event, n)
