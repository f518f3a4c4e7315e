"""The gated feed-forward block: down(activation(gate(x)) · up(x))."""

from __future__ import annotations

import torch

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.kernels import OPS, Launcher
from pascaline.layers.linear import Linear, MergedLinear
from pascaline.layers.module import Layer
from pascaline.weights import Packed
from pascaline.workload.step import GATE_OPS


class GatedMLP(Layer):
    """`stored_as_one`: the checkpoint holds gate and up as one tensor, gate_up_proj."""

    def __init__(self, path: str, launch: Launcher, config: ModelConfig, *, stored_as_one: bool) -> None:
        super().__init__(path, launch)
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate = OPS[GATE_OPS[config.hidden_act]]
        self.gate_up_proj = MergedLinear(
            f"{path}.gate_up_proj",
            launch,
            hidden,
            {"gate_proj": inner, "up_proj": inner},
            bias=bias,
            stored_as_one=stored_as_one,
        )
        self.down_proj = Linear(f"{path}.down_proj", launch, inner, hidden, bias=bias)

    def settle(self) -> None:
        """Fold act-order: where down takes its inputs in another order, gate and up give them so."""
        down = self.down_proj.weight
        if isinstance(down, Packed) and down.permutation is not None:
            self.gate_up_proj.reorder_rows(down.permutation.long())
            self.down_proj.weight = down.without_permutation()
        super().settle()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.launch(self.gate, self.path, *self.gate_up_proj(x))
        down: torch.Tensor = self.down_proj(activated)
        return down
