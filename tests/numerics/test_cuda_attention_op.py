"""Attention on cards as the op: whole steps through its kernels' recipes, over every type of cache.

Maxima follow the scores once a page at most.
"""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from attention_harness import AttentionCase, AttentionOperands, half_bound, make_attention
from linear_harness import Execute, as_array, from_array

from pascaline.kernels import Chip, Kernel, cuda_attention, paged_attention
from pascaline.kernels.cuda.attention_call import PAGE_SIZE
from pascaline.kernels.cuda.op_kernel import OUTPUT, Operand, buffers_of
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.op import Shaped

BY_TENSOR_CORES, BY_FP32 = cuda_attention.BY_TENSOR_CORES, cuda_attention.BY_FP32
CHIPS = {
    BY_TENSOR_CORES.name: Chip(torch.device("cuda"), ChipLimits((8, 6), 28)),
    BY_FP32.name: Chip(torch.device("cuda"), ChipLimits((6, 1), 28)),
}
DECODE = ((1, 40), (1, 1), (1, 83))
MIXED = ((9, 40), (1, 33), (20, 20))
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8]


def operands_of(case: AttentionCase, made: AttentionOperands) -> tuple[Operand, ...]:
    """The op's: caches as cards have them, queries as parts of wider rows."""
    arrays = {
        name: from_array(array, case.cache_dtype if name.endswith("cache") else torch.float32)
        for name, array in made.buffers.items()
    }
    query = arrays["query"][:, : case.heads * case.head_dim].unflatten(1, (case.heads, case.head_dim))
    caches = [arrays[f"{name}_cache"].transpose(1, 2) for name in ("key", "value")]
    tables = [arrays[name] for name in ("page_table", "query_start", "context_lengths")]
    return (query, *caches, *tables, arrays.get("key_scales"), arrays.get("value_scales"))


def bound_of(kernel: Kernel, case: AttentionCase, made: AttentionOperands) -> torch.Tensor:
    if kernel is BY_TENSOR_CORES:
        return half_bound(case, made, PAGE_SIZE)
    return paged_attention.error_bound(
        *made.exact,
        **made.parameters,  # type: ignore[arg-type]
        keys_at_once=PAGE_SIZE,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sequences", [DECODE, MIXED], ids=["decode", "mixed"])
@pytest.mark.parametrize("kernel", [BY_TENSOR_CORES, BY_FP32], ids=lambda kernel: kernel.name)
def test_a_step(
    kernel: Kernel, sequences: tuple[tuple[int, int], ...], dtype: torch.dtype, execute: Execute
) -> None:
    case = AttentionCase(sequences, cache_dtype=dtype)
    made = make_attention(case)
    operands = operands_of(case, made)
    sizes = paged_attention.OP.bind(cast(tuple[Shaped | None, ...], operands))
    if kernel is BY_TENSOR_CORES and dtype == torch.float32:
        assert kernel.takes(sizes, operands) is not None
        return
    assert kernel.takes(sizes, operands) is None
    y = torch.full((case.tokens, case.heads, case.head_dim), math.nan)
    named = buffers_of(paged_attention.OP, operands, y)
    buffers = {name: as_array(each) for name, each in named.items() if each is not None}
    for cache in ("key_cache", "value_cache", "query"):
        buffers[cache] = made.buffers[cache]  # as in memory
    plans = kernel.recipe(CHIPS[kernel.name], sizes, operands, made.parameters).plans
    assert len(plans) == (1 if sequences is DECODE else 2)
    for plan in plans:
        execute(plan, buffers, (), updates=(OUTPUT,))
    assert ((y.double() - made.expected()).abs() <= bound_of(kernel, case, made)).all()


@pytest.mark.parametrize("kernel", [BY_TENSOR_CORES, BY_FP32], ids=lambda kernel: kernel.name)
def test_codes_are_read_with_both_of_their_scales_only(kernel: Kernel) -> None:
    def takes(*operands: Operand) -> bool:
        sizes = paged_attention.OP.bind(cast(tuple[Shaped | None, ...], operands))
        return kernel.takes(sizes, operands) is None

    coded, half = (
        operands_of(case, make_attention(case))
        for case in (AttentionCase(DECODE, cache_dtype=torch.int8), AttentionCase(DECODE))
    )
    assert takes(*coded)
    assert takes(*half)
    assert not takes(*coded[:6], None, None)
    assert not takes(*coded[:7], None)
    assert not takes(*half[:6], torch.ones(half[1].shape[0], 2, PAGE_SIZE), None)  # type: ignore[union-attr]
