"""soft_cap: x = cap · tanh(x / cap), in place: logits are kept between −cap and cap."""

from __future__ import annotations

import torch

from pascaline.kernels.cpu.native_kernel import native_kernel
from pascaline.kernels.cuda.elementwise import Operation, plan_elementwise
from pascaline.kernels.cuda.op_kernel import cuda_kernel
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import FP32_ROUNDING, Case, Op, Operand, Tolerance


def reference(x: torch.Tensor, *, cap: float) -> torch.Tensor:
    return cap * torch.tanh(x / cap)


def launch(x: torch.Tensor, *, out: torch.Tensor, workspace: Workspace, cap: float) -> None:
    torch.div(x, cap, out=out)
    out.tanh_().mul_(cap)


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    return (torch.randn(case.axes["T"], case.axes["V"], generator=generator) * 40,)


OP = Op(
    name="soft_cap",
    axes={"T": "rows", "V": "vocabulary"},
    inputs={"x": Operand(("T", "V"))},
    output=Operand(("T", "V")),
    in_place="x",
    reference=reference,
    cases=(
        Case("one row", {"T": 1, "V": 1000}, {"cap": 30.0}),
        Case("ragged", {"T": 3, "V": 31}, {"cap": 0.7}),
    ),
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=lambda x, *, cap: FP32_ROUNDING * 8.01 * reference(x, cap=cap).abs(),
        derivation="the cap, the quotient, tanh (2 ulp = 4 · u) and the product, of which tanh passes on "
        "at most what it gets: |x · tanh′(x)| ≤ |tanh(x)|; the hundredth is for terms in u²",
    ),
    source="Gemma Team 2024, arXiv:2408.00118, section 2",
)

KERNEL = Kernel(
    name="torch.soft_cap",
    ops=("soft_cap",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    launch=launch,
)


def _recipe(_chip: ChipLimits, x: torch.Tensor, *, cap: float) -> Recipe:
    names = ("x", "absent", "x")
    return Recipe((plan_elementwise(Operation.SOFT_CAP, x, names=names, number=cap),) if x.numel() else ())


NATIVE = native_kernel(OP, "cap")

CUDA = cuda_kernel(OP, _recipe)
