"""Linear layers over weights in any packing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        [(weight, bias)] = self.products()
        return self.launch(_LINEAR, self.path, x, weight, bias)

    def products(self) -> list[tuple[Weight, torch.Tensor | None]]:
        """The weight and bias of each launch."""
        return [(self.weight, None if self.bias is None else cast(Dense, self.bias).tensor)]


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
        # Weights, each with the rows of the parts that it is made of.
        self._pieces: list[tuple[Weight, list[int]]] = []
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
        rows = iter(self._rows)
        for weight, count in weights:
            parts = list(rows) if self._stored_as_one else list(islice(rows, count))
            self._pieces.append((weight, parts))

    def weights(self) -> list[Weight]:
        return [*(weight for weight, _ in self._pieces), *([] if self._bias is None else [self._bias])]

    def replace_weights(self, change: Callable[[Weight], Weight]) -> None:
        for index, (weight, rows) in enumerate(self._pieces):
            self._pieces[index] = change(weight), rows

    def reorder_rows(self, order: torch.Tensor) -> None:
        """Put the rows of every part into another order, (rows of a part,) int64; parts are of one size."""
        for weight in self.weights():
            parts = weight.shape[0] // len(order)
            starts = torch.arange(parts, device=order.device) * len(order)
            weight.reorder_rows((starts[:, None] + order).flatten())

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(T, in_features) -> each part's (T, rows), fp32; views of a shared output where merged."""
        parts: list[torch.Tensor] = []
        for (weight, bias), (_, rows) in zip(self.products(), self._pieces, strict=True):
            parts += torch.split(self.launch(_LINEAR, self.path, x, weight, bias), rows, dim=1)
        return parts

    def products(self) -> list[tuple[Weight, torch.Tensor | None]]:
        """The weight and bias of each launch."""
        found: list[tuple[Weight, torch.Tensor | None]] = []
        start = 0
        for weight, _ in self._pieces:
            stop = start + weight.shape[0]
            found.append((weight, None if self._bias is None else self._bias.tensor[start:stop]))
            start = stop
        return found
