"""The attention of cards: decoding sequences by one launch, and the others of a step by a second.

Where no sequence has more than a few new tokens, as in graphs, tensor cores take all by the first alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from pascaline.kernels import paged_attention
from pascaline.kernels.cuda.attention_call import CACHE_TYPES, PAGE_SIZE, AttentionCall
from pascaline.kernels.cuda.attention_decode import CAPABILITY, MOST_ROWS, plan_attention_decode
from pascaline.kernels.cuda.attention_prefill import plan_attention_prefill
from pascaline.kernels.cuda.attention_simt_decode import plan_attention_simt_decode
from pascaline.kernels.cuda.attention_simt_prefill import plan_attention_simt_prefill
from pascaline.kernels.cuda.op_kernel import cuda_kernel, no_needs
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kernels.kernel import Kernel
from pascaline.kernels.store_rows import scales_fit
from pascaline.workload.op_costs import Axes

Plans = Callable[[AttentionCall, ChipLimits], tuple[LaunchPlan, ...]]


def _call(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    page_table: torch.Tensor,
    *,
    scale: float,
    window: float,
    softcap: float,
) -> AttentionCall:
    tokens, heads, head_dim = query.shape
    sequences, table_width = page_table.shape
    return AttentionCall(
        tokens,
        sequences,
        table_width,
        heads,
        key_cache.shape[2],
        head_dim,
        query.stride(0),
        key_cache.dtype,
        int(window),
        softcap,
        scale,
    )


def _by_two(
    plan_decode: Callable[[AttentionCall, ChipLimits], LaunchPlan],
    plan_prefill: Callable[[AttentionCall, ChipLimits], LaunchPlan],
) -> Plans:
    """A launch for sequences of one new token, and where there may be others, one for these before it."""

    def plans(call: AttentionCall, chip: ChipLimits) -> tuple[LaunchPlan, ...]:
        decode = plan_decode(call, chip)
        # As many tokens as sequences: one each.
        return (decode,) if call.tokens == call.sequences else (plan_prefill(call, chip), decode)

    return plans


def _by_one(call: AttentionCall, chip: ChipLimits) -> tuple[LaunchPlan, ...]:
    """For sequences of a few new tokens."""
    return (plan_attention_decode(call, chip, most_rows=1 if call.tokens == call.sequences else MOST_ROWS),)


def _kernel(
    name: str,
    arithmetic: str,
    plans: Plans,
    needs: Callable[[ChipLimits], str | None],
    takes: Callable[[Axes, tuple[object, ...]], str | None],
) -> Kernel:
    def recipe(
        chip: ChipLimits,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        _value_cache: torch.Tensor,
        page_table: torch.Tensor,
        _query_start: torch.Tensor,
        _context_lengths: torch.Tensor,
        _key_scales: torch.Tensor | None,
        _value_scales: torch.Tensor | None,
        *,
        scale: float,
        window: float = 0,
        softcap: float = 0.0,
    ) -> Recipe:
        call = _call(query, key_cache, page_table, scale=scale, window=window, softcap=softcap)
        return Recipe(plans(call, chip))

    return cuda_kernel(paged_attention.OP, recipe, name=name, arithmetic=arithmetic, needs=needs, takes=takes)


def _takes(_sizes: Axes, operands: tuple[object, ...]) -> str | None:
    """Caches as `KeyValueCache` has them on cards."""
    query, key_cache, value_cache, *_, key_scales, value_scales = operands
    assert isinstance(query, torch.Tensor)  # noqa: S101 - the op's operands
    for cache in (key_cache, value_cache):
        assert isinstance(cache, torch.Tensor)  # noqa: S101 - the op's operands
        if cache.dtype not in CACHE_TYPES:
            return f"it reads no cache of {cache.dtype}"
        if cache.shape[1] != PAGE_SIZE or not cache.transpose(1, 2).is_contiguous():
            return f"it reads pages of {PAGE_SIZE} tokens, head by head"
    assert isinstance(key_cache, torch.Tensor)  # noqa: S101 - the op's second operand
    if (reason := scales_fit(key_cache, key_scales, value_scales)) is not None:
        return reason
    if query.stride(2) != 1 or query.stride(1) != query.shape[2]:
        return "it reads heads side by side"
    return None


def _takes_for_tensor_cores(sizes: Axes, operands: tuple[object, ...]) -> str | None:
    cache = operands[1]
    assert isinstance(cache, torch.Tensor)  # noqa: S101 - the op's second operand
    if cache.dtype == torch.float32:
        return "tensor cores do not multiply fp32"
    if sizes["D"] % 16 or sizes["D"] > 256:
        return f"it takes heads of a multiple of 16 elements, at most 256, not of {sizes['D']}"
    return _takes(sizes, operands)


def _takes_for_fp32(sizes: Axes, operands: tuple[object, ...]) -> str | None:
    if sizes["D"] % 8 or sizes["D"] > 256:
        return f"it takes heads of a multiple of 8 elements, at most 256, not of {sizes['D']}"
    return _takes(sizes, operands)


def _needs_tensor_cores(limits: ChipLimits) -> str | None:
    if limits.compute_capability < CAPABILITY:
        return "tensor cores of 8.0 and newer are needed"
    return None


BY_TENSOR_CORES = _kernel(
    "cuda.attention_by_tensor_cores",
    "tensor_fp16",
    _by_two(plan_attention_decode, plan_attention_prefill),
    _needs_tensor_cores,
    _takes_for_tensor_cores,
)

OF_FEW_ROWS = {
    BY_TENSOR_CORES.name: _kernel(
        f"{BY_TENSOR_CORES.name}_of_few_rows",
        "tensor_fp16",
        _by_one,
        _needs_tensor_cores,
        _takes_for_tensor_cores,
    )
}
"""For steps in which no sequence has more than `MOST_ROWS` new tokens, by what they take the place of."""

BY_FP32 = _kernel(
    "cuda.attention_by_fp32",
    "fp32",
    _by_two(plan_attention_simt_decode, plan_attention_simt_prefill),
    no_needs,
    _takes_for_fp32,
)
