"""The gated feed-forward block: down(silu(gate(x)) · up(x))."""

from __future__ import annotations

import torch

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.kernels import OPS, Launcher
from pascaline.layers.linear import Linear
from pascaline.layers.module import Layer

_SILU_AND_MUL = OPS["silu_and_mul"]


class GatedMLP(Layer):
    def __init__(self, path: str, launch: Launcher, config: ModelConfig) -> None:
        super().__init__(path, launch)
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(f"{path}.gate_proj", launch, hidden, inner, bias=bias)
        self.up_proj = Linear(f"{path}.up_proj", launch, hidden, inner, bias=bias)
        self.down_proj = Linear(f"{path}.down_proj", launch, inner, hidden, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.launch(_SILU_AND_MUL, self.path, self.gate_proj(x), self.up_proj(x))
        down: torch.Tensor = self.down_proj(activated)
        return down
