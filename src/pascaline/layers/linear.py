"""Linear layers over weights in any packing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from pascaline.kernels import OPS, Launcher
from pascaline.layers.module import Layer
from pascaline.weights import Dense, concatenate

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

    Neighbours whose weights are packed alike become one weight, and one launch, once they are loaded.

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
        if stored_as_one:
            pieces = [Linear(path, launch, in_features, sum(parts.values()), bias=bias)]
            self._rows = [list(parts.values())]
        else:
            pieces = [
                Linear(f"{parent}.{name}", launch, in_features, rows, bias=bias)
                for name, rows in parts.items()
            ]
            self._rows = [[rows] for rows in parts.values()]
        self.pieces = nn.ModuleList(pieces)

    def reorder_rows(self, order: torch.Tensor) -> None:
        """Put the rows of every part, all of one size, into another order."""
        for piece, rows in zip(self.pieces, self._rows, strict=True):
            linear = cast(Linear, piece)
            starts = torch.arange(len(rows), device=order.device) * len(order)
            index = (starts[:, None] + order).flatten()
            linear.weight = linear.weight.select_rows(index)
            if linear.bias is not None:
                linear.bias = linear.bias.select_rows(index)

    def settle(self) -> None:
        """Make one piece of neighbours whose weights are packed alike."""
        pieces: list[Linear] = []
        rows: list[list[int]] = []
        for piece, its_rows in zip(self.pieces, self._rows, strict=True):
            linear = cast(Linear, piece)
            joined = concatenate(pieces[-1].weight, linear.weight) if pieces else None
            if joined is None:
                pieces.append(linear)
                rows.append(its_rows)
                continue
            previous = pieces[-1]
            previous.weight, previous.path = joined, self.path
            if linear.bias is not None:
                previous.bias = cast(Dense, previous.bias).concatenate(cast(Dense, linear.bias))
            rows[-1] = rows[-1] + its_rows
        self.pieces = nn.ModuleList(pieces)
        self._rows = rows

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(T, in_features) -> each part's (T, rows), fp32; views of a shared output where merged."""
        return [
            part
            for piece, rows in zip(self.pieces, self._rows, strict=True)
            for part in piece(x).split(rows, dim=1)
        ]
