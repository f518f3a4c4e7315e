"""Ops and kernels. A new kernel is a file and a line in `OPS` (a new op) and `KERNELS`."""

from __future__ import annotations

from pascaline.kernels import (
    add,
    cpu_attention,
    cpu_linear,
    cuda_attention,
    cuda_linear,
    embedding,
    gelu_and_mul,
    head_norm,
    linear,
    paged_attention,
    rms_norm,
    rotary,
    scale,
    select_rows,
    silu_and_mul,
    soft_cap,
    store_rows,
)
from pascaline.kernels.kernel import Chip, Kernel
from pascaline.kernels.launcher import Launcher
from pascaline.kernels.op import Op
from pascaline.kernels.policy import Policy

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        embedding.OP,
        scale.OP,
        rms_norm.OP,
        head_norm.OP,
        linear.OP,
        rotary.OP,
        store_rows.OP,
        paged_attention.OP,
        silu_and_mul.OP,
        gelu_and_mul.OP,
        add.OP,
        select_rows.OP,
        soft_cap.OP,
    )
}

KERNELS: tuple[Kernel, ...] = (
    embedding.NATIVE,
    embedding.CUDA,
    embedding.KERNEL,
    scale.NATIVE,
    scale.CUDA,
    scale.KERNEL,
    rms_norm.NATIVE,
    rms_norm.CUDA,
    rms_norm.KERNEL,
    head_norm.NATIVE,
    head_norm.CUDA,
    head_norm.KERNEL,
    cpu_linear.NATIVE,
    *cuda_linear.LINEARS,
    linear.KERNEL,
    rotary.NATIVE,
    rotary.CUDA,
    rotary.KERNEL,
    store_rows.NATIVE,
    store_rows.CUDA,
    store_rows.KERNEL,
    cpu_attention.NATIVE,
    cuda_attention.BY_TENSOR_CORES,
    cuda_attention.BY_FP32,
    paged_attention.KERNEL,
    silu_and_mul.NATIVE,
    silu_and_mul.CUDA,
    silu_and_mul.KERNEL,
    gelu_and_mul.NATIVE,
    gelu_and_mul.CUDA,
    gelu_and_mul.KERNEL,
    add.NATIVE,
    add.CUDA,
    add.KERNEL,
    select_rows.NATIVE,
    select_rows.CUDA,
    select_rows.KERNEL,
    soft_cap.NATIVE,
    soft_cap.CUDA,
    soft_cap.KERNEL,
)
"""In order of preference for each op."""

__all__ = ["KERNELS", "OPS", "Chip", "Kernel", "Launcher", "Op", "Policy"]
