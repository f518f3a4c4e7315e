"""Sampling on cards against torch's, which tests/unit/test_sampler.py holds against numpy."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy
import pytest
import torch
from emulated_card import emulate
from linear_harness import Execute
from sampling_cases import random_logits, random_sequences, rows_that_are_no_numbers
from sampling_harness import CardSampling, check_taken, random_sampling

from pascaline.core.errors import ShapeError
from pascaline.engine.sampler import sample_by_torch, uniform
from pascaline.engine.sampling_call import CallMaker
from pascaline.engine.sampling_params import MAX_LOGPROBS, SamplingParams
from pascaline.engine.sequence import Sequence
from pascaline.hardware.nvrtc import nvrtc_libraries
from pascaline.kernels.cuda import sampling

INFINITY = math.inf


@pytest.mark.parametrize("seed", range(8))
def test_every_choice_is_torchs(seed: int, execute: Execute) -> None:
    random_sampling(seed).check(execute)


def test_rows_of_drafts_are_chosen_from_as_rows_of_later_steps(execute: Execute) -> None:
    params = [
        SamplingParams(temperature=0.0, logprobs=3),
        SamplingParams(temperature=0.8, top_p=0.9),
        SamplingParams(logit_bias={5: 4.0}),
    ]
    sequences = [sequence_of(each, seed) for seed, each in enumerate(params)]
    rows = [
        (sequence, ahead)
        for sequence, count in zip(sequences, (4, 1, 3), strict=True)
        for ahead in range(count)
    ]
    drafted, ahead = [sequence for sequence, _ in rows], [ahead for _, ahead in rows]
    logits = torch.randn(len(rows), 4099, generator=torch.Generator().manual_seed(2)) * 3
    sampling_ahead = CardSampling(logits, drafted, ahead=ahead)
    sampling_ahead.check(execute)
    later = CardSampling(logits, [sequence_of(each.params, each.seed, (7,) * more) for each, more in rows])
    assert sampling_ahead.sample(execute) == later.sample(execute)


@pytest.mark.skipif(not nvrtc_libraries(), reason="no NVRTC is installed here")
@pytest.mark.parametrize("seed", [0, 9])
def test_machine_code_of_pascal_chooses_the_same(seed: int) -> None:
    random_sampling(seed).check(emulate)


def sequence_of(params: SamplingParams, seed: int = 0, output: tuple[int, ...] = ()) -> Sequence:
    sequence = Sequence(1, 0, 0, params, seed, [0], 1)
    for token in output:
        sequence.append(token)
    return sequence


FILTERS = (
    SamplingParams(top_k=40),
    SamplingParams(top_k=4000),
    SamplingParams(top_k=15_000, top_p=0.8),
    SamplingParams(top_p=0.9),
    SamplingParams(top_p=0.999),
    SamplingParams(min_p=0.1, temperature=2.0),
    SamplingParams(min_p=0.3, top_p=0.5, top_k=7000, logprobs=20),
    SamplingParams(temperature=0.3, top_p=0.95),
)


@pytest.mark.parametrize("spread", [6.0, 0.2, 0.0], ids=["peaked", "flat", "of equals"])
def test_filters_of_a_large_vocabulary(spread: float, execute: Execute) -> None:
    """What they leave ends in the order's first window, far behind it, or among more equals than it holds."""
    sequences = [sequence_of(params, seed) for params in FILTERS for seed in range(2)]
    logits = torch.randn(len(sequences), 20_001, generator=torch.Generator().manual_seed(4)) * spread
    CardSampling(logits, sequences).check(execute)


def test_equals_behind_others(execute: Execute) -> None:
    """More than a window of them, with logits of three kinds in the same bin."""
    logits = torch.zeros(1, 9000)
    logits[0, 4000:] = -1e-6
    logits[0, 7:4000:7] = 1e-6
    logits[0, 8999] = -40.0
    sequences = [
        sequence_of(replace(params, temperature=temperature, logprobs=20), seed)
        for params in (SamplingParams(top_k=8000), SamplingParams(top_p=0.93), SamplingParams(top_p=0.03))
        for temperature in (1.0, 50.0)
        for seed in range(2)
    ]
    rows = logits.expand(len(sequences), -1)
    CardSampling(rows, sequences).check(execute)


def test_reports_that_end_among_nearly_a_window_of_equals(execute: Execute) -> None:
    """Those before them are reported, too."""
    logits = torch.full((1, 3000), -9.0)
    logits[0, 100:1120] = 0.0
    logits[0, 2000:2010] = torch.arange(10) + 1.0
    sequences = [sequence_of(SamplingParams(temperature=0.0, logprobs=20))]
    (found,) = CardSampling(logits, sequences).sample(execute)
    assert found.top_logprobs is not None
    assert [token for token, _ in found.top_logprobs] == [*range(2009, 1999, -1), *range(100, 110)]


def test_top_p_that_ends_at_a_border(execute: Execute) -> None:
    """A half of four equals are two."""
    sequences = [sequence_of(SamplingParams(top_p=0.5), seed) for seed in range(30)]
    found = CardSampling(torch.zeros(30, 4), sequences).sample(execute)
    assert {item.token_id for item in found} == {0, 1}


def test_rows_that_are_no_numbers_are_told(execute: Execute) -> None:
    """They crash nothing, and the others are chosen from as ever."""
    good, rows = rows_that_are_no_numbers(5000)
    for params in (
        SamplingParams(temperature=0.0),
        SamplingParams(logit_bias={4999: 1.0}),
        SamplingParams(top_p=0.999999, logprobs=20, repetition_penalty=1.3),
        SamplingParams(min_p=0.1, top_k=3),
    ):
        sequences = [sequence_of(params, 7) for _ in rows]
        found = CardSampling(rows, sequences).sample(execute)
        assert [item.is_finite for item in found] == [True, False, False, False, False, True, False, False]
        assert all(0 <= item.token_id < 5000 for item in found)
        assert found[0].token_id == sample_by_torch(good[None], sequences[:1])[0].token_id
        assert found[5].token_id == 4999


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(),
        SamplingParams(temperature=0.01, top_p=0.9),
        SamplingParams(temperature=100.0, top_k=2, presence_penalty=0.5, logprobs=3),
    ],
)
def test_extreme_logits_give_a_possible_token(params: SamplingParams, execute: Execute) -> None:
    rows = [
        ([0.0, -INFINITY, 3e38, -3e38], {2}),
        ([-INFINITY, -INFINITY, -5.0, -INFINITY], {2}),
        ([-3e38, -3e38, -3e38, -INFINITY], {0, 1, 2}),
        ([0.0, -0.0, 1e-45, -1e-45], {0, 1, 2, 3}),
    ]
    sequences = [sequence_of(params, seed, (2,)) for seed in range(5) for _ in rows]
    logits = torch.tensor([values for values, _ in rows]).repeat(5, 1)
    for row, chosen in enumerate(CardSampling(logits, sequences).sample(execute)):
        assert chosen.token_id in rows[row % len(rows)][1]


@pytest.mark.parametrize("temperature", [1e-5, 1e-30, 1e-308, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature: float, execute: Execute) -> None:
    logits = torch.randn(20, 61, generator=torch.Generator().manual_seed(2)) * 1e4
    params = [SamplingParams(temperature=temperature), SamplingParams(temperature=temperature, top_p=0.5)]
    sequences = [sequence_of(params[row % 2], row) for row in range(20)]
    found = CardSampling(logits, sequences).sample(execute)
    assert [item.token_id for item in found] == logits.argmax(-1).tolist()


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.5, top_k=6, top_p=0.95)])
def test_draws_follow_the_distribution(params: SamplingParams, execute: Execute) -> None:
    """Chi-square over 300 draws; 24.3 is the 99.9 % quantile of 7 degrees."""
    values = torch.tensor([1.0, -0.5, 0.2, 2.0, 0.0, -1.0, 0.7, 1.4])
    sequences = [sequence_of(params, seed) for seed in range(300)]
    found = CardSampling(values.expand(300, -1), sequences).sample(execute)
    seen = numpy.bincount([item.token_id for item in found], minlength=8)
    weights = numpy.exp(values.double().numpy() / params.temperature)
    if params.top_k:
        weights[weights < numpy.sort(weights)[-params.top_k]] = 0.0
        order = numpy.argsort(-weights)
        before = numpy.cumsum(weights[order]) - weights[order]
        weights[order[before >= params.top_p * weights.sum()]] = 0.0
    expected = 300 * weights / weights.sum()
    possible = expected > 0
    assert not seen[~possible].any()
    assert float(((seen - expected)[possible] ** 2 / expected[possible]).sum()) < 24.3


def test_weights_are_as_exact_as_they_say(execute: Execute) -> None:
    """The sum of two, of which one is 2⁴³: the other, at temperature 1, in fp64 by numpy."""
    generator = numpy.random.default_rng(3)
    distances = numpy.concatenate([generator.uniform(0, 31, 300), generator.uniform(0, 1, 100), [0.0, 1e-7]])
    largest = generator.choice([0.0, 0.1, -3.7, 25.3, -1000.1], len(distances))
    logits = numpy.stack([largest, largest - distances], axis=1).astype(numpy.float32)
    jobs = [(row, row, 0, 0) for row in range(len(logits))]
    call = CallMaker().make([sequence_of(SamplingParams(temperature=0.0)) for _ in logits])
    buffers = {
        "logits": logits,
        "lines": call.lines,
        "jobs": numpy.array(jobs, sampling.JOB),
        "ranges": logits[:, ::-1].copy(),
        "ids": numpy.zeros(len(logits), numpy.int64),
        "choices": numpy.zeros(len(logits), sampling.CHOICE),
        "reports": numpy.zeros(len(logits), sampling.REPORT),
    }
    plan = sampling.plan_filter_tokens(len(logits), 2, 2)
    execute(plan, buffers, (), updates=("ids", "choices", "reports"))
    one = 2.0**sampling.WEIGHT_BITS
    weights = buffers["reports"]["mass"].astype(numpy.float64) - one
    exact = one * numpy.exp(logits[:, 1].astype(numpy.float64) - logits[:, 0])
    assert (numpy.abs(weights - exact) <= 2.0**-29 * exact + 1).all()


@pytest.mark.parametrize("way", [sampling.FROM_ALL, sampling.FILTERED])
def test_draws_near_a_border(way: int, execute: Execute) -> None:
    """Just outside of what may be rounded they fall to the token on their side, in both orders of drawing."""
    vocabulary, temperature = 9000, 0.8
    generator = numpy.random.default_rng(5)
    logits = (generator.normal(size=vocabulary) * 2).astype(numpy.float32)
    weights = numpy.exp((logits.astype(numpy.float64) - logits.max()) / temperature)
    order = numpy.arange(vocabulary)
    if way == sampling.FILTERED:
        order = numpy.argsort(-logits, kind="stable")
    sums = numpy.cumsum(weights[order]) / weights.sum()
    margin = 2.0**-28 + vocabulary * 2.0**-43
    picked = generator.choice(vocabulary - 2, 40, replace=False)
    picked = picked[weights[order][picked + 1] / weights.sum() > 4 * margin]
    assert len(picked) > 20
    draws = numpy.concatenate([sums[picked] - margin, sums[picked] + margin])
    expected = numpy.concatenate([order[picked], order[picked + 1]])
    params = SamplingParams(temperature=temperature, top_k=vocabulary if way == sampling.FILTERED else 0)
    call = CallMaker().make([sequence_of(params) for _ in draws])
    call.lines["draw"] = (draws * 2.0**64).astype(numpy.uint64)
    assert set(call.lines["way"]) == {way}
    call.lines["row"] = 0
    found = [int(token) for token in _tokens_of_lines(logits, call.lines, call.jobs, execute)]
    assert found == expected.tolist()


def _tokens_of_lines(
    logits: numpy.ndarray, lines: numpy.ndarray, jobs: numpy.ndarray, execute: Execute
) -> list[int]:
    """Of lines of the same row, launched one by one, as they write the same results."""
    tokens = []
    for line in range(len(lines)):
        buffers = {
            "logits": logits,
            "lines": lines[line : line + 1].copy(),
            "ids": numpy.zeros(1, numpy.int64),
            "choices": numpy.zeros(1, sampling.CHOICE),
            "ranges": numpy.zeros((1, 2), numpy.float32),
        }
        outputs = ("ids", "choices", "ranges")
        execute(sampling.plan_choose_tokens(1, len(logits), len(logits)), buffers, outputs)
        if len(jobs):
            buffers["jobs"] = numpy.array([(0, -1, 0, 0)], sampling.JOB)
            plan = sampling.plan_filter_tokens(1, len(logits), len(logits))
            execute(plan, buffers, (), updates=("ids", "choices"))
        tokens.append(int(buffers["ids"][0]))
    return tokens


def test_a_choice_does_not_depend_on_the_rest_of_the_batch(execute: Execute) -> None:
    shuffle = random.Random(9)
    logits = random_logits(shuffle, 12, 5000)
    sequences = random_sequences(shuffle, 12, 5000)
    alone = [
        CardSampling(logits[row : row + 1], [sequence]).sample(execute)[0]
        for row, sequence in enumerate(sequences)
    ]
    assert CardSampling(logits, sequences, margin=5).sample(execute) == alone


def test_seen_tokens_are_remembered_from_step_to_step(execute: Execute) -> None:
    """One maker's calls as a sequence grows are those of new makers."""
    params = SamplingParams(repetition_penalty=1.4, frequency_penalty=0.3, logit_bias={3: 1.0, 11: -2.0})
    sequence = Sequence(1, 0, 0, params, 0, [5, 9, 5], 3)
    maker = CallMaker()
    for token in (7, 5, 11, 7, 2):
        kept, made = maker.make([sequence]), CallMaker().make([sequence])
        assert kept.packed == made.packed
        assert kept.changes[0].tobytes() == made.changes[0].tobytes()
        sequence.append(token)
    (changes,) = maker.make([sequence]).changes
    assert changes["id"].tolist() == [2, 3, 5, 7, 9, 11]
    assert changes["is_seen"].tolist() == [1, 0, 1, 1, 1, 1]
    assert changes["subtracted"] == pytest.approx([0.3, 0.0, 0.3, 0.6, 0.0, 0.3])
    assert changes["added"].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0, -2.0]


def test_draws_are_parts_of_two_to_the_64th() -> None:
    sequence = sequence_of(SamplingParams(top_p=0.25), 12)
    (line,) = CallMaker().make([sequence]).lines
    assert line["draw"] == int(uniform(12, 0) * 2**53) << 11
    assert line["top_p"] == 1 << 62


def test_a_row_behind_a_draft_is_drawn_as_when_the_draft_is_known() -> None:
    params = SamplingParams(temperature=0.8, logit_bias={3: 1.0})
    known = [Sequence(1, 0, 0, params, 5, [1, 2, 3, *range(more)], 3) for more in range(4)]
    call, expected = CallMaker().make(known[:1] * 4, [0, 1, 2, 3]), CallMaker().make(known)
    assert call.packed == expected.packed
    assert [each.tobytes() for each in call.changes] == [each.tobytes() for each in expected.changes]
    assert len(set(call.lines["draw"].tolist())) == 4


@pytest.mark.parametrize("tokens", [1, 64, 300])
def test_tokens_of_the_step_before_are_taken(tokens: int, execute: Execute) -> None:
    check_taken(tokens, execute)


def test_there_is_room_for_all_that_may_be_asked_for() -> None:
    assert sampling.MOST_REPORTED == MAX_LOGPROBS


def test_sizes_that_no_launch_has() -> None:
    for rows, vocabulary in ((0, 100), (1, 0), (1, sampling.MOST_TOKENS + 1)):
        with pytest.raises(ShapeError):
            sampling.plan_choose_tokens(rows, vocabulary, vocabulary)
