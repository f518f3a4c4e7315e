"""Every card's kernel of every op but the linear, by its own recipe, against the op's fp64 reference.

Operands are the op's own cases, for other numbers of tokens, too, and as parts of wider tensors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from linear_harness import FORMS, Execute
from op_harness import ON_CARDS, as_part, check, operands_of, recipe_of, run

from pascaline.core.errors import ShapeError
from pascaline.kernels import OPS, Op, store_rows
from pascaline.kernels.cuda.linear_bounds import Terms
from pascaline.kernels.cuda_linear import in_slabs
from pascaline.kernels.kernel import Workspace
from pascaline.kernels.op import FP32_ROUNDING, Case
from pascaline.kernels.packed_cases import random_packed
from pascaline.weights import Dense, Slabbed
from pascaline.workload.slab_form import SLAB

MORE: dict[str, tuple[Case, ...]] = {
    "rms_norm": (
        Case("7B", {"T": 2, "C": 3584}, {"epsilon": 1e-6}),
        Case("a block at its most", {"T": 1, "C": 9000}, {"epsilon": 1e-6}),
        Case("ragged and wide", {"T": 1, "C": 2051}, {"epsilon": 1e-6}),
    ),
    "head_norm": (Case("wide", {"T": 3, "H": 2, "D": 256}, {"epsilon": 1e-6}),),
    "embedding": (Case("Q4_1", {"T": 4, "V": 40, "C": 1312}),),
    "soft_cap": (Case("whole vectors", {"T": 2, "V": 64}, {"cap": 50.0}),),
    "silu_and_mul": (Case("whole vectors", {"T": 5, "C": 68}),),
}
"""What the ops' cases leave out: rows of several warps, and of several vectors a thread."""


def cases_of(op: Op) -> tuple[Case, ...]:
    return (*op.cases, *MORE.get(op.name, ()))


CASES = [
    pytest.param(name, case, id=f"{name}: {case.name}") for name in ON_CARDS for case in cases_of(OPS[name])
]


def test_every_op_has_a_kernel_on_cards() -> None:
    assert set(ON_CARDS) == set(OPS) - {"linear", "paged_attention"}


@pytest.mark.parametrize(("name", "case"), CASES)
def test_cases(name: str, case: Case, execute: Execute) -> None:
    check(ON_CARDS[name], operands_of(OPS[name], case), case.parameters, execute)


@pytest.mark.parametrize("margin", [4, 3])
@pytest.mark.parametrize(("name", "case"), CASES)
def test_parts_of_wider_tensors(name: str, case: Case, margin: int, execute: Execute) -> None:
    # Each operand at strides of its own.
    operands = tuple(
        as_part(value, margin + 4 * index)
        if isinstance(value, torch.Tensor) and key not in ("cosine", "sine", "cache", "scales")
        else value
        for index, (key, value) in enumerate(zip(OPS[name].inputs, operands_of(OPS[name], case), strict=True))
    )
    check(ON_CARDS[name], operands, case.parameters, execute)


@pytest.mark.parametrize("tokens", [0, 2, 5, 17])
@pytest.mark.parametrize("name", ON_CARDS)
def test_numbers_of_tokens(name: str, tokens: int, execute: Execute) -> None:
    case = OPS[name].cases[-1]
    axis = "R" if name == "select_rows" else "T"
    case = replace(case, axes={**case.axes, axis: tokens})
    operands = operands_of(OPS[name], case)
    if tokens == 0:
        assert recipe_of(ON_CARDS[name], operands, case.parameters).steps == ()
        return
    check(ON_CARDS[name], operands, case.parameters, execute)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [64, 9])
def test_parameters_in_half_precision(dtype: torch.dtype, size: int, execute: Execute) -> None:
    generator = torch.Generator().manual_seed(size)
    x, gain = torch.randn(3, size, generator=generator), torch.randn(size, generator=generator).to(dtype)
    check(ON_CARDS["rms_norm"], (x, Dense(gain)), {"epsilon": 1e-6}, execute)
    check(ON_CARDS["head_norm"], (x[:, None], Dense(gain)), {"epsilon": 1e-6}, execute)
    table = Dense(torch.randn(7, size, generator=generator).to(dtype))
    check(ON_CARDS["embedding"], (torch.tensor([6, 0, 3]), table), {}, execute)


@pytest.mark.parametrize("name", FORMS)
def test_rows_of_packed_weights(name: str, execute: Execute) -> None:
    """Two roundings of fp32: an inexact product, and the difference."""
    form = FORMS[name]
    unit = form.super_size or form.group_size
    is_row = unit > SLAB and unit % SLAB != 0  # slabs hold such groups where a row has one alone
    for columns in (unit,) if is_row else (unit, -(-1300 // unit) * unit):
        table = random_packed(form, 27, columns, torch.Generator().manual_seed(columns))
        indices = torch.tensor([26, 3, 3, 0, 17])
        terms = Terms.of(table)
        expected, magnitude = (torch.from_numpy(each)[indices] for each in (terms.weight, terms.magnitude))
        if table.permutation is not None:
            order = table.permutation.long().argsort()
            expected, magnitude = expected[:, order], magnitude[:, order]
        got = run(ON_CARDS["embedding"], (indices, table), {}, execute)
        assert ((got.double() - expected).abs() <= 2 * FP32_ROUNDING * magnitude).all()


def test_packed_weights_that_slabs_do_not_hold_are_left_to_others() -> None:
    table = random_packed(FORMS["Q4_1"], 8, 64, torch.Generator())
    operands = torch.tensor([0]), table
    assert ON_CARDS["embedding"].takes({}, operands) is not None
    assert ON_CARDS["embedding"].takes({}, (operands[0], cast(Slabbed, in_slabs(table)))) is None
    assert ON_CARDS["embedding"].takes({}, (operands[0], Dense(torch.zeros(2, 2).double()))) is not None


@pytest.mark.parametrize("head_dim", [16, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_rows_are_stored_as_the_cache_holds_them(dtype: torch.dtype, head_dim: int, execute: Execute) -> None:
    """Head by head and page by page in memory; saturated in fp16, and nothing for negative slots."""
    generator = torch.Generator().manual_seed(head_dim)
    before = torch.randn(3, 2, 16, head_dim, generator=generator).to(dtype)
    rows = torch.randn(5, 2, head_dim, generator=generator)
    rows[1, 0, :5] = torch.tensor([7e4, -7e4, torch.inf, -torch.inf, torch.nan])
    rows[1, 1, :3] = torch.tensor([65519.0, 2.0**-25, -0.0])
    slots = torch.tensor([33, 0, -1, 15, 16])
    expected = before.clone()
    for row, slot in zip(rows, slots.tolist(), strict=True):
        if slot >= 0:
            largest = torch.finfo(dtype).max if dtype == torch.float16 else torch.inf
            expected[slot // 16, :, slot % 16] = row.clamp(-largest, largest).to(dtype)
    cache = before.clone().transpose(1, 2)
    got = run(ON_CARDS["store_rows"], (rows, slots, cache, None), {}, execute)
    torch.testing.assert_close(got, expected.transpose(1, 2), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("head_dim", [16, 6])
def test_codes_and_scales_are_those_of_torch(head_dim: int, execute: Execute) -> None:
    """Of cards' caches, head by head in memory; both divide and multiply once."""
    generator = torch.Generator().manual_seed(head_dim)
    rows, slots = torch.randn(5, 2, head_dim, generator=generator).exp(), torch.tensor([33, 0, -1, 15, 16])
    rows[1, 0] = 0
    caches = [torch.zeros(3, 2, 16, head_dim, dtype=torch.int8).transpose(1, 2) for _ in range(2)]
    scales = [torch.full((3, 2, 16), 7.0) for _ in caches]
    run(ON_CARDS["store_rows"], (rows, slots, caches[0], scales[0]), {}, execute)
    workspace = Workspace(torch.device("cpu"))
    store_rows.KERNEL.launch(rows, slots, caches[1], scales[1], out=caches[1], workspace=workspace)
    torch.testing.assert_close(*scales, rtol=4 * FP32_ROUNDING, atol=0)
    exact = rows.double() / scales[1].double()[slots // 16, :, slots % 16][..., None].clamp(min=1e-30)
    tied = ((exact - exact.round()).abs() > 0.4999).any()
    assert not tied, "numbers that may be rounded either way"
    assert torch.equal(*caches)
    assert (scales[1] != 7.0).sum() == 8, "both heads of the four tokens that have a place"
    found = caches[1][slots // 16, slots % 16] * scales[1][slots // 16, :, slots % 16][..., None]
    error = (found - rows)[slots >= 0].abs()
    assert (error <= rows[slots >= 0].amax(-1, keepdim=True) * (0.5 / 127 + 8 * FP32_ROUNDING)).all()


def test_codes_without_scales_are_left_to_nobody() -> None:
    codes, numbers = torch.zeros(3, 16, 2, 8, dtype=torch.int8), torch.zeros(3, 16, 2, 8)
    scales = torch.zeros(3, 2, 16)
    for cache, of_cache in [
        *((codes, None), (numbers, scales), (codes, scales[:, :1]), (codes, torch.zeros(3, 16, 2).mT)),
    ]:
        assert ON_CARDS["store_rows"].takes({}, (codes, codes, cache, of_cache)) is not None
    assert ON_CARDS["store_rows"].takes({}, (codes, codes, codes, scales)) is None
    assert ON_CARDS["store_rows"].takes({}, (codes, codes, numbers, None)) is None


def test_rows_of_norms_have_the_same_bits_beside_others(execute: Execute) -> None:
    x, gain = torch.randn(7, 3584, generator=torch.Generator().manual_seed(0)), Dense(torch.ones(3584))
    together = run(ON_CARDS["rms_norm"], (x, gain), {"epsilon": 1e-6}, execute)
    alone = run(ON_CARDS["rms_norm"], (x[3:4], gain), {"epsilon": 1e-6}, execute)
    assert torch.equal(together[3:4], alone)


def test_rows_lie_in_one_piece() -> None:
    x = torch.randn(8, 8).T
    with pytest.raises(ShapeError, match="side by side"):
        recipe_of(ON_CARDS["add"], (x, x), {})
