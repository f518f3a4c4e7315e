"""Token embedding, and its reuse as the output head."""

from __future__ import annotations

import torch

from pascaline.kernels import OPS, Launcher
from pascaline.layers.module import Layer

_EMBEDDING = OPS["embedding"]


class Embedding(Layer):
    def __init__(self, path: str, launch: Launcher, vocab_size: int, hidden_size: int) -> None:
        super().__init__(path, launch)
        self.weight = self.declare("weight", vocab_size, hidden_size)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(T,) -> (T, hidden_size), fp32."""
        return self.launch(_EMBEDDING, self.path, token_ids, self.weight)
