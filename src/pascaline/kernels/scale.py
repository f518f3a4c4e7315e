"""scale: x = factor · x, in place."""

from __future__ import annotations

import torch

from pascaline.kernels.cpu.native_kernel import native_kernel
from pascaline.kernels.cuda.elementwise import Operation, plan_elementwise
from pascaline.kernels.cuda.op_kernel import cuda_kernel
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import FP32_ROUNDING, Case, Op, Operand, Tolerance


def reference(x: torch.Tensor, *, factor: float) -> torch.Tensor:
    return factor * x


def launch(x: torch.Tensor, *, out: torch.Tensor, workspace: Workspace, factor: float) -> None:
    torch.mul(x, factor, out=out)


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    return (torch.randn(case.axes["T"], case.axes["C"], generator=generator),)


OP = Op(
    name="scale",
    axes={"T": "tokens", "C": "hidden size"},
    inputs={"x": Operand(("T", "C"))},
    output=Operand(("T", "C")),
    in_place="x",
    reference=reference,
    cases=(
        Case("one row", {"T": 1, "C": 576}, {"factor": 24.0}),
        Case("ragged", {"T": 3, "C": 31}, {"factor": 31**0.5}),
    ),
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=lambda x, *, factor: FP32_ROUNDING * 2.01 * (factor * x).abs(),
        derivation="the factor and its product, rounded once each; the hundredth is for terms in u²",
    ),
    source="Vaswani et al. 2017, arXiv:1706.03762, section 3.4",
)

KERNEL = Kernel(
    name="torch.scale",
    ops=("scale",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    launch=launch,
)


def _recipe(_chip: ChipLimits, x: torch.Tensor, *, factor: float) -> Recipe:
    names = ("x", "absent", "x")
    return Recipe((plan_elementwise(Operation.SCALE, x, names=names, number=factor),) if x.numel() else ())


NATIVE = native_kernel(OP, "factor")

CUDA = cuda_kernel(OP, _recipe)
