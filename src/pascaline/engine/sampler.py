"""From logits to tokens.

Random numbers are a pure function of (seed, position in the output), so a request's choices do
not depend on what else is in the batch, on the device, or on being preempted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pascaline.engine.messages import TopLogprobs
from pascaline.engine.sequence import Sequence

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Sampled:
    """A chosen token, with log-probabilities when the request asked for them."""

    token_id: int
    logprob: float | None = None
    top_logprobs: TopLogprobs | None = None


def uniform(seed: int, counter: int) -> float:
    """A number in [0, 1) from a seed and a counter.

    Source: SplitMix64's finaliser (Steele, Lea, Flood 2014), applied twice.
    """

    def mix(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) & _MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        return value ^ (value >> 31)

    return (mix(mix(seed & _MASK) ^ (counter & _MASK)) >> 11) / float(1 << 53)


def sample(logits: torch.Tensor, sequences: list[Sequence]) -> list[Sampled]:
    """Choose the next token of each sequence from its row of `logits` (S, V), fp32.

    Order of the steps: repetition, presence and frequency penalties, logit bias, temperature,
    top-k, top-p, min-p. Log-probabilities are of the raw logits.
    """
    reported = _raw_logprobs(logits, sequences)
    shaped = _shape_logits(logits, sequences)
    chosen = shaped.argmax(dim=-1)
    for filtered in (False, True):
        rows = [
            row
            for row, sequence in enumerate(sequences)
            if not sequence.params.greedy and _filters(sequence) == filtered
        ]
        if rows:
            chosen[rows] = _draw(shaped[rows], [sequences[row] for row in rows], filtered=filtered)
    results: list[Sampled] = []
    for row, (sequence, token_id) in enumerate(zip(sequences, chosen.tolist(), strict=True)):
        raw = reported.get(row)
        if raw is None or sequence.params.logprobs is None:
            results.append(Sampled(token_id))
        else:
            results.append(
                Sampled(token_id, float(raw[token_id]), top_logprobs(raw, sequence.params.logprobs))
            )
    return results


def top_logprobs(logprobs: torch.Tensor, count: int) -> TopLogprobs:
    """The `count` most likely tokens of one row (V,)."""
    values, ids = logprobs.topk(count)
    return list(zip(ids.tolist(), values.tolist(), strict=True))


def _raw_logprobs(logits: torch.Tensor, sequences: list[Sequence]) -> dict[int, torch.Tensor]:
    return {
        row: logits[row].log_softmax(-1)
        for row, sequence in enumerate(sequences)
        if sequence.params.logprobs is not None
    }


def _shape_logits(logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    """Penalties and bias; a new tensor only where some row needs one."""
    shaped = logits
    for row, sequence in enumerate(sequences):
        params = sequence.params
        counts = sequence.output_counts
        penalised = bool(counts) and (params.presence_penalty or params.frequency_penalty)
        if not (penalised or params.logit_bias or params.repetition_penalty != 1.0):
            continue
        if shaped is logits:
            shaped = logits.clone()
        target = shaped[row]
        if params.repetition_penalty != 1.0:
            seen = torch.tensor(sorted(set(sequence.tokens)), device=logits.device)
            values = target[seen]
            factor = params.repetition_penalty
            target[seen] = torch.where(values > 0, values / factor, values * factor)
        if penalised:
            ids = torch.tensor(list(counts), device=logits.device)
            times = torch.tensor(list(counts.values()), dtype=logits.dtype, device=logits.device)
            target[ids] -= params.frequency_penalty * times + params.presence_penalty
        if params.logit_bias:
            ids = torch.tensor(list(params.logit_bias), device=logits.device)
            target[ids] += torch.tensor(list(params.logit_bias.values()), device=logits.device)
    return shaped


def _filters(sequence: Sequence) -> bool:
    params = sequence.params
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0


def _draw(logits: torch.Tensor, sequences: list[Sequence], *, filtered: bool) -> torch.Tensor:
    """One token a row, by inversion of the cumulative distribution.

    Filters look at tokens in order of likelihood; without any (`filtered` false) the tokens stay
    in the order of their ids, which saves the sort.
    """
    device = logits.device

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)[:, None]

    params = [sequence.params for sequence in sequences]
    # Relative to the largest, no temperature can make a logit overflow; where inf − inf has made a
    # NaN, the logit was one of the largest.
    values = logits.double()
    values = values.sub_(values.amax(-1, keepdim=True)).nan_to_num_(nan=0.0, neginf=float("-inf"))
    values /= column([item.temperature for item in params])
    ids: torch.Tensor | None = None
    if filtered:
        values, ids = values.sort(dim=-1, descending=True, stable=True)
    probabilities = values.softmax(dim=-1)
    if filtered:
        probabilities = _filter(probabilities, sequences)
    cumulative = probabilities.cumsum(-1)
    draws = column([uniform(sequence.seed, sequence.output_length) for sequence in sequences])
    picked = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)
    # A draw that rounds up to the total would pick nothing: the last possible token is meant.
    picked = picked.clamp(max=values.shape[-1] - 1)
    picked = torch.where(
        probabilities.gather(1, picked) > 0, picked, (cumulative < cumulative[:, -1:]).sum(-1, keepdim=True)
    )
    return picked[:, 0] if ids is None else ids.gather(1, picked)[:, 0]


def _filter(probabilities: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    """Zero what top-k, top-p and min-p drop; rows (S, V) are sorted, most likely first."""
    device = probabilities.device
    params = [sequence.params for sequence in sequences]
    vocabulary = probabilities.shape[-1]
    ranks = torch.arange(vocabulary, device=device)
    limits = torch.tensor([item.top_k or vocabulary for item in params], device=device)[:, None]
    top_p = torch.tensor([item.top_p for item in params], dtype=torch.float64, device=device)[:, None]
    min_p = torch.tensor([item.min_p for item in params], dtype=torch.float64, device=device)[:, None]
    kept = probabilities.masked_fill(ranks >= limits, 0.0)
    kept = kept / kept.sum(-1, keepdim=True)
    before = kept.cumsum(-1) - kept
    # The first token always stays: nothing is more likely.
    dropped = ((before >= top_p) & (ranks > 0)) | (kept < min_p * kept[:, :1])
    return kept.masked_fill(dropped, 0.0)
