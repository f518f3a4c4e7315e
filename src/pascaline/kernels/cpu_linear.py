"""cpu.linear: the linear of native code, packed weights by 8-bit activations.

x is rounded to signed bytes, one scale dx = max|x| / 127 for 32 neighbours of what the weight stores;
products of bytes are added as integers, which is exact, and those sums in fp32 in an order that depends
on the weight alone. A row's result has the same bits whatever rows are beside it, on any number of
threads. Packed weights are in tiles: see weights/tiled.py and cpu/plan.h. Dense weights are multiplied
in fp32, in a fixed order too.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from pascaline.kernels import linear
from pascaline.kernels.cpu.native_kernel import native_kernel
from pascaline.kernels.cpu.tiling import tile
from pascaline.kernels.op import FP32_ROUNDING, Tolerance, summation_error
from pascaline.weights import Dense, Packed, Slabbed, Tiled, Weight
from pascaline.weights.tiled import stored_inputs
from pascaline.workload.weight_form import TILE_COLUMNS


def _rounding_of_x(x: torch.Tensor, weight: Packed | Tiled) -> torch.Tensor:
    """dx / 2 of each element of x, in x's order."""
    inputs = stored_inputs(weight) if isinstance(weight, Packed) else weight.inputs
    if inputs is None:
        inputs = torch.arange(x.shape[1])
    stored = F.pad(x.abs(), (0, 1))[:, inputs]  # −1 is the column of zeros
    blocks = stored.view(len(x), len(inputs) // TILE_COLUMNS, TILE_COLUMNS)
    # 1 + 2⁻¹³: x / dx is up to 127, and errs by three roundings before it becomes an integer.
    half = (blocks.amax(2, keepdim=True) / 254 * (1 + 2.0**-13)).expand_as(blocks).flatten(1)
    used = inputs >= 0
    return torch.empty_like(x).index_copy_(1, inputs[used].long(), half[:, used])


def _bound(x: torch.Tensor, weight: Weight, bias: torch.Tensor | None) -> torch.Tensor:
    if isinstance(weight, Dense):
        in_fp32: torch.Tensor = linear.OP.tolerance.bound(x, weight, bias)
        return in_fp32
    assert not isinstance(weight, Slabbed)  # noqa: S101 - weights on the CPU are packed, or in tiles
    rounding = _rounding_of_x(x, weight)
    values = linear.dense(weight, x.dtype)
    parts = values.abs()
    if weight.offsets is not None or weight.zeros is not None:
        products = linear.dense(replace(weight, offsets=None, group_offsets=None, zeros=None), x.dtype)
        parts = products.abs() + (products - values).abs()
    total = (x.abs() + rounding) @ parts.T
    if bias is not None:
        total = total + bias.to(x.dtype).abs()
    return rounding @ values.abs().T + FP32_ROUNDING * (summation_error(x.shape[1]) + 7) * total


NATIVE = native_kernel(
    linear.OP,
    arithmetic="int8",
    prepare=lambda weight: tile(weight) if isinstance(weight, Packed) else weight,
    tolerance=Tolerance(
        bound=_bound,
        derivation="dense weights: the op's own. Packed: rounding x to multiples of dx errs by dx / 2 an "
        "element, Σ|w| · dx / 2 in all; what follows is exact but for fp32 roundings of dx, of D · a · dx, "
        "of O = D · a · zeros + E · b and dx · Σx (7 in all with the bias), and the sum, in units of "
        "u · (Σ|x|·(|D · a · (q − zero)| + |O|) + |bias|)",
    ),
)
