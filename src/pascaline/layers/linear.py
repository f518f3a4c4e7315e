"""A linear layer over a weight in any packing."""

from __future__ import annotations

from typing import cast

import torch

from pascaline.kernels import OPS, Launcher
from pascaline.layers.module import Layer
from pascaline.weights import Dense

_LINEAR = OPS["linear"]


class Linear(Layer):
    def __init__(
        self, path: str, launch: Launcher, in_features: int, out_features: int, *, bias: bool = False
    ) -> None:
        super().__init__(path, launch)
        self.weight = self.declare("weight", out_features, in_features)
        self.bias = self.declare("bias", out_features) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(T, in_features) -> (T, out_features), fp32."""
        bias = None if self.bias is None else cast(Dense, self.bias).tensor
        return self.launch(_LINEAR, self.path, x, self.weight, bias)
