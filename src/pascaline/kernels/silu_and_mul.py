"""silu_and_mul: y = gate · sigmoid(gate) · up, element by element."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import FP32_ROUNDING, Case, Op, Operand, Tolerance


def reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return gate * torch.sigmoid(gate) * up


def launch(
    gate: torch.Tensor,
    up: torch.Tensor,
    *,
    out: torch.Tensor,
    workspace: Workspace,
) -> None:
    torch.mul(F.silu(gate), up, out=out)


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    shape = (case.axes["T"], case.axes["C"])
    scale = 100.0 if case.name == "extreme" else 8.0
    return torch.randn(shape, generator=generator) * scale, torch.randn(shape, generator=generator)


OP = Op(
    name="silu_and_mul",
    axes={"T": "tokens", "C": "intermediate size"},
    inputs={"gate": Operand(("T", "C")), "up": Operand(("T", "C"))},
    output=Operand(("T", "C")),
    reference=reference,
    flop=lambda sizes: {"fp32": 5.0 * sizes["T"] * sizes["C"]},
    cases=(
        Case("one row", {"T": 1, "C": 1536}),
        Case("ragged", {"T": 7, "C": 33}),
        Case("extreme", {"T": 3, "C": 200}),
    ),
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=lambda gate, up: FP32_ROUNDING * 8 * reference(gate, up).abs() + 2.0**-120 * up.abs(),
        derivation="exp (2 ulp = 4 · u), addition, division and two products, each within u; below a "
        "gate of −88.7 exp overflows, and zero stands for less than 89 · exp(−88.7) < 2⁻¹²⁰",
    ),
    source="Shazeer 2020, arXiv:2002.05202, SwiGLU",
)

KERNEL = Kernel(
    name="torch.silu_and_mul",
    ops=("silu_and_mul",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    bytes_moved=lambda sizes: 12 * sizes["T"] * sizes["C"],
    launch=launch,
)
