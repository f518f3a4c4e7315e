"""add: y = x + residual, element by element."""

from __future__ import annotations

import torch

from pascaline.kernels.cpu.native_kernel import native_kernel
from pascaline.kernels.cuda.elementwise import Operation, plan_elementwise
from pascaline.kernels.cuda.op_kernel import cuda_kernel
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import FP32_ROUNDING, Case, Op, Operand, Tolerance


def reference(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return x + residual


def launch(
    x: torch.Tensor,
    residual: torch.Tensor,
    *,
    out: torch.Tensor,
    workspace: Workspace,
) -> None:
    torch.add(x, residual, out=out)


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    shape = (case.axes["T"], case.axes["C"])
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


OP = Op(
    name="add",
    axes={"T": "tokens", "C": "hidden size"},
    inputs={"x": Operand(("T", "C")), "residual": Operand(("T", "C"))},
    output=Operand(("T", "C")),
    reference=reference,
    cases=(Case("one row", {"T": 1, "C": 576}), Case("ragged", {"T": 3, "C": 31})),
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=lambda x, residual: FP32_ROUNDING * reference(x, residual).abs(),
        derivation="one addition, rounded once",
    ),
    source="He et al. 2015, arXiv:1512.03385, the residual connection",
)

KERNEL = Kernel(
    name="torch.add",
    ops=("add",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    launch=launch,
)


def _recipe(_chip: ChipLimits, x: torch.Tensor, residual: torch.Tensor) -> Recipe:
    names = ("x", "residual", "y")
    return Recipe((plan_elementwise(Operation.ADD, x, residual, names=names),) if x.numel() else ())


NATIVE = native_kernel(OP)

CUDA = cuda_kernel(OP, _recipe)
