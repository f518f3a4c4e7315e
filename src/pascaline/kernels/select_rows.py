"""select_rows: y[r] = x[rows[r]]: of a step's tokens those whose next token is wanted."""

from __future__ import annotations

import torch

from pascaline.kernels.cpu.native_kernel import native_kernel
from pascaline.kernels.cuda.gather_rows import plan_gather_rows
from pascaline.kernels.cuda.op_kernel import cuda_kernel
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import Case, Op, Operand, Tolerance


def reference(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return x[rows]


def launch(x: torch.Tensor, rows: torch.Tensor, *, out: torch.Tensor, workspace: Workspace) -> None:
    torch.index_select(x, 0, rows, out=out)


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens, width, rows = (case.axes[axis] for axis in ("T", "C", "R"))
    return torch.randn(tokens, width, generator=generator), torch.randint(
        0, tokens, (rows,), generator=generator
    )


OP = Op(
    name="select_rows",
    axes={"T": "tokens", "C": "hidden size", "R": "rows that are wanted"},
    inputs={"x": Operand(("T", "C")), "rows": Operand(("R",), torch.int64)},
    output=Operand(("R", "C")),
    reference=reference,
    cases=(Case("one of many", {"T": 9, "C": 48, "R": 1}), Case("several", {"T": 5, "C": 33, "R": 4})),
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=lambda x, _: torch.zeros((), dtype=x.dtype),
        derivation="a copy: bit for bit",
    ),
    source="only the last token of a sequence is predicted from",
)

KERNEL = Kernel(
    name="torch.select_rows",
    ops=("select_rows",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    launch=launch,
)


def _recipe(_chip: ChipLimits, x: torch.Tensor, rows: torch.Tensor) -> Recipe:
    return Recipe((plan_gather_rows(len(rows), x, names=("x", "rows")),) if len(rows) else ())


NATIVE = native_kernel(OP)

CUDA = cuda_kernel(OP, _recipe)
