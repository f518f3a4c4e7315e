"""embedding: y[t] = table[token_ids[t]], with the table in any packing."""

from __future__ import annotations

from dataclasses import replace

import torch

from pascaline.kernels.cpu.native_kernel import native_kernel
from pascaline.kernels.cuda.gather_rows import plan_gather_packed, plan_gather_rows
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.op_kernel import cuda_kernel
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.cuda_linear import in_slabs
from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import FP32_ROUNDING, Case, Op, Operand, Tolerance
from pascaline.kernels.packed_cases import PACKED_FORMS, random_packed
from pascaline.weights import Dense, Slabbed, Weight
from pascaline.workload.op_costs import Axes


def reference(token_ids: torch.Tensor, table: Weight) -> torch.Tensor:
    rows, columns = table.shape
    dense = torch.empty(rows, columns, dtype=torch.float64)
    table.dequantise(0, rows, dense)
    return dense[token_ids]


def launch(token_ids: torch.Tensor, table: Weight, *, out: torch.Tensor, workspace: Workspace) -> None:
    table.gather(token_ids, out)


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens, vocabulary, width = (case.axes[axis] for axis in "TVC")
    token_ids = torch.randint(0, vocabulary, (tokens,), generator=generator)
    if case.name in PACKED_FORMS:
        return token_ids, random_packed(PACKED_FORMS[case.name], vocabulary, width, generator)
    return token_ids, Dense(torch.randn(vocabulary, width, generator=generator).half())


OP = Op(
    name="embedding",
    axes={"T": "tokens", "V": "vocabulary", "C": "hidden size"},
    inputs={"token_ids": Operand(("T",), torch.int64), "table": Operand(("V", "C"), dtype=None)},
    output=Operand(("T", "C")),
    reference=reference,
    cases=(
        Case("Q4_1", {"T": 9, "V": 300, "C": 64}),
        Case("Q6_K", {"T": 3, "V": 70, "C": 256}),
        Case("fp16", {"T": 1, "V": 17, "C": 48}),
    ),
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=lambda token_ids, table: FP32_ROUNDING * reference(token_ids, table).abs(),
        derivation="scales times code is exact in fp32; subtracting the offset rounds once",
    ),
    source="table look-up",
)

KERNEL = Kernel(
    name="torch.embedding",
    ops=("embedding",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    launch=launch,
)


def _recipe(_chip: ChipLimits, token_ids: torch.Tensor, table: Dense | Slabbed) -> Recipe:
    tokens = len(token_ids)
    if not tokens:
        return Recipe(())
    if isinstance(table, Dense):
        return Recipe((plan_gather_rows(tokens, table.tensor, names=("table", "token_ids")),))
    plan = plan_gather_packed(
        table.form, tokens, *table.shape, indices="token_ids", has_permutation=table.inputs is not None
    )
    return Recipe((plan,))


NATIVE = native_kernel(OP)


def _takes(_sizes: Axes, operands: tuple[object, ...]) -> str | None:
    table = operands[1]
    if isinstance(table, Slabbed) or (isinstance(table, Dense) and table.tensor.dtype in NUMBER_TYPES):
        return None
    return "it reads rows of weights in slabs, and of dense ones in fp32, fp16 or bf16"


CUDA = replace(cuda_kernel(OP, _recipe, takes=_takes), prepare=in_slabs, layout="slabbed")
