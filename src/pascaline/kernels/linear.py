"""linear: y[m, n] = Σₖ x[m, k] · w[n, k] + bias[n], with w in any packing."""

from __future__ import annotations

import torch

from pascaline.kernels.kernel import Chip, Kernel, Workspace, any_chip
from pascaline.kernels.op import FP32_ROUNDING, Case, Op, Operand, Tolerance, summation_error
from pascaline.kernels.packed_cases import PACKED_FORMS, random_packed
from pascaline.weights import Dense, Packed, Slabbed, Weight
from pascaline.workload.limits import SCRATCH_ELEMENTS
from pascaline.workload.op_costs import Axes


def dense(weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    """All values of a weight, (N, K)."""
    rows, columns = weight.shape
    values = torch.empty(rows, columns, dtype=dtype)
    weight.dequantise(0, rows, values)
    return values


def reference(x: torch.Tensor, weight: Weight, bias: torch.Tensor | None) -> torch.Tensor:
    y = x @ dense(weight, x.dtype).T
    return y if bias is None else y + bias.to(x.dtype)


def _magnitude(x: torch.Tensor, weight: Weight, bias: torch.Tensor | None) -> torch.Tensor:
    """Σ|x·w| + |bias|: what the rounding errors are proportional to."""
    total = x.abs() @ dense(weight, x.dtype).abs().T
    return total if bias is None else total + bias.to(x.dtype).abs()


def launch(
    x: torch.Tensor,
    weight: Weight,
    bias: torch.Tensor | None,
    *,
    out: torch.Tensor,
    workspace: Workspace,
) -> None:
    if x.shape[0] == 0:
        return  # no logits are wanted of a prompt's first chunks: do not dequantise the whole head
    rows, columns = weight.shape
    if isinstance(weight, Packed) and weight.permutation is not None:
        x, weight = x[:, weight.permutation], weight.without_permutation()
    if isinstance(weight, Dense) and weight.tensor.dtype == x.dtype:
        torch.mm(x, weight.tensor.T, out=out)
    else:
        at_once = max(1, SCRATCH_ELEMENTS[x.device.type] // columns)
        for start in range(0, rows, at_once):
            stop = min(start + at_once, rows)
            tile = workspace.scratch((stop - start) * columns, x.dtype).view(stop - start, columns)
            weight.dequantise(start, stop, tile)
            torch.mm(x, tile.T, out=out[:, start:stop])
    if bias is not None:
        out.add_(bias)


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    m, n, k = (case.axes[axis] for axis in "MNK")
    x = torch.randn(m, k, generator=generator)
    bias = torch.randn(n, generator=generator)
    if case.name in PACKED_FORMS:
        return x, random_packed(PACKED_FORMS[case.name], n, k, generator), bias
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[case.name[:4]]
    weight = Dense(torch.randn(n, k, generator=generator).to(dtype))
    return x, weight, bias if "bias" in case.name else None


OP = Op(
    name="linear",
    axes={"M": "rows of the input (tokens)", "K": "input features", "N": "output features"},
    inputs={
        "x": Operand(("M", "K")),
        "weight": Operand(("N", "K"), dtype=None),
        "bias": Operand(("N",), optional=True, also=(torch.float16, torch.bfloat16)),
    },
    output=Operand(("M", "N")),
    reference=reference,
    cases=(
        *(Case(form, {"M": 3, "N": 50, "K": 512}) for form in PACKED_FORMS if form != "Q4_1"),
        Case("Q4_1", {"M": 5, "N": 1000, "K": 1536}),
        Case("bf16", {"M": 3, "N": 65, "K": 64}),
        Case("fp16 with bias", {"M": 2, "N": 31, "K": 48}),
        Case("fp32", {"M": 17, "N": 33, "K": 100}),
        Case("fp32 with bias", {"M": 4, "N": 7, "K": 1}),
        Case("fp32 no rows", {"M": 0, "N": 33, "K": 100}),
    ),
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=lambda x, weight, bias: (
            FP32_ROUNDING * (summation_error(x.shape[1]) + 2) * _magnitude(x, weight, bias)
        ),
        derivation="a sum of K products, in any order (`summation_error`), plus one rounding of each "
        "dequantised weight and one of the sum with the bias, all in units of u · (Σ|x·w| + |bias|)",
    ),
    source="Vaswani et al. 2017, the projections",
)

_SHARE = 0.7
"""Of a card's fp32 rate and bandwidth, that plain torch reaches."""
_COPIED_BYTES = {Dense: 8.0, Packed: 100.0, Slabbed: 100.0}
"""Traffic of a weight that is first widened, or evaluated: each step of its formula reads and writes it."""


def _predicted_s(chip: Chip, sizes: Axes, operands: tuple[object, ...]) -> float:
    """On a card, for what no kernel of ours takes."""
    weight = operands[1]
    assert isinstance(weight, Dense | Packed | Slabbed)  # noqa: S101 - the op's second operand, on a card
    assert chip.roofline is not None  # noqa: S101 - nothing is predicted without
    is_widened = not isinstance(weight, Dense) or weight.tensor.dtype != torch.float32
    weights = sizes["N"] * sizes["K"]
    moved = weight.resident_bytes + (_COPIED_BYTES[type(weight)] * weights if is_widened else 0.0)
    compute_s = 2.0 * sizes["M"] * weights / chip.roofline.operations_per_s["fp32"]
    return max(compute_s, moved / chip.roofline.bytes_per_s) / _SHARE + chip.roofline.launch_s


KERNEL = Kernel(
    name="torch.linear",
    ops=("linear",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    launch=launch,
    predicted_s=_predicted_s,
)
