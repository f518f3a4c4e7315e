"""embedding: y[t] = table[token_ids[t]], with the table in any packing."""

from __future__ import annotations

import torch

from pascaline.kernels.cpu.native_kernel import native_kernel
from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import FP32_ROUNDING, Case, Op, Operand, Tolerance
from pascaline.kernels.packed_cases import PACKED_FORMS, random_packed
from pascaline.weights import Dense, Weight


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

NATIVE = native_kernel(OP)
