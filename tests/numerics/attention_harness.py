"""Attention over pages for CUDA's kernels: operands, what fp64 makes of them, and how far halves may be off.

Pages that nobody wrote, and places of a page behind a sequence's end, are NaN (scales, where there are
codes); numbers of pages that a sequence does not have are far outside of the cache. Queries lie within wider
rows.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from attention_bounds import decode_bound
from linear_harness import Execute, as_array, compare, from_array

from pascaline.kernels import paged_attention
from pascaline.kernels.cuda.attention_call import PAGE_SIZE, AttentionCall
from pascaline.kernels.cuda.attention_prefill import PrefillGeometry
from pascaline.kernels.cuda.specialisation import LaunchPlan
from pascaline.kernels.op import FP32_ROUNDING

HALF_UNITS = {torch.float16: (2.0**-11, 2.0**-25), torch.bfloat16: (2.0**-8, 2.0**-134)}
"""Half a unit in the last place, and of subnormals."""

_MISSING_PAGE = 0x3FFFFFFF


@dataclass(frozen=True)
class AttentionCase:
    """One call: `sequences` are (new tokens, tokens in all); those without new tokens are padding."""

    sequences: tuple[tuple[int, int], ...]
    heads: int = 4
    key_value_heads: int = 2
    head_dim: int = 64
    cache_dtype: torch.dtype = torch.float16
    window: int = 0
    softcap: float = 0.0
    scale: float = 0.125

    def __str__(self) -> str:
        sequences = "+".join(f"{new}of{context}" for new, context in self.sequences)
        name = f"{sequences}-{self.heads}x{self.key_value_heads}x{self.head_dim}-{self.cache_dtype}"
        if self.window:
            name += f"-window{self.window}"
        return name.replace("torch.", "") + (f"-cap{self.softcap:g}" if self.softcap else "")

    @property
    def tokens(self) -> int:
        return sum(new for new, _ in self.sequences)

    @property
    def call(self) -> AttentionCall:
        width = max(-(-context // PAGE_SIZE) for _, context in self.sequences) + 2
        return AttentionCall(
            tokens=self.tokens,
            sequences=len(self.sequences),
            table_width=width,
            heads=self.heads,
            key_value_heads=self.key_value_heads,
            head_dim=self.head_dim,
            query_stride=(self.heads + 2 * self.key_value_heads) * self.head_dim,
            cache_dtype=self.cache_dtype,
            window=self.window,
            softcap=self.softcap,
            scale=self.scale,
        )


@dataclass(frozen=True)
class AttentionOperands:
    """A case's buffers, and the op's operands as exact fp64 values."""

    buffers: dict[str, numpy.ndarray]
    exact: tuple[torch.Tensor, ...]
    parameters: dict[str, float]

    def expected(self) -> torch.Tensor:
        """The op's reference in fp64, (T, H, D)."""
        return paged_attention.reference(*self.exact, **self.parameters)  # type: ignore[arg-type]


def make_attention(case: AttentionCase) -> AttentionOperands:
    """Random; the same for the same case."""
    generator = torch.Generator().manual_seed(zlib.crc32(str(case).encode()))
    call = case.call
    tables, contexts = torch.zeros(call.sequences, call.table_width, dtype=torch.int64), []
    owned = [-(-context // PAGE_SIZE) for _, context in case.sequences]
    order = torch.randperm(sum(owned) + 3, generator=generator).tolist()
    for index, ((_, context), count) in enumerate(zip(case.sequences, owned, strict=True)):
        tables[index, :count] = torch.tensor(order[:count])
        del order[:count]
        contexts.append(context)
    pages = sum(owned) + 3
    written = torch.zeros(pages, PAGE_SIZE, dtype=torch.bool)
    for index, context in enumerate(contexts):
        for token in range(context):
            written[tables[index, token // PAGE_SIZE], token % PAGE_SIZE] = True
    missing = torch.arange(call.table_width)[None] >= torch.tensor(owned)[:, None]
    buffers: dict[str, numpy.ndarray] = {}
    exact = []
    for name in ("key", "value"):
        shape = (pages, case.key_value_heads, PAGE_SIZE, case.head_dim)
        unwritten = ~written[:, None, :, None]
        if case.cache_dtype == torch.int8:
            codes = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
            scales = (torch.rand(shape[:3], generator=generator) + 0.5) / 64
            buffers[f"{name}_cache"] = as_array(codes)
            buffers[f"{name}_scales"] = as_array(scales.masked_fill(unwritten[..., 0], math.nan))
            values = codes.double() * scales.double()[..., None]
        else:
            cache = torch.randn(shape, generator=generator).to(case.cache_dtype)
            buffers[f"{name}_cache"] = as_array(cache.masked_fill(unwritten, math.nan))
            values = cache.double()
        exact.append(values.transpose(1, 2))
    starts = torch.tensor([0, *(new for new, _ in case.sequences)]).cumsum(0)
    rows = torch.randn(case.tokens, call.query_stride, generator=generator)
    query = rows[:, : case.heads * case.head_dim].reshape(case.tokens, case.heads, case.head_dim)
    buffers |= {
        "query": as_array(rows),
        "page_table": as_array(tables.masked_fill(missing, _MISSING_PAGE).int()),
        "query_start": as_array(starts.int()),
        "context_lengths": as_array(torch.tensor(contexts).int()),
        "y": as_array(torch.empty(case.tokens, case.heads, case.head_dim)),
    }
    parameters = {"scale": case.scale, "window": case.window, "softcap": case.softcap}
    operands = (query.double(), *exact, tables, starts, torch.tensor(contexts))
    return AttentionOperands(buffers, operands, parameters)


def half_bound(case: AttentionCase, operands: AttentionOperands, keys_at_once: int) -> torch.Tensor:
    """Of |y − expected|, where queries and weights are rounded to halves and sums are of fp32, (T, H, D).

    With e half a unit in the last place and t that of subnormals: a query's rounding moves a score by at most
    scale · (e · Σ|q·k| + t · Σ|k|), and keys that are codes times scales as much again; a soft cap passes on
    no more. A score that is off by d makes its weight off by a factor of exp(d), and all others through their
    sum. A weight's own rounding is e of it or t of the largest so far, and values are off by e where they are
    codes. To that comes what fp32 does (`paged_attention.error_bound`), twice: the tensor cores cut off sums.
    """
    is_coded = case.cache_dtype == torch.int8
    unit, subnormal = HALF_UNITS[torch.float16 if is_coded else case.cache_dtype]
    of_sums = paged_attention.error_bound(
        *operands.exact,
        **operands.parameters,  # type: ignore[arg-type]
        keys_at_once=keys_at_once,
    )
    bound = 2 * of_sums
    for token, key, value in paged_attention.per_token(*operands.exact, window=case.window):
        query = operands.exact[0][token]
        scores = torch.einsum("hd,jhd->hj", query, key) * case.scale
        size = torch.einsum("hd,jhd->hj", query.abs(), key.abs()) * case.scale
        off = unit * size * (2 if is_coded else 1) + subnormal * key.abs().sum(-1).T * case.scale
        if case.softcap:
            scores = case.softcap * torch.tanh(scores / case.softcap)
        relative_to_largest = (scores - scores.amax(-1, keepdim=True)).exp()
        total = relative_to_largest.sum(-1, keepdim=True)
        weights = relative_to_largest / total
        off = torch.expm1(off)
        relative = off + (weights * off).sum(-1, keepdim=True) + unit * (2 if is_coded else 1)
        bound[token] += torch.einsum("hj,jhd->hd", weights * relative + subnormal / total, value.abs())
    return bound


def check_in_fp32(
    plan: LaunchPlan,
    case: AttentionCase,
    takes: Callable[[int], bool],
    keys_at_once: int,
    execute: Execute,
) -> None:
    """A launch in fp32 arithmetic is within the op's bound, and leaves rows alone that it does not take.

    Codes take two roundings more, of a score and of a weight by their scales. No score's terms add up to more
    than the largest of all keys' numbers makes of a query's.

    Parameters
    ----------
    takes : whether it takes a sequence of so many new tokens.
    keys_at_once : see `paged_attention.error_bound`.
    """
    operands = make_attention(case)
    operands.buffers["y"].fill(math.nan)
    execute(plan, operands.buffers, (), updates=("y",))
    expected = operands.expected()
    bound = paged_attention.error_bound(
        *operands.exact,
        **operands.parameters,  # type: ignore[arg-type]
        keys_at_once=keys_at_once,
    )
    if case.cache_dtype == torch.int8:
        query, key, value, *rest = operands.exact
        largest = case.scale * query.abs().sum(-1).max() * key.abs().max()
        size = paged_attention.reference(query, key, value.abs(), *rest, **operands.parameters)  # type: ignore[arg-type]
        bound += FP32_ROUNDING * (1 + 2 * largest) * size
    y = from_array(operands.buffers["y"], torch.float32).view(expected.shape)
    taken = torch.tensor([takes(new) for new, _ in case.sequences for _ in range(new)])
    compare(y[taken], expected[taken].numpy(), bound[taken].numpy())
    assert y[~taken].isnan().all()


def check_decode(
    plan: LaunchPlan, case: AttentionCase, operands: AttentionOperands, most_rows: int, execute: Execute
) -> None:
    """A launch of attention_decode.cu is within its bound; sequences of more rows come last.

    Rows of sequences that are left to others are missing: a write to them is found.
    """
    taken = sum(new for new, _ in case.sequences if new <= most_rows)
    y = torch.empty(taken, case.heads, case.head_dim)
    execute(plan, {**operands.buffers, "y": as_array(y)}, ("y",))
    scales = operands.buffers.get("value_scales")
    bound = decode_bound(
        *operands.exact,
        **operands.parameters,  # type: ignore[arg-type]
        cache_dtype=case.cache_dtype,
        value_scales=None if scales is None else torch.from_numpy(scales).double().transpose(1, 2)[..., None],
    )
    compare(y, operands.expected()[:taken].numpy(), bound[:taken].numpy())


def check_prefill(plan: LaunchPlan, case: AttentionCase, execute: Execute) -> None:
    """A launch of attention_prefill.cu or attention_wgmma.cu over sequences of several new tokens each."""
    operands = make_attention(case)
    execute(plan, operands.buffers, ("y",))
    compare_prefill(plan, case, operands)


def compare_prefill(plan: LaunchPlan, case: AttentionCase, operands: AttentionOperands) -> None:
    """Rows of sequences of several new tokens are within `half_bound`."""
    assert isinstance(plan.geometry, PrefillGeometry)
    expected = operands.expected()
    bound = half_bound(case, operands, plan.geometry.tile_tokens)
    y = from_array(operands.buffers["y"], torch.float32).view(expected.shape)
    taken = torch.tensor([new > 1 for new, _ in case.sequences for _ in range(new)])
    compare(y[taken], expected[taken].numpy(), bound[taken].numpy())
