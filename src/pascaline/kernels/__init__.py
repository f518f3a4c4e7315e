"""Ops and kernels. A new kernel is a file and a line in `OPS` (a new op) and `KERNELS`."""

from __future__ import annotations

from pascaline.kernels import (
    add,
    embedding,
    gelu_and_mul,
    linear,
    paged_attention,
    rms_norm,
    rotary,
    scale,
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
        linear.OP,
        rotary.OP,
        store_rows.OP,
        paged_attention.OP,
        silu_and_mul.OP,
        gelu_and_mul.OP,
        add.OP,
        soft_cap.OP,
    )
}

KERNELS: tuple[Kernel, ...] = (
    embedding.KERNEL,
    scale.KERNEL,
    rms_norm.KERNEL,
    linear.KERNEL,
    rotary.KERNEL,
    store_rows.KERNEL,
    paged_attention.KERNEL,
    silu_and_mul.KERNEL,
    gelu_and_mul.KERNEL,
    add.KERNEL,
    soft_cap.KERNEL,
)
"""In order of preference for each op."""

__all__ = ["KERNELS", "OPS", "Chip", "Kernel", "Launcher", "Op", "Policy"]
