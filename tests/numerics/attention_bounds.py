"""How far attention_decode.cu may be from fp64, from its arithmetic: u is fp32's unit roundoff.

With m the sum of |scale · q · k| of a score and L tokens that a row sees:

1. A score errs by m times its sum's roundings (tensor cores cut off instead of rounding: 4 of u an addition),
   what is left over of its query, and 8 · u for scales; a soft cap passes that on times its slope, 1 − tanh²,
   and adds 8 · u of the cap itself (1 − 2 / (e^2x + 1) errs by as much of 1), which bounds m from there on.
2. The largest score is taken off and an exponent added: 2 · u of the largest m and of the exponent.
3. A weight's relative error is its score's, plus its mean over the weights through their sum, 4 · u of the
   power of two, what is left over of the weight, 16 · u of factors at the end, and twice the sums' over L:
   the weights' own in fp32, and that of values by tensor cores.
4. Sums are multiplied anew with each page at most, by a power of two of 4 · u and one rounding, twice.
5. What is below the least number of 16 bits is lost: of each weight so much of the largest.

Numbers in two parts of 16 bits leave over 2⁻²² of fp16's (11 bits each), and 2⁻¹⁸ of bf16's (8 bits each).
"""

from __future__ import annotations

import math

import torch

from pascaline.kernels.cuda.attention_call import PAGE_SIZE
from pascaline.kernels.op import FP32_ROUNDING, summation_error
from pascaline.kernels.paged_attention import per_token

_LEFT_OVER = {torch.float16: 2.0**-22, torch.int8: 2.0**-22, torch.bfloat16: 2.0**-18}
"""Of numbers in two parts, by the cache's type."""
_WEIGHT_EXPONENT = {torch.float16: 14, torch.int8: 6, torch.bfloat16: 0}
"""Weights are so many powers of two larger: attention_decode.cu."""
_LEAST = {torch.float16: 2.0**-25, torch.int8: 2.0**-25, torch.bfloat16: 2.0**-134}
_CUT_OFF = 4.0


def decode_bound(
    query: torch.Tensor,
    *rest: torch.Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    cache_dtype: torch.dtype = torch.float16,
    value_scales: torch.Tensor | None = None,
) -> torch.Tensor:
    """Of attention_decode.cu, (T, H, D), for the op's operands in fp64.

    Parameters
    ----------
    value_scales : of a cache of int8, as the op's cache is laid out, (P, B, KV, 1); it is a product then.
    """
    u, left_over = FP32_ROUNDING, _LEFT_OVER[cache_dtype]
    exponent = _WEIGHT_EXPONENT[cache_dtype]
    units = rest[1] if value_scales is None else rest[1] / value_scales
    bound = torch.empty_like(query)
    rows = per_token(query, *rest, window=window)
    in_units = per_token(query, rest[0], units, *rest[2:], window=window)
    for (token, key, value), (_, _, codes) in zip(rows, in_units, strict=True):
        length, _, width = key.shape
        scores = torch.einsum("hd,jhd->hj", query[token], key) * scale
        size = torch.einsum("hd,jhd->hj", query[token].abs(), key.abs()) * scale
        score_error = (u * (_CUT_OFF * summation_error(width) + 8) + left_over) * size
        if softcap:
            ratio = torch.tanh(scores / softcap)
            scores = softcap * ratio
            score_error = score_error * (1 - ratio.square()) + 8 * u * softcap
            size = torch.full_like(scores, softcap)
        weights = scores.softmax(-1)
        score_error = score_error + 2 * u * (size.amax(-1, keepdim=True) + exponent * math.log(2.0))
        relative = score_error + (weights * score_error).sum(-1, keepdim=True) + left_over
        relative = relative + u * ((1 + _CUT_OFF) * summation_error(length) + 20)
        relative = relative + 2 * u * 5 * (length / PAGE_SIZE + 2)
        bound[token] = torch.einsum("hj,jhd->hd", weights * relative, value.abs())
        least = _LEAST[cache_dtype] * 2.0**-exponent * weights.amax(-1)
        bound[token] += least[:, None] * codes.abs().sum(0)
    return bound
