"""RMS normalisation."""

from __future__ import annotations

import torch

from pascaline.kernels import OPS, Launcher
from pascaline.layers.module import Layer

_RMS_NORM = OPS["rms_norm"]
_HEAD_NORM = OPS["head_norm"]


class RMSNorm(Layer):
    def __init__(self, path: str, launch: Launcher, hidden_size: int, epsilon: float) -> None:
        super().__init__(path, launch)
        self.epsilon = epsilon
        self.weight = self.declare("weight", hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(T, hidden_size) -> the same, fp32."""
        return self.launch(_RMS_NORM, self.path, x, self.weight, epsilon=self.epsilon)

    def of_each_head(self, x: torch.Tensor) -> torch.Tensor:
        """(T, heads, hidden_size) -> the same, fp32, where hidden_size is a head's."""
        return self.launch(_HEAD_NORM, self.path, x, self.weight, epsilon=self.epsilon)
