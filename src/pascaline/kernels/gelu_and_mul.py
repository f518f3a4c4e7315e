"""gelu_and_mul: y = gelu(gate) · up, element by element, with gelu in its tanh form.

gelu(g) = g / 2 · (1 + tanh(√(2/π) · (g + 0.044715 · g³)))
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F

from pascaline.kernels.cpu.native_kernel import native_kernel
from pascaline.kernels.cuda.elementwise import Operation
from pascaline.kernels.gate import gate_kernel, gate_on_cards, gate_op
from pascaline.kernels.op import FP32_ROUNDING, Tolerance


def _tanh(gate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The argument of tanh, and tanh."""
    argument = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    return argument, torch.tanh(argument)


def _bound(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    argument, tanh = _tanh(gate)
    in_tanh = 8 * argument.abs() * (1 - tanh.square()) + 4 * tanh.abs()
    return FP32_ROUNDING * (0.5 * gate * up).abs() * (in_tanh + 5 * (1 + tanh))


OP = gate_op(
    "gelu_and_mul",
    lambda gate: 0.5 * gate * (1 + _tanh(gate)[1]),
    tolerance=Tolerance(
        bound=_bound,
        derivation="in units of u, of |gate · up| / 2: the argument of tanh errs by 8 of itself (three "
        "products of gate, two with rounded constants, and a sum), which tanh passes on times its slope, "
        "1 − tanh², and adds 2 ulp = 4; of a negative gate 1 + tanh cancels, so that these are not "
        "relative to it; the sum with 1, three products and the halving are, 5 in all",
    ),
    source="Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2; Shazeer 2020, arXiv:2002.05202, GEGLU",
)

KERNEL = gate_kernel(OP, functools.partial(F.gelu, approximate="tanh"))

NATIVE = native_kernel(OP)

CUDA = gate_on_cards(OP, Operation.GELU_AND_MUL)
