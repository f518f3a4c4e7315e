"""store_rows: cache[slots[t]] = rows[t]: a step's keys or values go to their places in the pages."""

from __future__ import annotations

import torch

from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import Case, Op, Operand, Tolerance


def reference(rows: torch.Tensor, slots: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
    updated = cache.clone()
    for row, slot in zip(rows, slots.tolist(), strict=True):
        updated[slot] = row
    return updated


def launch(
    rows: torch.Tensor,
    slots: torch.Tensor,
    cache: torch.Tensor,
    *,
    out: torch.Tensor,
    workspace: Workspace,
) -> None:
    out.index_copy_(0, slots, rows)


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens, slots, heads, width = (case.axes[axis] for axis in ("T", "L", "KV", "D"))
    return (
        torch.randn(tokens, heads, width, generator=generator),
        torch.randperm(slots, generator=generator)[:tokens],
        torch.randn(slots, heads, width, generator=generator),
    )


OP = Op(
    name="store_rows",
    axes={"T": "tokens", "L": "slots (pages × page size)", "KV": "key/value heads", "D": "head size"},
    inputs={
        "rows": Operand(("T", "KV", "D")),
        "slots": Operand(("T",), torch.int64),
        "cache": Operand(("L", "KV", "D")),
    },
    output=Operand(("L", "KV", "D")),
    in_place="cache",
    reference=reference,
    flop=lambda _: {},
    cases=(
        Case("one token", {"T": 1, "L": 16, "KV": 3, "D": 64}),
        Case("a page and a half", {"T": 24, "L": 64, "KV": 2, "D": 8}),
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
    bytes_moved=lambda sizes: 8 * sizes["T"] * sizes["KV"] * sizes["D"],
    launch=launch,
)
