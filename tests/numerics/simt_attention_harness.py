"""Attention over pages on cards: kernels against the op's reference in fp64, with operands and bounds from here.

Places that nobody wrote hold NaN, and entries of the page table that no token needs are pages far out of the
cache. Sequences without new tokens may lie between others, their context lengths 0.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from host_card import KernelFault
from linear_harness import Execute, as_array

from pascaline.kernels import paged_attention
from pascaline.kernels.cuda.attention_call import PAGE_SIZE, AttentionCall
from pascaline.kernels.cuda.specialisation import LaunchPlan

_NOWHERE = 1 << 24  # a page


@dataclass(frozen=True)
class AttentionCase:
    """One call: of each sequence the new tokens and the length of its context with them."""

    rows: tuple[int, ...]
    contexts: tuple[int, ...]
    heads: int = 14
    key_value_heads: int = 2
    head_dim: int = 64
    cache_dtype: torch.dtype = torch.float16
    window: int = 0
    softcap: float = 0.0
    table_width: int = 0  # at least; as many as the longest context needs
    query_padding: int = 0  # elements between tokens' queries
    key_size: float = 1.0  # standard deviation

    def __str__(self) -> str:
        short = lambda values: "+".join(map(str, values)) if len(values) < 6 else f"{len(values)}x"  # noqa: E731
        parts = [f"{short(self.rows)}of{short(self.contexts)}", f"{self.heads}:{self.key_value_heads}x{self.head_dim}"]
        parts += [str(self.cache_dtype).removeprefix("torch."), f"window{self.window}", f"cap{self.softcap:g}"]
        return "-".join(parts)

    @property
    def call(self) -> AttentionCall:
        longest = max(-(-context // PAGE_SIZE) for context in self.contexts)
        return AttentionCall(
            max(1, sum(self.rows)),
            len(self.rows),
            max(self.table_width, longest),
            self.heads,
            self.key_value_heads,
            self.head_dim,
            self.heads * self.head_dim + self.query_padding,
            self.cache_dtype,
            self.window,
            self.softcap,
            1.5 / math.sqrt(self.head_dim),
        )


@dataclass(frozen=True)
class AttentionOperands:
    """Parameters
    ----------
    values : the op's inputs as they are stored, in fp64; keys and values as numbers.
    buffers : those of the launch.
    """

    values: tuple[torch.Tensor, ...]
    buffers: dict[str, numpy.ndarray]


def make_operands(case: AttentionCase) -> AttentionOperands:
    """Random, and the same for the same case."""
    call = case.call
    generator = torch.Generator().manual_seed(zlib.crc32(str(case).encode()))
    pages = sum(-(-context // PAGE_SIZE) for context in case.contexts) + 2
    order = torch.randperm(pages, generator=generator)
    table = torch.full((call.sequences, call.table_width), _NOWHERE, dtype=torch.int32)
    written = torch.zeros(pages, PAGE_SIZE, dtype=torch.bool)
    taken = 0
    for sequence, context in enumerate(case.contexts):
        count = -(-context // PAGE_SIZE)
        own = order[taken : taken + count]
        table[sequence, :count] = own.int()
        written[own] = (torch.arange(count * PAGE_SIZE) < context).view(count, PAGE_SIZE)
        taken += count
    starts = torch.tensor([0, *case.rows]).cumsum(0).int()
    contexts = torch.tensor(case.contexts, dtype=torch.int32)
    wide = torch.randn(call.tokens, call.query_stride, generator=generator)
    query = wide[:, : call.heads * call.head_dim].reshape(call.tokens, call.heads, call.head_dim)
    buffers = {"query": as_array(wide)}
    caches = []
    for name in ("key", "value"):
        numbers = torch.randn(pages, call.key_value_heads, PAGE_SIZE, call.head_dim, generator=generator)
        numbers *= case.key_size if name == "key" else 1.0
        nobody = ~written[:, None, :, None]
        if call.cache_dtype == torch.int8:
            scales = numbers.abs().amax(-1) / 127
            codes = (numbers / scales[..., None]).round().to(torch.int8)
            cache = codes.double() * scales.double()[..., None]
            scales = scales.masked_fill(nobody[..., 0], float("nan"))
            buffers[f"{name}_cache"], buffers[f"{name}_scales"] = as_array(codes), as_array(scales)
        else:
            stored = numbers.to(call.cache_dtype).masked_fill(nobody, float("nan"))
            cache = stored.double()
            buffers[f"{name}_cache"] = as_array(stored)
        caches.append(cache.transpose(1, 2))
    buffers |= {
        "page_table": as_array(table),
        "query_start": as_array(starts),
        "context_lengths": as_array(contexts),
    }
    # The reference looks all entries up before it cuts them off.
    known = torch.where(table < pages, table, 0)
    return AttentionOperands((query.double(), *caches, known, starts, contexts), buffers)


def check_attention(
    plan: Callable[[AttentionCall], LaunchPlan],
    is_taken: Callable[[int], bool],
    case: AttentionCase,
    execute: Execute,
    *,
    keys_at_once: float,
) -> None:
    """A launch is within the bound of what the reference has; of sequences not taken it writes nothing.

    Parameters
    ----------
    is_taken : by a sequence's number of new tokens.
    keys_at_once : see `paged_attention.error_bound`.
    """
    call = case.call
    operands = make_operands(case)
    y = numpy.zeros((call.tokens, call.heads, call.head_dim), numpy.float32)
    taken = numpy.repeat([is_taken(rows) for rows in case.rows], case.rows)
    buffers = operands.buffers | {"y": y}
    try:
        execute(plan(call), buffers, ("y",))
    except KernelFault as fault:
        left = (call.tokens - int(taken.sum())) * call.heads * call.head_dim
        if not left or not re.search(rf": y: {left} of {y.size} elements not written", str(fault)):
            raise
    parameters = {"scale": call.scale, "window": call.window, "softcap": call.softcap}
    expected = paged_attention.reference(*operands.values, **parameters).numpy()
    bound = paged_attention.error_bound(*operands.values, **parameters, keys_at_once=keys_at_once).numpy()
    found = y.astype(numpy.float64)[taken]
    assert numpy.isfinite(found).all()
    excess = numpy.abs(found - expected[taken]) - bound[taken]
    assert excess.max(initial=-1.0) <= 0, (
        f"{case}: {numpy.abs(found - expected[taken]).max()} off, {excess.max()} more than allowed"
    )
