"""store_rows: a step's keys or values go to their places in the pages.

cache[slots[t] // B, slots[t] % B] = rows[t], with B tokens a page. A negative slot is no place: its row is
left out. A cache of fp16 takes the nearest numbers that it has, the largest ones for those beyond.
"""

from __future__ import annotations

import torch

from pascaline.kernels.cpu.native_kernel import native_kernel
from pascaline.kernels.cuda.op_kernel import cuda_kernel
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.cuda.store_rows import plan_store_rows
from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import Case, Op, Operand, Tolerance

FP16_LARGEST = torch.finfo(torch.float16).max


def reference(rows: torch.Tensor, slots: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
    updated = cache.clone()
    for row, slot in zip(rows, slots.tolist(), strict=True):
        if slot >= 0:
            updated[slot // cache.shape[1], slot % cache.shape[1]] = row
    return updated


def launch(
    rows: torch.Tensor,
    slots: torch.Tensor,
    cache: torch.Tensor,
    *,
    out: torch.Tensor,
    workspace: Workspace,
) -> None:
    if out.dtype == torch.float16:
        rows = rows.clamp(-FP16_LARGEST, FP16_LARGEST)
    placed = slots >= 0
    rows, slots = rows[placed], slots[placed]
    out.index_put_((slots // out.shape[1], slots % out.shape[1]), rows.to(out.dtype))


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens, pages, page_size, heads, width = (case.axes[axis] for axis in ("T", "P", "B", "KV", "D"))
    slots = torch.randperm(pages * page_size, generator=generator)[:tokens]
    slots[3::8] = -1
    return (
        torch.randn(tokens, heads, width, generator=generator),
        slots,
        torch.randn(pages, page_size, heads, width, generator=generator),
    )


OP = Op(
    name="store_rows",
    axes={"T": "tokens", "P": "pages", "B": "tokens a page", "KV": "key/value heads", "D": "head size"},
    inputs={
        "rows": Operand(("T", "KV", "D")),
        "slots": Operand(("T",), torch.int64),
        "cache": Operand(("P", "B", "KV", "D"), also=(torch.float16, torch.bfloat16)),
    },
    output=Operand(("P", "B", "KV", "D")),
    in_place="cache",
    reference=reference,
    cases=(
        Case("one token", {"T": 1, "P": 1, "B": 16, "KV": 3, "D": 64}),
        Case("a page and a half", {"T": 24, "P": 4, "B": 16, "KV": 2, "D": 8}),
    ),
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=lambda rows, *_: torch.zeros((), dtype=rows.dtype),
        derivation="a copy: bit for bit",
    ),
    source="Kwon et al. 2023, arXiv:2309.06180, section 4.1",
)

KERNEL = Kernel(
    name="torch.store_rows",
    ops=("store_rows",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    launch=launch,
)


def _recipe(_chip: ChipLimits, rows: torch.Tensor, _slots: torch.Tensor, cache: torch.Tensor) -> Recipe:
    return Recipe((plan_store_rows(rows, cache),) if rows.numel() else ())


NATIVE = native_kernel(OP)

CUDA = cuda_kernel(OP, _recipe)
