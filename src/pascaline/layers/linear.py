"""Linear layers over weights in any packing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
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
        self._rows = list(parts.values())
        stored = {path: sum(self._rows)} if stored_as_one else {}
        stored = stored or {f"{parent}.{name}": rows for name, rows in parts.items()}
        self._stored_rows = list(stored.values())
        self._pieces: list[_Piece] = []
        self._bias: Dense | None = None
        self.declare_parts("weight", {name: (rows, in_features) for name, rows in stored.items()})
        if bias:
            self.declare_parts("bias", {name: (rows,) for name, rows in stored.items()})

    def receive(self, attribute: str, weights: list[tuple[Weight, int]]) -> None:
        if attribute == "bias":
            self._bias = Dense(torch.cat([cast(Dense, bias).tensor for bias, _ in weights]))
            return
        stored_rows, start = iter(self._stored_rows), 0
        for weight, count in weights:
            stop = start + sum(islice(stored_rows, count))
            self._pieces.append(_Piece(weight, start, stop))
            start = stop

    def weights(self) -> list[Weight]:
        return [*(piece.weight for piece in self._pieces), *([] if self._bias is None else [self._bias])]

    def reorder_rows(self, order: torch.Tensor) -> None:
        """Put the rows of every part, all of one size, into another order (rows of a part,) int64."""
        starts = torch.arange(len(self._rows), device=order.device) * len(order)
        whole = (starts[:, None] + order).flatten()
        self._pieces = [
            replace(piece, weight=piece.weight.select_rows(whole[piece.start : piece.stop] - piece.start))
            for piece in self._pieces
        ]
        self._bias = None if self._bias is None else self._bias.select_rows(whole)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(T, in_features) -> each part's (T, rows), fp32; views of a shared output where merged."""
        outputs = [
            self.launch(
                _LINEAR,
                self.path,
                x,
                piece.weight,
                None if self._bias is None else self._bias.tensor[piece.start : piece.stop],
            )
            for piece in self._pieces
        ]
        if len(outputs) == len(self._rows):
            return outputs
        parts, rest = [], iter(self._rows)
        for output in outputs:
            left = output
            while left.shape[1]:
                rows = next(rest)
                parts.append(left[:, :rows])
                left = left[:, rows:]
        return parts


@dataclass(frozen=True)
class _Piece:
    """Rows `start`…`stop` of a merged linear, in one weight: whole parts."""

    weight: Weight
    start: int
    stop: int
