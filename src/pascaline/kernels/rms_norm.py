"""rms_norm: y = x / √(mean(x²) + epsilon) · gain, over the last axis."""

from __future__ import annotations

import torch

from pascaline.kernels.cpu.native_kernel import native_kernel
from pascaline.kernels.cuda.op_kernel import cuda_kernel
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.rms_norm import plan_rms_norm
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import FP32_ROUNDING, Case, Op, Operand, Tolerance, summation_error
from pascaline.weights import Dense


def reference(x: torch.Tensor, gain: Dense, *, epsilon: float) -> torch.Tensor:
    mean_square = x.square().mean(-1, keepdim=True)
    return x * torch.rsqrt(mean_square + epsilon) * gain.tensor.to(x.dtype)


def launch(
    x: torch.Tensor,
    gain: Dense,
    *,
    out: torch.Tensor,
    workspace: Workspace,
    epsilon: float,
) -> None:
    inverse = x.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
    torch.mul(x, inverse, out=out)
    out.mul_(gain.tensor)


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens, width = case.axes["T"], case.axes["C"]
    scale = 10.0 ** case.axes["T"]
    x = torch.randn(tokens, width, generator=generator) * scale
    return x, Dense(torch.randn(width, generator=generator))


OP = Op(
    name="rms_norm",
    axes={"T": "tokens", "C": "hidden size"},
    inputs={"x": Operand(("T", "C")), "gain": Operand(("C",), dtype=None)},
    output=Operand(("T", "C")),
    reference=reference,
    cases=(
        Case("one row", {"T": 1, "C": 576}, {"epsilon": 1e-5}),
        Case("large values", {"T": 5, "C": 100}, {"epsilon": 1e-6}),
        Case("large epsilon", {"T": 2, "C": 64}, {"epsilon": 1.0}),
    ),
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=lambda x, gain, *, epsilon: (
            FP32_ROUNDING * (summation_error(x.shape[-1]) / 2 + 6) * reference(x, gain, epsilon=epsilon).abs()
        ),
        derivation="the sum of C squares (`summation_error`), the mean and the sum with epsilon, all "
        "halved by the root; the root's reciprocal (2 ulp = 4 · u) and two products",
    ),
    source="Zhang and Sennrich 2019, arXiv:1910.07467, equation 4",
)

KERNEL = Kernel(
    name="torch.rms_norm",
    ops=("rms_norm",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    launch=launch,
)


def recipe(_chip: ChipLimits, x: torch.Tensor, gain: Dense, *, epsilon: float) -> Recipe:
    """On cards; head_norm's, too."""
    return Recipe((plan_rms_norm(x, gain.tensor.dtype, epsilon),) if x.numel() else ())


NATIVE = native_kernel(OP, "epsilon")

CUDA = cuda_kernel(OP, recipe)
