"""A matrix product to be measured: y[m, n] = Σₖ x[m, k] · w[n, k], with what tells whether it is right."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from pascaline.core.errors import ConfigError, PascalineError

Backend = Literal["cpu", "cuda"]

LARGEST_AXIS = 1 << 20
_SHAPE = re.compile(r"([0-9]{1,7}),([0-9]{1,7}),([0-9]{1,7})")
SAMPLED_ROWS, SAMPLED_COLUMNS = 16, 256
"""Of y, spread over all of it, are held against fp64."""
SIGMAS = 8.0
"""A sum of independent errors is off by more once in 10¹⁵ elements."""


@dataclass(frozen=True)
class Shape:
    """M rows of x by N rows of w, K long."""

    m: int
    n: int
    k: int

    @property
    def operations(self) -> float:
        """A multiply-add counts 2."""
        return 2.0 * self.m * self.n * self.k

    def __str__(self) -> str:
        return f"{self.m}×{self.n}×{self.k}"


def parse_shape(text: str) -> Shape:
    """ "4352,4096,4096" -> M, N, K.

    Raises
    ------
    ConfigError : it is no such thing, or an axis is 0 or larger than 2²⁰.
    """
    found = _SHAPE.fullmatch(text.replace(" ", ""))
    axes = [int(axis) for axis in found.groups()] if found else []
    if not axes or not all(1 <= axis <= LARGEST_AXIS for axis in axes):
        raise ConfigError(
            f"--shape {text!r:.60}",
            expected=f"M,N,K, each from 1 to {LARGEST_AXIS}",
            remedy="For example: --shape 4352,4096,4096",
        )
    return Shape(*axes)


Rows = Callable[[torch.Tensor], torch.Tensor]
"""Indices, (rows,) int64 -> these rows."""


@dataclass(frozen=True)
class Rounding:
    """Relative errors of one rounding each: of an input, of a sum while it is added up, of the output."""

    inputs: float = 0.0
    sums: float = 0.0
    output: float = 0.0


@dataclass(frozen=True)
class Product:
    """Operands in place, and how they are multiplied.

    Parameters
    ----------
    run : computes `products` products, each with other weights, which no cache holds by then; launches
        them on a GPU and does not wait.
    output : y of the last of these, (M, N).
    x_rows, weight_rows : some rows of x, and of w as the last product has it, (rows, K), fp64, on the CPU:
        as they are after they were rounded to what they are stored in.
    moved_bytes : that one product has to read and write: x, w and y, once.
    bytes_per_weight : that w takes.
    """

    run: Callable[[], None]
    products: int
    output: Callable[[], torch.Tensor]
    x_rows: Rows
    weight_rows: Rows
    rounding: Rounding
    moved_bytes: int
    bytes_per_weight: float


@dataclass(frozen=True)
class Path:
    """One way to multiply: a row of the report for each shape.

    Parameters
    ----------
    precision : what the row is called.
    storage : what weights are held in; the planner's name of it, see hardware/measured.py.
    units : what the multiplications run on, the first that the chip has a limit for.
    algorithm : who does it.
    is_library : it is torch's or numpy's product of dense matrices; else ours.
    make : allocates operands for a shape. `copies` of w, so that they do not stay in a cache.
        UnsupportedError says in words why it cannot.
    """

    precision: str
    storage: str
    units: tuple[str, ...]
    algorithm: str
    is_library: bool
    make: Callable[[Shape, int, torch.Generator], Product]


class WrongProductError(PascalineError):
    """A product differs from fp64 by more than its roundings explain."""


def check(product: Product) -> None:
    """Run the product once and hold a sample of y against fp64.

    x is normal random numbers, so that products have random signs: a sum of k of them is about
    √(k / K) · s, with s = ‖x_m‖ · ‖w_n‖ / √K. K roundings of such sums, independent of each other,
    add up to at most `sums` · √K · s, in standard deviations; those of the inputs to `inputs` · s, that
    of the output to `output` · s. Allowed are `SIGMAS` of these. fp64 is held to the same: the reference
    errs as much again.

    Raises
    ------
    WrongProductError : it is off by more, or not finite.
    """
    product.run()
    y = product.output()
    rows = _spread(y.shape[0], SAMPLED_ROWS)
    columns = _spread(y.shape[1], SAMPLED_COLUMNS)
    x, w = product.x_rows(rows), product.weight_rows(columns)
    seen = y[rows.to(y.device)][:, columns.to(y.device)].cpu().double()
    root_k = math.sqrt(x.shape[1])
    scale = x.norm(dim=1)[:, None] * w.norm(dim=1)[None, :] / root_k
    rounding = product.rounding
    error = (seen - x @ w.T).abs()
    allowed = SIGMAS * (rounding.sums * root_k + rounding.inputs + rounding.output) * scale
    if not bool((error <= allowed).all()):
        worst = float((error / scale.clamp(min=1e-300)).nan_to_num(math.inf).max())
        raise WrongProductError(
            f"wrong by {worst:.2g} of a sum's usual size",
            expected=f"at most {float((allowed / scale).max()):.2g}",
        )


def _spread(size: int, count: int) -> torch.Tensor:
    """Indices from first to last."""
    return torch.linspace(0, size - 1, min(size, count)).round().long()
