"""silu_and_mul: y = gate · sigmoid(gate) · up, element by element."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pascaline.kernels.cpu.native_kernel import native_kernel
from pascaline.kernels.cuda.elementwise import Operation
from pascaline.kernels.gate import gate_kernel, gate_on_cards, gate_op
from pascaline.kernels.op import FP32_ROUNDING, Tolerance


def _silu(gate: torch.Tensor) -> torch.Tensor:
    return gate * torch.sigmoid(gate)


OP = gate_op(
    "silu_and_mul",
    _silu,
    tolerance=Tolerance(
        bound=lambda gate, up: FP32_ROUNDING * 8 * (_silu(gate) * up).abs() + 2.0**-120 * up.abs(),
        derivation="exp (2 ulp = 4 · u), addition, division and two products, each within u; below a "
        "gate of −88.7 exp overflows, and zero stands for less than 89 · exp(−88.7) < 2⁻¹²⁰",
    ),
    source="Shazeer 2020, arXiv:2002.05202, SwiGLU",
)

KERNEL = gate_kernel(OP, F.silu)

NATIVE = native_kernel(OP)

CUDA = gate_on_cards(OP, Operation.SILU_AND_MUL)
