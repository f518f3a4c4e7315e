"""Ops and kernels. A new kernel is a file and a line in `OPS` (a new op) and `KERNELS`."""

from __future__ import annotations

from pascaline.kernels import (
    add,
    embedding,
    linear,
    paged_attention,
    rms_norm,
    rotary,
    silu_and_mul,
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
        rms_norm.OP,
        linear.OP,
        rotary.OP,
        store_rows.OP,
        paged_attention.OP,
        silu_and_mul.OP,
        add.OP,
    )
}

KERNELS: tuple[Kernel, ...] = (
    embedding.KERNEL,
    rms_norm.KERNEL,
    linear.KERNEL,
    rotary.KERNEL,
    store_rows.KERNEL,
    paged_attention.KERNEL,
    silu_and_mul.KERNEL,
    add.KERNEL,
)
"""In order of preference for each op."""

__all__ = ["KERNELS", "OPS", "Chip", "Kernel", "Launcher", "Op", "Policy"]
