"""The gated feed-forward block: down(silu(gate(x)) · up(x))."""

from __future__ import annotations

import torch

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.kernels import OPS, Launcher
from pascaline.layers.linear import Linear, MergedLinear
from pascaline.layers.module import Layer

_SILU_AND_MUL = OPS["silu_and_mul"]


class GatedMLP(Layer):
    def __init__(self, path: str, launch: Launcher, config: ModelConfig) -> None:
        super().__init__(path, launch)
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_up_proj = MergedLinear(
            f"{path}.gate_up_proj", launch, hidden, {"gate_proj": inner, "up_proj": inner}, bias=bias
        )
        self.down_proj = Linear(f"{path}.down_proj", launch, inner, hidden, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.launch(_SILU_AND_MUL, self.path, *self.gate_up_proj(x))
        down: torch.Tensor = self.down_proj(activated)
        return down
