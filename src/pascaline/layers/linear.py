"""Linear layers over weights in any packing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch

from pascaline.kernels import OPS, Launcher
from pascaline.layers.module import Layer
from pascaline.weights import Dense, Weight

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


class MergedLinear(Layer):
    """Linears of one input: q, k and v, or gate and up.

    Neighbours whose weights are packed alike are one weight, and one launch.

    Parameters
    ----------
    path : of the whole, "model.layers.0.self_attn.qkv_proj".
    parts : rows of each part by its name beside the whole, {"q_proj": 64, …}.
    stored_as_one : the checkpoint holds the whole as one tensor, under `path`, parts in order.
    """

    def __init__(
        self,
        path: str,
        launch: Launcher,
        in_features: int,
        parts: Mapping[str, int],
        *,
        bias: bool = False,
        stored_as_one: bool = False,
    ) -> None:
        super().__init__(path, launch)
        parent = path.rpartition(".")[0]
        self._rows = tuple(parts.values())
        self._stored_as_one = stored_as_one
        self._pieces: list[_Piece] = []
        self._bias: Dense | None = None
        stored = {f"{parent}.{name}": rows for name, rows in parts.items()}
        if stored_as_one:
            stored = {path: sum(self._rows)}
        self.declare_parts("weight", {name: (rows, in_features) for name, rows in stored.items()})
        if bias:
            self.declare_parts("bias", {name: (rows,) for name, rows in stored.items()})

    def receive(self, attribute: str, weights: list[tuple[Weight, int]]) -> None:
        if attribute == "bias":
            self._bias = Dense(torch.cat([cast(Dense, bias).tensor for bias, _ in weights]))
            return
        left = list(self._rows)
        for weight, count in weights:
            rows = [left.pop(0) for _ in range(len(left) if self._stored_as_one else count)]
            start = sum(sum(piece.rows) for piece in self._pieces)
            self._pieces.append(_Piece(weight, rows, start))

    def weights(self) -> list[Weight]:
        return [*(piece.weight for piece in self._pieces), *([] if self._bias is None else [self._bias])]

    def reorder_rows(self, order: torch.Tensor) -> None:
        """Put the rows of every part into another order, (rows of a part,) int64; parts are of one size."""
        for piece in self._pieces:
            starts = torch.arange(len(piece.rows), device=order.device) * len(order)
            piece.weight.reorder_rows((starts[:, None] + order).flatten())
        if self._bias is not None:
            starts = torch.arange(len(self._rows), device=order.device) * len(order)
            self._bias.reorder_rows((starts[:, None] + order).flatten())

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(T, in_features) -> each part's (T, rows), fp32; views of a shared output where merged."""
        parts: list[torch.Tensor] = []
        for piece in self._pieces:
            stop = piece.start + sum(piece.rows)
            bias = None if self._bias is None else self._bias.tensor[piece.start : stop]
            output = self.launch(_LINEAR, self.path, x, piece.weight, bias)
            parts += torch.split(output, piece.rows, dim=1)
        return parts


@dataclass
class _Piece:
    """Parts of a merged linear that are one weight: their numbers of rows, and those of all before."""

    weight: Weight
    rows: list[int]
    start: int
