"""Whole steps on cards that are not at hand: what is launched for them, and what small launches take."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from harness.modelled_linears import model_decode
from harness.modelled_step import LAUNCH_S, ModelledPart, ModelledStep, _small
from harness.recorded_step import StepLaunch, record_step
from issue_rates import issue_rates
from machine_code_cases import needs_nvrtc
from pascal_whole_step import Outcome, case_clock_mhz
from timing_model import Card

from pascaline.hardware.gpus import find_gpu
from pascaline.kernels.cuda.elementwise import Operation, plan_elementwise
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.quantise_input import InputForm

TITAN_X = find_gpu("TITAN X (Pascal)")
LAYERS = 28


def _launched(tokens: int, context: int, *, is_fused: bool) -> Counter[str]:
    step = record_step(TITAN_X, tokens, context, "auto", is_fused=is_fused)
    return Counter(launch.plan.specialisation.entry for launch in step)


def test_a_token_takes_eight_launches_a_layer() -> None:
    launched = _launched(1, 64, is_fused=True)
    assert launched == {
        "gather_rows": 2,
        "rms_norm": 2 * LAYERS + 1,
        "linear_decode": 4 * LAYERS,
        "rotate_and_store": LAYERS,
        "attention_simt_decode": LAYERS,
        "elementwise": 1,
        "linear_dense_decode": 1,
    }


def test_weights_have_a_scale_for_each_group() -> None:
    """128 inputs: a form with one for the whole row reads fewer bytes, and gives faster linears."""
    step = record_step(TITAN_X, 1, 64, "auto", is_fused=True)
    decodes = [launch.plan for launch in step if launch.plan.specialisation.entry == "linear_decode"]
    assert len(decodes) == 4 * LAYERS
    assert {dict(plan.specialisation.definitions)["SUPER_SIZE"] for plan in decodes} == {128}


@needs_nvrtc
def test_a_linear_reads_its_codes_and_scales() -> None:
    """On 28 multiprocessors as evenly as tiles of eight outputs allow: each byte once."""
    outputs, columns = 28 * 16, 1024
    card = Card(TITAN_X, 1417)
    modelled = model_decode(LinearCall(1, outputs, columns), InputForm(2, 32), card)
    nbytes = outputs * columns * (1 / 2 + 2 / 128)  # codes, and a scale of two bytes for 128
    beside = columns * 2 + outputs * 2  # x, once for all, and y
    assert card.read_s(nbytes) <= modelled.read_s <= card.read_s(nbytes + 1.5 * beside)


def test_a_prompt_is_launched_op_by_op() -> None:
    launched = _launched(64, 64, is_fused=False)
    assert launched["linear_tile"] == launched["quantise_input"] == 4 * LAYERS
    assert launched["attention_simt_prefill"] == LAYERS
    assert launched["elementwise"] == 3 * LAYERS  # two sums and a gate
    assert launched["rotate_and_store"] == 0


def _sum(rows: int, columns: int) -> StepLaunch:
    x = torch.empty(rows, columns, device="meta")
    plan = plan_elementwise(Operation.ADD, x, x, names=("x", "residual", "y"))
    return StepLaunch("add", plan, {"x": x, "residual": x, "y": x})


@needs_nvrtc
@pytest.mark.parametrize("clock_mhz", [1000, 1911])
def test_a_large_sum_takes_what_its_bytes_take(clock_mhz: float) -> None:
    """Two arrays read and one written, all beyond L2: what memory allows, less the last blocks' writes."""
    card = Card(TITAN_X, clock_mhz)
    rows, columns = 512, 3584
    read_s = card.read_s(3 * 4 * rows * columns)
    last_writes_s = 8 * 256 * 16 / card.memory_bytes / card.hertz  # of eight blocks of 256 threads
    assert read_s - last_writes_s <= _small(_sum(rows, columns), card) <= 1.02 * read_s


@needs_nvrtc
def test_a_small_sum_comes_from_l2() -> None:
    """One row, a block of 256 threads a multiprocessor, each of which reads 32 bytes."""
    card, launch = Card(TITAN_X, 1417), _sum(1, 3584)
    beyond_l2 = replace(launch, buffers=dict.fromkeys(launch.buffers, torch.empty(1 << 20)))
    clocks = (_small(beyond_l2, card) - _small(launch, card)) * card.hertz
    rates = issue_rates("sm_61")
    nbytes = 256 * 32
    by_bandwidth = nbytes / card.memory_bytes - nbytes / rates.l2_bytes
    by_latency = rates.latency["memory"] - rates.latency["l2"]
    assert clocks == pytest.approx(by_bandwidth + by_latency, rel=0.1)


def test_the_cases_clock_is_that_of_its_half_arithmetic() -> None:
    """28 multiprocessors of 2 halves' multiply-adds a clock: 197.391 GFLOP/s ÷ 112."""
    assert case_clock_mhz(TITAN_X) == pytest.approx(197.391e3 / (28 * 2 * 2))
    assert TITAN_X.boost_mhz < case_clock_mhz(TITAN_X) < TITAN_X.max_mhz


def test_errors_are_of_all_work_and_all_launches() -> None:
    step = ModelledStep((ModelledPart("linear", 100, 1.0), ModelledPart("norm", 20, 0.5)), copies=2)
    assert step.time_s == pytest.approx(1.5 + 122 * LAUNCH_S)
    least_s, most_s = Outcome("a card", 1000, "", "decode", "a token", step, 1.0).between
    assert least_s == pytest.approx(1.5 / 1.063 + 122 * 0.69e-6)
    assert most_s == pytest.approx(1.5 / 0.937 + 122 * 3e-6)
