"""paged_attention: causal attention of new tokens over keys and values kept in pages.

The T new tokens belong to S sequences one after the other: sequence s owns the rows
query_start[s] … query_start[s + 1] − 1 of `query`, and they are the *last* tokens of its
context_lengths[s] tokens, whose keys and values already lie in the pages page_table[s].
Query head h reads key/value head h // (H / KV).

    y[t, h] = Σⱼ softmaxⱼ(scale · query[t, h] · key[j]) · value[j],  j ≤ the position of t
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import FP32_ROUNDING, Case, Op, Operand, Tolerance, summation_error

GATHERED_TOKENS = 1 << 15
"""Context tokens that the decode path lays out densely at a time: a bound on its memory."""


def _per_token(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    page_table: torch.Tensor,
    query_start: torch.Tensor,
    context_lengths: torch.Tensor,
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Each row of `query` with the keys and values that it sees, one per query head, (L, H, D)."""
    repeat = query.shape[1] // key_cache.shape[2]
    for index, context in enumerate(context_lengths.tolist()):
        start, stop = query_start[index : index + 2].tolist()
        key = key_cache[page_table[index]].flatten(0, 1)[:context].repeat_interleave(repeat, dim=1)
        value = value_cache[page_table[index]].flatten(0, 1)[:context].repeat_interleave(repeat, dim=1)
        for token in range(start, stop):
            visible = context - (stop - 1 - token)
            yield token, key[:visible], value[:visible]


def reference(query: torch.Tensor, *rest: torch.Tensor, scale: float) -> torch.Tensor:
    out = torch.empty_like(query)
    for token, key, value in _per_token(query, *rest):
        scores = torch.einsum("hd,jhd->hj", query[token], key) * scale
        out[token] = torch.einsum("hj,jhd->hd", scores.softmax(-1), value)
    return out


def launch(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    page_table: torch.Tensor,
    query_start: torch.Tensor,
    context_lengths: torch.Tensor,
    *,
    out: torch.Tensor,
    workspace: Workspace,
    scale: float,
) -> None:
    starts = query_start.tolist()
    contexts = context_lengths.tolist()
    page_size = key_cache.shape[1]
    decoding: list[int] = []
    for index, context in enumerate(contexts):
        start, stop = starts[index], starts[index + 1]
        if stop - start == 1:
            decoding.append(index)
        elif stop > start:
            pages = page_table[index, : -(-context // page_size)]
            key = key_cache[pages].flatten(0, 1)[:context]
            value = value_cache[pages].flatten(0, 1)[:context]
            out[start:stop] = _prefill(query[start:stop], key, value, scale)
    # Similar lengths side by side waste the least on padding.
    decoding.sort(key=lambda index: contexts[index])
    while decoding:
        longest = contexts[decoding[-1]]
        together = decoding[-max(1, GATHERED_TOKENS // longest) :]
        del decoding[-len(together) :]
        indices = torch.tensor(together, device=query.device)
        rows = query_start[indices].long()
        pages = page_table[indices, : -(-longest // page_size)]
        key = key_cache[pages].flatten(1, 2)
        value = value_cache[pages].flatten(1, 2)
        out[rows] = _decode(query[rows], key, value, context_lengths[indices], scale)


def _prefill(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """One sequence: `query` (Q, H, D), the last Q of `key` and `value` (L, KV, D)."""
    count, length = query.shape[0], key.shape[0]
    mask = None
    if count != length:
        mask = torch.ones(count, length, dtype=torch.bool, device=query.device).tril(length - count)
    attended = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        key.transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)


def _decode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    context_lengths: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """One new token for each of B sequences: `query` (B, H, D), `key` and `value` (B, L, KV, D)."""
    batch, heads, width = query.shape
    length, kv_heads = key.shape[1:3]
    grouped = query.view(batch, kv_heads, heads // kv_heads, width)
    scores = torch.matmul(grouped, key.permute(0, 2, 3, 1)).mul_(scale)
    positions = torch.arange(length, device=query.device)
    padding = positions >= context_lengths[:, None]
    scores.masked_fill_(padding[:, None, None, :], float("-inf"))
    return torch.matmul(scores.softmax(-1), value.transpose(1, 2)).view(batch, heads, width)


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    sizes = case.axes
    contexts = torch.randint(1, sizes["B"] * sizes["W"] + 1, (sizes["S"],), generator=generator)
    if case.name.startswith("decode"):
        queries = torch.ones(sizes["S"], dtype=torch.int64)
    else:
        contexts[0] = sizes["T"] - (sizes["S"] - 1)
        queries = torch.tensor([sizes["T"] - (sizes["S"] - 1)] + [1] * (sizes["S"] - 1))
        if "history" in case.name:
            contexts[0] = min(int(contexts[0]) + 5, sizes["B"] * sizes["W"])
    cache = (sizes["P"], sizes["B"], sizes["KV"], sizes["D"])
    table = torch.randperm(sizes["P"], generator=generator)[: sizes["S"] * sizes["W"]]
    return (
        torch.randn(sizes["T"], sizes["H"], sizes["D"], generator=generator),
        torch.randn(cache, generator=generator),
        torch.randn(cache, generator=generator),
        table.view(sizes["S"], sizes["W"]).int(),
        torch.cat((torch.zeros(1, dtype=torch.int64), queries.cumsum(0))).int(),
        contexts.int(),
    )


def _bound(query: torch.Tensor, *rest: torch.Tensor, scale: float) -> torch.Tensor:
    bound = torch.empty_like(query)
    for token, key, value in _per_token(query, *rest):
        length, _, width = key.shape
        weights = (torch.einsum("hd,jhd->hj", query[token], key) * scale).softmax(-1)
        size = torch.einsum("hd,jhd->hj", query[token].abs(), key.abs()) * scale
        score_error = (summation_error(width) + 2) * size + 2 * size.amax(-1, keepdim=True)
        mean_error = (weights * score_error).sum(-1, keepdim=True)
        relative = score_error + mean_error + 2 * summation_error(length) + 8
        bound[token] = FP32_ROUNDING * torch.einsum("hj,jhd->hd", weights * relative, value.abs())
    return bound


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
        "key_cache": Operand(("P", "B", "KV", "D")),
        "value_cache": Operand(("P", "B", "KV", "D")),
        "page_table": Operand(("S", "W"), torch.int32),
        "query_start": Operand(("S+1",), torch.int32),
        "context_lengths": Operand(("S",), torch.int32),
    },
    output=Operand(("T", "H", "D")),
    reference=reference,
    # An upper bound from shapes alone: every new token sees the whole width of the page table.
    flop=lambda sizes: {
        "fp32": 4.0 * sizes["T"] * sizes["H"] * sizes["D"] * sizes["W"] * sizes["B"],
    },
    cases=(
        Case(
            "decode, unequal contexts",
            {"T": 5, "S": 5, "H": 6, "KV": 2, "D": 16, "P": 24, "B": 8, "W": 4},
            {"scale": 0.25},
        ),
        Case(
            "prefill and decode together",
            {"T": 14, "S": 3, "H": 9, "KV": 3, "D": 64, "P": 12, "B": 16, "W": 2},
            {"scale": 0.125},
        ),
        Case(
            "prefill after history",
            {"T": 9, "S": 1, "H": 4, "KV": 4, "D": 8, "P": 6, "B": 4, "W": 6},
            {"scale": 0.35},
        ),
    ),
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=_bound,
        derivation="in units of u, with m = scale · Σ|q·k|: a score errs by m times a sum of D products "
        "(`summation_error`) and 2 more for the scaling, and by 2 · max m where the largest score is "
        "subtracted; a weight's relative error is that, plus its mean over the weights through their "
        "sum, plus that sum of L, exp (2 ulp = 4 · u) and the division; the sum of L weighted values "
        "adds as much as its own. Each weight's error counts with its weight times |value|",
    ),
    source="Vaswani et al. 2017, arXiv:1706.03762; pages: Kwon et al. 2023, arXiv:2309.06180",
)

KERNEL = Kernel(
    name="torch.paged_attention",
    ops=("paged_attention",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    # Each sequence's pages are read once for its keys and once for its values.
    bytes_moved=lambda sizes: (
        8 * sizes["S"] * sizes["W"] * sizes["B"] * sizes["KV"] * sizes["D"]
        + 8 * sizes["T"] * sizes["H"] * sizes["D"]
    ),
    launch=launch,
)
