"""The sampler against an independent implementation in numpy float64."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import numpy
import pytest
import torch
from numpy.typing import NDArray

from pascaline.engine.sampler import CANDIDATES, sample, uniform
from pascaline.engine.sampling_params import SamplingParams
from pascaline.engine.sequence import Sequence
from pascaline.kernels.cpu import native

VOCABULARY = 61
Vector = NDArray[numpy.float64]


@pytest.fixture(params=["native", "torch"], autouse=True)
def _sampler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is of both."""
    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda: "this test is of torch's")
    elif isinstance(native.library(), str):
        pytest.skip(f"no native library here: {native.library()}")


def sequence_of(
    params: SamplingParams, seed: int = 0, prompt: tuple[int, ...] = (0,), output: tuple[int, ...] = ()
) -> Sequence:
    sequence = Sequence(1, 0, 0, params, seed, list(prompt), len(prompt))
    for token_id in output:
        sequence.append(token_id)
    return sequence


def expected_distribution(logits: Vector, sequence: Sequence) -> tuple[NDArray[numpy.int64], Vector]:
    """Token ids in the order in which they are drawn, and their probabilities."""
    params = sequence.params
    scores = logits.astype(numpy.float64).copy()
    if params.repetition_penalty != 1.0:
        for token_id in set(sequence.tokens):
            factor = params.repetition_penalty
            scores[token_id] = (
                scores[token_id] / factor if scores[token_id] > 0 else scores[token_id] * factor
            )
    for token_id, times in Counter(sequence.tokens[sequence.prompt_length :]).items():
        scores[token_id] -= params.presence_penalty + times * params.frequency_penalty
    for token_id, bias in params.logit_bias.items():
        scores[token_id] += bias
    if params.temperature == 0.0:
        best = int(scores.argmax())
        return numpy.array([best]), numpy.array([1.0])
    scores = scores / params.temperature
    weights = numpy.exp(scores - scores.max())
    order = numpy.arange(len(weights))
    if params.top_k or params.top_p < 1.0 or params.min_p:
        order = numpy.argsort(-weights, kind="stable")
    weights = weights[order]
    if params.top_k:
        weights[params.top_k :] = 0.0
    weights /= weights.sum()
    if params.top_p < 1.0:
        size = int(numpy.searchsorted(numpy.cumsum(weights), params.top_p)) + 1
        weights[size:] = 0.0
    if params.min_p:
        weights[weights < params.min_p * weights[0]] = 0.0
    return order, weights / weights.sum()


def expected_token(logits: Vector, sequence: Sequence) -> int:
    order, weights = expected_distribution(logits, sequence)
    draw = uniform(sequence.seed, sequence.output_length)
    return int(order[int(numpy.searchsorted(numpy.cumsum(weights), draw, side="right"))])


SETTINGS = {
    "plain": SamplingParams(),
    "greedy": SamplingParams(temperature=0.0),
    "cold": SamplingParams(temperature=0.3),
    "hot": SamplingParams(temperature=5.0),
    "top_k": SamplingParams(top_k=5),
    "top_k 1": SamplingParams(top_k=1),
    "top_k beyond the vocabulary": SamplingParams(top_k=1000),
    "top_p": SamplingParams(top_p=0.7),
    "top_p tiny": SamplingParams(top_p=1e-9),
    "min_p": SamplingParams(min_p=0.15),
    "min_p 1": SamplingParams(min_p=1.0),
    "repetition": SamplingParams(repetition_penalty=1.7),
    "repetition below 1, greedy": SamplingParams(temperature=0.0, repetition_penalty=0.4),
    "presence": SamplingParams(presence_penalty=1.5),
    "frequency": SamplingParams(frequency_penalty=0.8),
    "frequency below 0, greedy": SamplingParams(temperature=0.0, frequency_penalty=-1.9),
    "bias": SamplingParams(logit_bias={3: 4.0, 7: -100.0, 60: 2.5}),
    "bias, greedy": SamplingParams(temperature=0.0, logit_bias={3: 100.0}),
    "everything": SamplingParams(
        temperature=1.4,
        top_k=30,
        top_p=0.9,
        min_p=0.02,
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        logit_bias={1: 1.0, 2: -3.0},
    ),
}


@pytest.mark.parametrize("params", SETTINGS.values(), ids=SETTINGS.keys())
def test_every_choice_is_that_of_the_reference(params: SamplingParams) -> None:
    """All the rows of one batch, each with its own history, seed and position."""
    generator = numpy.random.default_rng(7)
    rows = 200
    logits = generator.normal(size=(rows, VOCABULARY)).astype(numpy.float32) * 3
    sequences = []
    for row in range(rows):
        prompt = generator.integers(0, VOCABULARY, size=1 + row % 9)
        output = generator.integers(0, VOCABULARY // 3, size=row % 23)
        sequences.append(sequence_of(params, row * 7919, tuple(prompt.tolist()), tuple(output.tolist())))
    chosen = [item.token_id for item in sample(torch.from_numpy(logits), sequences)]
    assert chosen == [
        expected_token(row.astype(numpy.float64), sequence)
        for row, sequence in zip(logits, sequences, strict=True)
    ]
    if not params.greedy and params.top_k != 1 and params.top_p > 0.1 and params.min_p < 1:
        greedy = sample(torch.from_numpy(logits), [sequence_of(replace(params, temperature=0.0))] * rows)
        assert chosen != [item.token_id for item in greedy]


@pytest.mark.parametrize("spread", [6.0, 0.2], ids=["peaked", "flat"])
def test_filters_of_a_large_vocabulary(spread: float) -> None:
    """Some filters end within the first candidates and some do not, in one batch."""
    generator = numpy.random.default_rng(11)
    filters = [
        SamplingParams(top_k=40),
        SamplingParams(top_k=CANDIDATES),
        SamplingParams(top_k=CANDIDATES + 1),
        SamplingParams(top_k=2000, top_p=0.5),
        SamplingParams(top_p=0.9),
        SamplingParams(top_p=0.999),
        SamplingParams(min_p=0.1),
        SamplingParams(min_p=0.3, top_p=0.5, top_k=700),
    ]
    sequences = [sequence_of(params, seed) for params in filters for seed in range(40)]
    logits = generator.normal(size=(len(sequences), 5 * CANDIDATES)).astype(numpy.float32) * spread
    chosen = [item.token_id for item in sample(torch.from_numpy(logits), sequences)]
    assert chosen == [
        expected_token(row.astype(numpy.float64), sequence)
        for row, sequence in zip(logits, sequences, strict=True)
    ]


def test_equals_are_taken_in_the_order_of_their_ids() -> None:
    """More equals than candidates: the first of them by id are those that top-k keeps."""
    logits = torch.zeros(60, 5 * CANDIDATES)
    sequences = [sequence_of(SamplingParams(top_k=5), seed) for seed in range(60)]
    assert {item.token_id for item in sample(logits, sequences)} == set(range(5))


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.5, top_k=6, top_p=0.95)])
def test_draws_follow_the_distribution(params: SamplingParams) -> None:
    """Chi-square over 100 seeds of 200 positions each; 24.3 is the 99.9 % quantile of 7 degrees."""
    logits = numpy.array([1.0, -0.5, 0.2, 2.0, 0.0, -1.0, 0.7, 1.4])
    sequences = [
        sequence_of(params, seed, output=(0,) * position) for seed in range(100) for position in range(200)
    ]
    rows = torch.tensor(logits, dtype=torch.float32).expand(len(sequences), -1).contiguous()
    seen = Counter(item.token_id for item in sample(rows, sequences))
    order, weights = expected_distribution(logits, sequences[0])
    expected = {int(token): weight * len(sequences) for token, weight in zip(order, weights, strict=True)}
    possible = {token: count for token, count in expected.items() if count > 0}
    assert set(seen) == set(possible)
    assert sum((seen[token] - count) ** 2 / count for token, count in possible.items()) < 24.3


def test_a_choice_does_not_depend_on_the_rest_of_the_batch() -> None:
    shuffle = random.Random(3)
    logits = torch.randn(len(SETTINGS) * 3, 4099, generator=torch.Generator().manual_seed(1)) * 4
    sequences = [
        sequence_of(params, seed, (5, 6, 7), tuple(range(seed)))
        for params in SETTINGS.values()
        for seed in range(3)
    ]
    alone = [sample(logits[row : row + 1], [sequence])[0].token_id for row, sequence in enumerate(sequences)]
    for _ in range(4):
        rows = shuffle.sample(range(len(sequences)), shuffle.randint(2, len(sequences)))
        together = sample(logits[rows], [sequences[row] for row in rows])
        assert [item.token_id for item in together] == [alone[row] for row in rows]


def test_logits_are_left_as_they_were() -> None:
    logits = torch.randn(len(SETTINGS), VOCABULARY)
    before = logits.clone()
    sample(logits, [sequence_of(params, output=(1, 2)) for params in SETTINGS.values()])
    assert torch.equal(logits, before)


def test_greedy_takes_the_first_of_equals() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    greedy = sequence_of(SamplingParams(temperature=0.0))
    assert [item.token_id for item in sample(logits, [greedy, greedy])] == [1, 0]


@pytest.mark.parametrize("temperature", [1e-5, 1e-30, 1e-308, 5e-324])
@pytest.mark.parametrize("filters", [{}, {"top_p": 0.5}])
def test_a_tiny_temperature_is_greedy(temperature: float, filters: dict[str, float]) -> None:
    logits = torch.randn(50, VOCABULARY, generator=torch.Generator().manual_seed(2)) * 1e4
    sequences = [sequence_of(SamplingParams(temperature=temperature, **filters), seed) for seed in range(50)]
    assert [item.token_id for item in sample(logits, sequences)] == logits.argmax(-1).tolist()


@pytest.mark.parametrize("params", SETTINGS.values(), ids=SETTINGS.keys())
def test_extreme_logits_give_a_possible_token(params: SamplingParams) -> None:
    infinity = math.inf
    rows = [
        ([0.0, -infinity, 3e38, -3e38], {2}),
        ([-infinity, -infinity, -5.0, -infinity], {2}),
        ([1.0, infinity, infinity, 3e38], {1, 2}),
        ([-3e38, -3e38, -3e38, -infinity], {0, 1, 2}),
    ]
    params = replace(params, logit_bias={})
    for values, possible in rows:
        for seed in range(20):
            [chosen] = sample(torch.tensor([values]), [sequence_of(params, seed, (2,))])
            assert chosen.token_id in possible


def test_a_repetition_penalty_that_overflows_fp32_still_samples() -> None:
    params = SamplingParams(repetition_penalty=1e-40)
    logits = torch.tensor([[1.0, 2.0, -3.0]])
    assert sample(logits, [sequence_of(params, prompt=(0, 1))])[0].token_id in (0, 1)


def test_logprobs_are_of_the_raw_distribution() -> None:
    logits = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(5)) * 4
    params = SamplingParams(
        temperature=0.2, top_k=3, repetition_penalty=2.0, logit_bias={9: 50.0}, logprobs=4
    )
    sequences = [
        sequence_of(params, 1, (1, 2, 3)),
        sequence_of(SamplingParams()),
        sequence_of(replace(params, logprobs=0)),
    ]
    first, without, bare = sample(logits, sequences)
    values = logits.double().numpy()
    raw = values - numpy.log(numpy.exp(values).sum(-1, keepdims=True))
    assert first.token_id == 9
    assert first.logprob == pytest.approx(raw[0, 9], abs=1e-5)
    assert first.top_logprobs is not None
    assert [token for token, _ in first.top_logprobs] == numpy.argsort(-raw[0])[:4].tolist()
    assert [value for _, value in first.top_logprobs] == pytest.approx(-numpy.sort(-raw[0])[:4], abs=1e-5)
    assert (without.logprob, without.top_logprobs) == (None, None)
    assert bare.logprob == pytest.approx(raw[2, bare.token_id], abs=1e-5)
    assert bare.top_logprobs == []


def test_uniform_is_in_range_and_well_spread() -> None:
    """Along positions, along seeds, and along the seeds that continuations get."""
    count = 40_000
    for draws in (
        [uniform(1234, position) for position in range(count)],
        [uniform(seed, 0) for seed in range(count)],
        [uniform(77 + (index << 40), position) for index in range(40) for position in range(count // 40)],
        [uniform(-seed, 3) for seed in range(count)],
    ):
        values = numpy.array(draws)
        assert values.min() >= 0.0
        assert values.max() < 1.0
        assert len(set(draws)) == count
        # Chi-square of 64 bins: 116 is beyond the 99.99 % quantile of 63 degrees.
        bins = numpy.bincount((values * 64).astype(int), minlength=64)
        assert ((bins - count / 64) ** 2 / (count / 64)).sum() < 116
        # Neighbours are not correlated: the standard error of each coefficient is 1 / √count.
        for lag in (1, 2, 7):
            assert abs(numpy.corrcoef(values[:-lag], values[lag:])[0, 1]) < 5 / math.sqrt(count)


def test_the_largest_draw_picks_a_possible_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 − 2⁻⁵³ times a total may round up to the total; tokens behind it are impossible."""
    monkeypatch.setattr("pascaline.engine.sampler.uniform", lambda seed, counter: 1 - 2**-53)
    logits = torch.tensor([[0.3, 0.1, -math.inf, -math.inf]] * 2)
    chosen = sample(logits, [sequence_of(SamplingParams()), sequence_of(SamplingParams(top_k=2))])
    assert [item.token_id for item in chosen] == [1, 1]
