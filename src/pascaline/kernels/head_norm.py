"""head_norm: rms_norm of each head: y = x / √(mean(x²) + epsilon) · gain, over a head's elements."""

from __future__ import annotations

import torch

from pascaline.kernels import rms_norm
from pascaline.kernels.cpu.native_kernel import native_kernel
from pascaline.kernels.cuda.op_kernel import cuda_kernel
from pascaline.kernels.kernel import Kernel, any_chip
from pascaline.kernels.op import Case, Op, Operand
from pascaline.weights import Dense


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens, heads, size = (case.axes[axis] for axis in "THD")
    # As a merged projection leaves it: other heads lie beside these.
    x = torch.randn(tokens, heads + 2, size, generator=generator)[:, 1:-1]
    return x, Dense(torch.randn(size, generator=generator))


OP = Op(
    name="head_norm",
    axes={"T": "tokens", "H": "heads", "D": "head size"},
    inputs={"x": Operand(("T", "H", "D")), "gain": Operand(("D",), dtype=None)},
    output=Operand(("T", "H", "D")),
    reference=rms_norm.reference,
    cases=(
        Case("one token", {"T": 1, "H": 16, "D": 128}, {"epsilon": 1e-6}),
        Case("several", {"T": 5, "H": 3, "D": 10}, {"epsilon": 1e-5}),
    ),
    make_inputs=make_inputs,
    tolerance=rms_norm.OP.tolerance,
    source="Henry et al. 2020, arXiv:2010.04245, norms of queries and keys; RMS in Qwen3 and Gemma 3",
)

KERNEL = Kernel(
    name="torch.head_norm",
    ops=("head_norm",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    launch=rms_norm.launch,
)

NATIVE = native_kernel(OP, "epsilon")

CUDA = cuda_kernel(OP, rms_norm.recipe)
