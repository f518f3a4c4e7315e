"""gelu_and_mul: y = gelu(gate) · up, element by element, with gelu in its tanh form.

gelu(g) = g / 2 · (1 + tanh(√(2/π) · (g + 0.044715 · g³)))
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import FP32_ROUNDING, Case, Op, Operand, Tolerance


def _tanh(gate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The argument of tanh, and tanh."""
    argument = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    return argument, torch.tanh(argument)


def reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return 0.5 * gate * (1 + _tanh(gate)[1]) * up


def launch(
    gate: torch.Tensor,
    up: torch.Tensor,
    *,
    out: torch.Tensor,
    workspace: Workspace,
) -> None:
    torch.mul(F.gelu(gate, approximate="tanh"), up, out=out)


def _bound(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    argument, tanh = _tanh(gate)
    in_tanh = 8 * argument.abs() * (1 - tanh.square()) + 4 * tanh.abs()
    return FP32_ROUNDING * (0.5 * gate * up).abs() * (in_tanh + 5 * (1 + tanh))


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    shape = (case.axes["T"], case.axes["C"])
    scale = 100.0 if case.name == "extreme" else 4.0
    return torch.randn(shape, generator=generator) * scale, torch.randn(shape, generator=generator)


OP = Op(
    name="gelu_and_mul",
    axes={"T": "tokens", "C": "intermediate size"},
    inputs={"gate": Operand(("T", "C")), "up": Operand(("T", "C"))},
    output=Operand(("T", "C")),
    reference=reference,
    flop=lambda sizes: {"fp32": 10.0 * sizes["T"] * sizes["C"]},
    cases=(
        Case("one row", {"T": 1, "C": 1536}),
        Case("ragged", {"T": 7, "C": 33}),
        Case("extreme", {"T": 3, "C": 200}),
    ),
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=_bound,
        derivation="in units of u, of |gate · up| / 2: the argument of tanh errs by 8 of itself (three "
        "products of gate, two with rounded constants, and a sum), which tanh passes on times its slope, "
        "1 − tanh², and adds 2 ulp = 4; of a negative gate 1 + tanh cancels, so that these are not "
        "relative to it; the sum with 1, three products and the halving are, 5 in all",
    ),
    source="Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2; Shazeer 2020, arXiv:2002.05202, GEGLU",
)

KERNEL = Kernel(
    name="torch.gelu_and_mul",
    ops=("gelu_and_mul",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    bytes_moved=lambda sizes: 12 * sizes["T"] * sizes["C"],
    launch=launch,
)
