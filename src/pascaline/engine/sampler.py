"""From logits to tokens: natively on the CPU where there is a library for it, else by torch.

Both take the same steps in fp64; only a draw within a rounding of two tokens' border may fall apart.
Random numbers are a pure function of (seed, position in the output), so a request's choices do
not depend on what else is in the batch, on the device, or on being preempted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from pascaline.engine.messages import TopLogprobs
from pascaline.engine.sequence import Sequence
from pascaline.kernels.cpu import native
from pascaline.kernels.cpu.views import Choice

CANDIDATES = 256
"""Most likely tokens that filters look at before they look at the whole vocabulary."""

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Sampled:
    """A chosen token, with log-probabilities when the request asked for them.

    Where `is_finite` is false the row has a NaN, or its largest logit is infinite, and nothing else
    here means anything.
    """

    token_id: int
    is_finite: bool = True
    logprob: float | None = None
    top_logprobs: TopLogprobs | None = None


class Samples(Protocol):
    """Choices of a step, which may still be under way."""

    def read(self) -> list[Sampled]:
        """Wait for them, in the order of the sequences that they are for."""
        ...


class Sampler(Protocol):
    """Chooses a step's tokens."""

    def launch(
        self, logits: torch.Tensor, sequences: list[Sequence], ahead: list[int] | None = None
    ) -> Samples:
        """Choose the next token of each sequence from its row of `logits` (S, V), fp32; see `sample`."""
        ...


@dataclass(frozen=True)
class _Known:
    sampled: list[Sampled]

    def read(self) -> list[Sampled]:
        return self.sampled


class SamplerAtOnce:
    """Has chosen when `launch` returns: natively on the CPU, elsewhere by torch."""

    def launch(
        self, logits: torch.Tensor, sequences: list[Sequence], ahead: list[int] | None = None
    ) -> Samples:
        return _Known(sample(logits, sequences, ahead) if sequences else [])


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


def draws_of(sequences: list[Sequence], ahead: list[int] | None = None) -> list[float]:
    """The number in [0, 1) that each row's token is drawn by; see `sample`."""
    return [
        0.0 if sequence.params.greedy else uniform(sequence.seed, sequence.output_length + more)
        for sequence, more in zip(sequences, ahead or [0] * len(sequences), strict=True)
    ]


def sample(logits: torch.Tensor, sequences: list[Sequence], ahead: list[int] | None = None) -> list[Sampled]:
    """Choose the next token of each sequence from its row of `logits` (S, V), fp32.

    Order of the steps: repetition, presence and frequency penalties, logit bias, temperature,
    top-k, top-p, min-p. Log-probabilities are of the raw logits.

    Parameters
    ----------
    ahead : of each row, tokens between the sequence's and the one that is chosen: none where it is left out.
        A sequence that is penalised has none.
    """
    library = native.library() if logits.device.type == "cpu" else ""
    if isinstance(library, str):
        return sample_by_torch(logits, sequences, ahead)
    return _sample_natively(library, logits.contiguous(), sequences, draws_of(sequences, ahead))


def sample_by_torch(
    logits: torch.Tensor, sequences: list[Sequence], ahead: list[int] | None = None
) -> list[Sampled]:
    """`sample` on any device."""
    draws = draws_of(sequences, ahead)
    finite = logits.amax(-1).isfinite().tolist()
    shaped = logits
    if any(_is_shaped(sequence) for sequence in sequences):
        shaped = torch.stack(
            [_shaped(row, sequence) for row, sequence in zip(logits, sequences, strict=True)]
        )
    chosen = shaped.argmax(dim=-1)
    for filtered, draw in ((False, _draw), (True, _draw_filtered)):
        rows = [
            row
            for row, sequence in enumerate(sequences)
            if not sequence.params.greedy and _filters(sequence) == filtered
        ]
        if rows:
            some = [sequences[row] for row in rows]
            numbers = [draws[row] for row in rows]
            chosen[rows] = draw(_probabilities(shaped[rows], some), some, numbers)
    results: list[Sampled] = []
    for row, (sequence, token_id) in enumerate(zip(sequences, chosen.tolist(), strict=True)):
        count = sequence.params.logprobs
        if count is None:
            results.append(Sampled(token_id, finite[row]))
        else:
            raw = logits[row].log_softmax(-1)
            results.append(Sampled(token_id, finite[row], float(raw[token_id]), top_logprobs(raw, count)))
    return results


def _sample_natively(
    library: native.Library, logits: torch.Tensor, sequences: list[Sequence], draws: list[float]
) -> list[Sampled]:
    choices = (Choice * len(sequences))()
    kept: list[torch.Tensor] = []
    for row, (choice, sequence) in enumerate(zip(choices, sequences, strict=True)):
        params = sequence.params
        choice.raw = choice.logits = logits.data_ptr() + row * logits.stride(0) * logits.element_size()
        if _is_shaped(sequence):
            kept.append(_shaped(logits[row], sequence))
            choice.logits = kept[-1].data_ptr()
        choice.temperature = params.temperature
        choice.top_k, choice.top_p, choice.min_p = params.top_k, params.top_p, params.min_p
        choice.draw = draws[row]
        choice.reported = -1 if params.logprobs is None else params.logprobs
    library.choose(choices, logits.shape[1])
    results: list[Sampled] = []
    for row, choice in enumerate(choices):
        token_id = choice.token
        if choice.reported < 0 or not choice.is_finite:
            results.append(Sampled(token_id, bool(choice.is_finite)))
            continue
        shift = choice.largest + math.log(choice.total)
        count = min(choice.reported, logits.shape[1])
        pairs = zip(choice.ids[:count], choice.values[:count], strict=True)
        tops = [(candidate, value - shift) for candidate, value in pairs]
        results.append(Sampled(token_id, True, float(logits[row, token_id]) - shift, tops))
    return results


def top_logprobs(logprobs: torch.Tensor, count: int) -> TopLogprobs:
    """The `count` most likely tokens of one row (V,)."""
    values, ids = logprobs.topk(count)
    return list(zip(ids.tolist(), values.tolist(), strict=True))


def _is_shaped(sequence: Sequence) -> bool:
    """Whether penalties or a bias change the logits."""
    params = sequence.params
    penalised = bool(sequence.output_counts) and (params.presence_penalty or params.frequency_penalty)
    return bool(penalised or params.logit_bias or params.repetition_penalty != 1.0)


def _shaped(logits: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    """A new row (V,), after penalties and bias."""
    target = logits.clone()
    params = sequence.params
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(sequence.tokens)), device=logits.device)
        values = target[seen]
        factor = params.repetition_penalty
        target[seen] = torch.where(values > 0, values / factor, values * factor)
    counts = sequence.output_counts
    if counts and (params.presence_penalty or params.frequency_penalty):
        ids = torch.tensor(list(counts), device=logits.device)
        times = torch.tensor(list(counts.values()), dtype=logits.dtype, device=logits.device)
        target[ids] -= params.frequency_penalty * times + params.presence_penalty
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=logits.device)
        target[ids] += torch.tensor(list(params.logit_bias.values()), device=logits.device)
    return target


def _filters(sequence: Sequence) -> bool:
    params = sequence.params
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0


def _probabilities(logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    """Of every token at each row's temperature, (S, V) fp64."""
    # Relative to the largest, no temperature can make a logit overflow; where inf − inf has made a
    # NaN, the logit was one of the largest.
    values = logits.double()
    values = values.sub_(values.amax(-1, keepdim=True)).nan_to_num_(nan=0.0, neginf=float("-inf"))
    values /= _column([sequence.params.temperature for sequence in sequences], logits.device)
    return values.softmax(dim=-1)


def _column(values: list[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)[:, None]


def _draw(probabilities: torch.Tensor, _: list[Sequence], draws: list[float]) -> torch.Tensor:
    """One column a row, by inversion of the cumulative distribution; rows need not add up to 1."""
    cumulative = probabilities.cumsum(-1)
    numbers = _column(draws, probabilities.device)
    picked = torch.searchsorted(cumulative, numbers * cumulative[:, -1:], right=True)
    # A draw that rounds up to the total would pick nothing: the last possible token is meant.
    picked = picked.clamp(max=probabilities.shape[-1] - 1)
    picked = torch.where(
        probabilities.gather(1, picked) > 0, picked, (cumulative < cumulative[:, -1:]).sum(-1, keepdim=True)
    )
    return picked[:, 0]


def _draw_filtered(
    probabilities: torch.Tensor, sequences: list[Sequence], draws: list[float]
) -> torch.Tensor:
    """One token a row from what its filters leave, in order of likelihood.

    Filters keep the beginning of that order, mostly a short one: where it ends within the
    CANDIDATES most likely tokens, the whole vocabulary need not be sorted.
    """
    vocabulary = probabilities.shape[-1]
    chosen = torch.empty(len(sequences), dtype=torch.int64, device=probabilities.device)
    pending = list(range(len(sequences)))
    for count in (min(CANDIDATES, vocabulary), vocabulary):
        if not pending:
            break
        some = [sequences[row] for row in pending]
        ordered, ids = _most_likely(probabilities[pending], count)
        kept = _filter(ordered, some)
        picked = _draw(kept, some, [draws[row] for row in pending])
        chosen[pending] = ids.gather(1, picked[:, None])[:, 0]
        # More likely than the last candidate is also more likely than all others.
        least = ordered.masked_fill(kept == 0, 1.0).amin(-1)
        ends_within = (least > ordered[:, -1]).tolist()
        pending = [
            row
            for row, ends in zip(pending, ends_within, strict=True)
            if count < vocabulary and not (ends and sequences[row].params.top_k <= count)
        ]
    return chosen


def _most_likely(probabilities: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest of each row and their ids, largest first, equals in the order of ids."""
    if count == probabilities.shape[-1]:
        return probabilities.sort(dim=-1, descending=True, stable=True)
    ids = probabilities.topk(count, dim=-1, sorted=False).indices.sort(dim=-1).values
    ordered, order = probabilities.gather(1, ids).sort(dim=-1, descending=True, stable=True)
    return ordered, ids.gather(1, order)


def _filter(probabilities: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    """Zero what top-k, top-p and min-p drop; rows (S, C) begin a distribution, most likely first."""
    device = probabilities.device
    params = [sequence.params for sequence in sequences]
    ranks = torch.arange(probabilities.shape[-1], device=device)
    top_k = torch.tensor([item.top_k for item in params], device=device)[:, None]
    top_p = _column([item.top_p for item in params], device)
    min_p = _column([item.min_p for item in params], device)
    kept = probabilities.masked_fill((top_k > 0) & (ranks >= top_k), 0.0)
    kept = torch.where(top_k > 0, kept / kept.sum(-1, keepdim=True), kept)
    before = kept.cumsum(-1) - kept
    # The first token always stays: nothing is more likely.
    dropped = ((before >= top_p) & (ranks > 0)) | (kept < min_p * kept[:, :1])
    return kept.masked_fill(dropped, 0.0)
