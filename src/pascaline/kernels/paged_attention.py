"""paged_attention: causal attention of new tokens over keys and values kept in pages.

The T new tokens belong to S sequences one after the other: sequence s owns the rows
query_start[s] … query_start[s + 1] − 1 of `query`, and they are the *last* tokens of its
context_lengths[s] tokens, whose keys and values already lie in the pages page_table[s].
Query head h reads key/value head h // (H / KV).

    y[t, h] = Σⱼ softmaxⱼ(cap(scale · query[t, h] · key[j])) · value[j],  j ≤ the position p of t

With a `window` (0: none) a token sees itself and the window − 1 tokens before it, p − j < window;
with a `softcap` (0: none) cap(s) = softcap · tanh(s / softcap). Caches of int8 hold codes: keys and values
are these times the scale of their token's head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from pascaline.kernels.attention_cases import CASES, make_inputs
from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import FP32_ROUNDING, Op, Operand, Tolerance, summation_error
from pascaline.workload.limits import GATHERED_TOKENS, SCORED_ELEMENTS


def per_token(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    page_table: torch.Tensor,
    query_start: torch.Tensor,
    context_lengths: torch.Tensor,
    key_scales: torch.Tensor | None = None,
    value_scales: torch.Tensor | None = None,
    *,
    window: int,
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Each row of `query` with the keys and values that it sees, one per query head, (L, H, D)."""
    repeat = query.shape[1] // key_cache.shape[2]
    caches = (key_cache, key_scales), (value_cache, value_scales)
    for index, context in enumerate(context_lengths.tolist()):
        start, stop = query_start[index : index + 2].tolist()
        key, value = (
            numbers_of(cache, scales, page_table[index], query.dtype)
            .flatten(0, 1)[:context]
            .repeat_interleave(repeat, dim=1)
            for cache, scales in caches
        )
        for token in range(start, stop):
            visible = context - (stop - 1 - token)
            first = max(visible - window, 0) if window else 0
            yield token, key[first:visible], value[first:visible]


def numbers_of(
    cache: torch.Tensor, scales: torch.Tensor | None, pages: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Keys or values of `pages`, (*pages, B, KV, D)."""
    numbers = cache[pages].to(dtype)
    return numbers if scales is None else numbers * scales[pages].transpose(-1, -2)[..., None]


def reference(
    query: torch.Tensor, *rest: torch.Tensor, scale: float, window: int = 0, softcap: float = 0.0
) -> torch.Tensor:
    out = torch.empty_like(query)
    for token, key, value in per_token(query, *rest, window=window):
        scores = torch.einsum("hd,jhd->hj", query[token], key) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        out[token] = torch.einsum("hj,jhd->hd", scores.softmax(-1), value)
    return out


def launch(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    page_table: torch.Tensor,
    query_start: torch.Tensor,
    context_lengths: torch.Tensor,
    key_scales: torch.Tensor | None = None,
    value_scales: torch.Tensor | None = None,
    *,
    out: torch.Tensor,
    workspace: Workspace,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> None:
    starts = query_start.tolist()
    contexts = context_lengths.tolist()
    page_size = key_cache.shape[1]
    caches = (key_cache, key_scales), (value_cache, value_scales)

    def first_page(context: int, queries: int) -> int:
        """Of the oldest token that any of a sequence's last `queries` tokens sees."""
        return max(context - queries - window + 1, 0) // page_size if window else 0

    decoding: list[tuple[int, int]] = []
    for index, context in enumerate(contexts):
        start, stop = starts[index], starts[index + 1]
        first, last = first_page(context, stop - start), -(-context // page_size)
        if stop - start == 1:
            decoding.append((last - first, index))
        elif stop > start:
            pages = page_table[index, first:last]
            length = context - first * page_size
            key, value = (
                numbers_of(cache, scales, pages, query.dtype).flatten(0, 1)[:length]
                for cache, scales in caches
            )
            _prefill(query[start:stop], key, value, scale, window, softcap, out[start:stop])
    # Similar lengths side by side waste the least on padding.
    decoding.sort()
    while decoding:
        span = decoding[-1][0]
        together = [index for _, index in decoding[-max(1, GATHERED_TOKENS // (span * page_size)) :]]
        del decoding[-len(together) :]
        if len(together) == 1:
            # PERF: exactly its tokens and no mask: 0.09 ms, with a mask 0.13 (100 tokens of the demo, EPYC).
            index, context = together[0], contexts[together[0]]
            first = first_page(context, 1)
            pages = page_table[index, first : first + span]
            start = max(context - window, 0) - first * page_size if window else 0
            key, value = (
                numbers_of(cache, scales, pages, query.dtype).flatten(0, 1)[
                    None, start : context - first * page_size
                ]
                for cache, scales in caches
            )
            row = starts[index]
            out[row : row + 1] = _decode(query[row : row + 1], key, value, None, scale, softcap)
            continue
        indices = torch.tensor(together, device=query.device)
        firsts = [first_page(contexts[index], 1) for index in together]
        columns = torch.tensor(firsts, device=query.device)[:, None] + torch.arange(span, device=query.device)
        pages = page_table[indices].gather(1, columns.clamp(max=page_table.shape[1] - 1))
        key, value = (numbers_of(cache, scales, pages, query.dtype).flatten(1, 2) for cache, scales in caches)
        for row, (index, first) in enumerate(zip(together, firsts, strict=True)):
            # What lies behind a sequence's end may be anything, and 0 · NaN is not 0.
            value[row, contexts[index] - first * page_size :] = 0
        positions = (columns[:, :, None] * page_size + torch.arange(page_size, device=query.device)).flatten(
            1
        )
        ends = context_lengths[indices][:, None]
        hidden = positions >= ends
        if window:
            hidden |= positions < ends - window
        rows = query_start[indices].long()
        out[rows] = _decode(query[rows], key, value, hidden[:, None, None, :], scale, softcap)


def _prefill(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int,
    softcap: float,
    out: torch.Tensor,
) -> None:
    """One sequence: `query` and `out` (Q, H, D), the last Q of `key` and `value` (L, KV, D)."""
    (count, heads), length = query.shape[:2], key.shape[0]
    if count == length and not softcap and (not window or length <= window):
        out.copy_(_sdpa(query, key, value, None, scale))
        return
    rows = max(1, SCORED_ELEMENTS // (length * (heads if softcap else 1)))
    positions = torch.arange(length, device=query.device)
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        own = positions[length - count + start : length - count + stop, None]
        seen = positions <= own
        if window:
            seen &= positions > own - window
        if softcap:
            out[start:stop] = _capped(query[start:stop], key, value, seen, scale, softcap)
        else:
            out[start:stop] = _sdpa(query[start:stop], key, value, seen, scale)


def _sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """(Q, H, D), by torch's fused attention; `seen` (Q, L), or None for causal with Q = L."""
    attended = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        key.transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        attn_mask=seen,
        is_causal=seen is None,
        scale=scale,
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: torch.Tensor,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    """As `_sdpa` with a soft cap, which torch's fused attention does not have."""
    count, heads, width = query.shape
    length, kv_heads = key.shape[:2]
    grouped = query.view(count, kv_heads, heads // kv_heads, width).transpose(0, 1).flatten(1, 2)
    scores = torch.matmul(grouped, key.permute(1, 2, 0)).view(kv_heads, count, -1, length)
    weights = _softmax(scores, ~seen[:, None, :], scale, softcap)
    attended = torch.matmul(weights.flatten(1, 2), value.transpose(0, 1))
    return attended.view(kv_heads, count, -1, width).transpose(0, 1).reshape(count, heads, width)


def _decode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    hidden: torch.Tensor | None,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    """One new token for each of B sequences: `query` (B, H, D), `key` and `value` (B, L, KV, D).

    `hidden` (B, 1, 1, L) are the tokens that are not seen, if there are any.
    """
    batch, heads, width = query.shape
    kv_heads = key.shape[2]
    grouped = query.view(batch, kv_heads, heads // kv_heads, width)
    scores = torch.matmul(grouped, key.permute(0, 2, 3, 1))
    weights = _softmax(scores, hidden, scale, softcap)
    return torch.matmul(weights, value.transpose(1, 2)).view(batch, heads, width)


def _softmax(scores: torch.Tensor, hidden: torch.Tensor | None, scale: float, softcap: float) -> torch.Tensor:
    """Weights of `scores`, which are overwritten; of those that are `hidden` the weight is 0."""
    if softcap:
        scores.mul_(scale / softcap).tanh_().mul_(softcap)
    else:
        scores.mul_(scale)
    if hidden is not None:
        scores.masked_fill_(hidden, float("-inf"))
    return scores.softmax(-1)


def error_bound(
    query: torch.Tensor,
    *rest: torch.Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    keys_at_once: float = math.inf,
) -> torch.Tensor:
    """See the op's tolerance; with sums that are scaled anew after so many keys, cpu_attention.py's."""
    bound = torch.empty_like(query)
    of_codes = 0 if rest[0].is_floating_point() else 1
    for token, key, value in per_token(query, *rest, window=window):
        length, _, width = key.shape
        scores = torch.einsum("hd,jhd->hj", query[token], key) * scale
        size = torch.einsum("hd,jhd->hj", query[token].abs(), key.abs()) * scale
        score_error = (summation_error(width) + 2 + of_codes) * size
        if softcap:
            ratio = torch.tanh(scores / softcap)
            scores = softcap * ratio
            size = scores.abs()
            score_error = score_error * (1 - ratio.square()) + 7 * size
        weights = scores.softmax(-1)
        score_error = score_error + 2 * size.amax(-1, keepdim=True)
        mean_error = (weights * score_error).sum(-1, keepdim=True)
        relative = score_error + mean_error + 2 * summation_error(length) + 8 + of_codes
        if keys_at_once < math.inf:
            relative = relative + 6 * (length / keys_at_once + 2) + 2 * size.amax(-1, keepdim=True)
        bound[token] = FP32_ROUNDING * torch.einsum("hj,jhd->hd", weights * relative, value.abs())
    return bound


_ALSO = (torch.float16, torch.bfloat16, torch.int8)

OP = Op(
    name="paged_attention",
    axes={
        "T": "new tokens of all sequences",
        "H": "query heads",
        "D": "head size",
        "P": "pages in the pool",
        "B": "tokens a page",
        "KV": "key/value heads",
        "S": "sequences",
        "W": "columns of the page table",
    },
    inputs={
        "query": Operand(("T", "H", "D")),
        "key_cache": Operand(("P", "B", "KV", "D"), also=_ALSO),
        "value_cache": Operand(("P", "B", "KV", "D"), also=_ALSO),
        "page_table": Operand(("S", "W"), torch.int32),
        "query_start": Operand(("S+1",), torch.int32),
        "context_lengths": Operand(("S",), torch.int32),
        "key_scales": Operand(("P", "KV", "B"), optional=True),
        "value_scales": Operand(("P", "KV", "B"), optional=True),
    },
    output=Operand(("T", "H", "D")),
    reference=reference,
    cases=CASES,
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=error_bound,
        derivation="in units of u, with m = scale · Σ|q·k|: a score errs by m times a sum of D products "
        "(`summation_error`) and 2 more for the scaling, and by 2 · max m where the largest score is "
        "subtracted; a weight's relative error is that, plus its mean over the weights through their "
        "sum, plus that sum of L, exp (2 ulp = 4 · u) and the division; the sum of L weighted values "
        "adds as much as its own. Each weight's error counts with its weight times |value|. A soft cap "
        "passes a score's error on times its slope, 1 − tanh², and adds tanh (2 ulp = 4 · u) and the "
        "products with the cap and its reciprocal, which bounds m by the cap from there on. Codes times "
        "their scales are rounded once, keys and values each",
    ),
    source="Vaswani et al. 2017, arXiv:1706.03762; pages: Kwon et al. 2023, arXiv:2309.06180; "
    "window: Beltagy et al. 2020, arXiv:2004.05150; soft cap: Gemma Team 2024, arXiv:2408.00118",
)

KERNEL = Kernel(
    name="torch.paged_attention",
    ops=("paged_attention",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    launch=launch,
)
