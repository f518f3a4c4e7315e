"""How long whole steps of Qwen2.5-7B in GPTQ int4 take on Pascal cards that are not at hand: modelled.

    python benchmarks/pascal_whole_step.py [--output FILE]

A prompt of 2048 tokens, in exact and in fast arithmetic, and a token behind a context of 8192: what an engine
launches for them, recorded without a card, each launch by the timing model (harness/modelled_step.py). At the
cards' listed boost, at their highest clock, and on the TITAN X (Pascal) at the clock that the case study's
own run shows at least: that of its half arithmetic, if it reached all that the chip has. Beside it what
`pascaline plan` predicts. Takes about ten minutes of two cores, and no GPU. Nothing here is measured.

Beside the totals stands what they are by the model's errors: all launches off by the worst of llama.cpp's
formats that pascal_timing_model.py held out, and what a launch costs beside its work from 0.69 µs, an empty
kernel's of a graph on an H200, to 3 µs. What all formats err in alike, that calibration does not see.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.machine import RESULTS, now, software
from harness.modelled_step import LAUNCH_S, ModelledStep, model_prompt, model_token
from harness.modelled_sweep import GRAPH_NODE_S
from harness.seven_billion import INT4, write_folder
from timing_model import Card

from pascaline.cli.ending import run
from pascaline.hardware.gpus import Gpu, find_gpu
from pascaline.models import read_config
from pascaline.plan.chips import gpu_own_chip
from pascaline.plan.latency import Model, predict_decode, predict_prefill
from pascaline.plan.placement import STEP_TOKENS
from pascaline.report.run_record import Phase, Row, RunRecord, write_record
from pascaline.workload.holdings import held_weights
from pascaline.workload.told_directory import open_dummy

CASE = "whole-step"
CASE_STUDY = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "case_study"
CASE_CARD = "TITAN X (Pascal)"
CARDS = ((CASE_CARD, "GeForce GTX 1080 Ti"), ("Tesla P40",))
"""Those of as many multiprocessors together: what their blocks do is recorded once."""

PROMPT, CONTEXT = 2048, 8192
ERROR: dict[Phase, float] = {"prefill": 0.042, "decode": 0.063}
"""The worst of the formats that were held out, by the phase (docs/log.md, "Pascal without a Pascal card")."""
_MOST_LAUNCH_S = 3e-6
_KEY_VALUE_BYTES = 2


@dataclass(frozen=True)
class Outcome:
    """A step on a card at a clock."""

    card: str
    clock_mhz: float
    clock: str
    phase: Phase
    name: str
    step: ModelledStep
    planned_s: float

    @property
    def between(self) -> tuple[float, float]:
        """The shortest and the longest time, by the model's errors."""
        beside = self.step.launches + self.step.copies
        work_s = self.step.time_s - beside * LAUNCH_S
        error = ERROR[self.phase]
        return work_s / (1 + error) + beside * GRAPH_NODE_S, work_s / (1 - error) + beside * _MOST_LAUNCH_S


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="of the run record; under results/modelled by default")
    given = parser.parse_args(arguments)
    with ProcessPoolExecutor(len(CARDS)) as pool:
        outcomes = [outcome for group in pool.map(_of_cards, CARDS) for outcome in group]
    notes = [_text(outcome) for outcome in outcomes]
    sys.stdout.write("\n".join(notes) + "\n")
    created = now()
    record = RunRecord(
        kind="bench",
        created=created,
        software=software("pascaline", "numpy"),
        rows=[row for outcome in outcomes for row in _rows(outcome)],
        notes=notes,
    )
    path = given.output or RESULTS / "modelled" / f"{created[: len('2000-01-31')]}-{CASE}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(record, path)
    return 0


def case_clock_mhz(gpu: Gpu) -> float:
    """The least clock at which the case study's card can have multiplied halves as fast as it did."""
    recorded = json.loads((CASE_STUDY / "gemm_by_precision.json").read_text(encoding="utf-8"))
    per_clock = gpu.sms * gpu.operations_per_clock_per_sm("fp16")
    return float(recorded["hgemm"]["gflops"]) * 1e9 / per_clock / 1e6


def _of_cards(names: Sequence[str]) -> list[Outcome]:
    cards = [(card, clock) for name in names for card, clock in _clocked(find_gpu(name))]
    waves_on = min((card for card, _ in cards), key=lambda card: card.memory_bytes)
    return [outcome for card, clock in cards for outcome in _outcomes(card, clock, waves_on)]


def _clocked(gpu: Gpu) -> Iterator[tuple[Card, str]]:
    if gpu.name == CASE_CARD:
        yield Card(gpu, case_clock_mhz(gpu)), "the case's clock at least"
    yield Card(gpu, gpu.boost_mhz), "listed boost"
    if gpu.max_mhz != gpu.boost_mhz:
        yield Card(gpu, gpu.max_mhz), "highest clock"


def _outcomes(card: Card, clock: str, waves_on: Card) -> Iterator[Outcome]:
    model, chip = _model(), gpu_own_chip(card.gpu)
    prompt_s = predict_prefill(model, chip, PROMPT, STEP_TOKENS).seconds
    token_s = predict_decode(model, chip, 1, CONTEXT).seconds

    def outcome(phase: Phase, name: str, step: ModelledStep, planned_s: float) -> Outcome:
        return Outcome(card.gpu.name, card.clock_mhz, clock, phase, name, step, planned_s)

    of_prompt = f"prompt of {PROMPT} tokens"
    yield outcome("prefill", f"{of_prompt}, exact", model_prompt(PROMPT, "auto", card, waves_on), prompt_s)
    fused = model_prompt(PROMPT, "auto", card, waves_on, is_fused=True)
    yield outcome(
        "prefill", f"{of_prompt}, exact, if its launches were fused as graphs' are", fused, prompt_s
    )
    yield outcome("prefill", f"{of_prompt}, fast", model_prompt(PROMPT, "fast", card, waves_on), prompt_s)
    token = model_token(CONTEXT, "auto", card)
    yield outcome("decode", f"token at a context of {CONTEXT}, exact", token, token_s)


def _model() -> Model:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_dummy(write_folder(Path(folder) / "model", INT4))
        config = read_config(checkpoint.hf_config, checkpoint.container)
        return Model(config, held_weights(checkpoint, config), _KEY_VALUE_BYTES)


def _text(outcome: Outcome) -> str:
    step = outcome.step
    least_s, most_s = outcome.between
    products_s, attention_s = step.of("linear"), step.of("attention")
    other_s = step.time_s - step.between_s - products_s - attention_s
    rate = f" = {1 / step.time_s:.1f} tokens/s" if outcome.phase == "decode" else ""
    return (
        f"{outcome.card} at {outcome.clock_mhz:.0f} MHz ({outcome.clock}), {outcome.name}, modelled: "
        f"{step.time_s * 1e3:.2f} ms{rate} ({least_s * 1e3:.2f} to {most_s * 1e3:.2f} by its errors); "
        f"linears {products_s * 1e3:.2f}, attention {attention_s * 1e3:.2f}, all else {other_s * 1e3:.2f}, "
        f"{step.launches} launches and {step.copies} copies {step.between_s * 1e3:.2f}; "
        f"`plan` says {outcome.planned_s * 1e3:.1f} ({outcome.planned_s / step.time_s - 1:+.0%})"
    )


def _rows(outcome: Outcome) -> Iterator[Row]:
    module = f"{outcome.card} at {outcome.clock_mhz:.0f} MHz: {outcome.name}"
    yield Row(module=module, op="all", phase=outcome.phase, predicted_s=outcome.step.time_s)
    for part in outcome.step.parts:
        yield Row(
            module=module,
            op=part.name,
            phase=outcome.phase,
            calls=part.launches,
            predicted_s=part.time_s,
        )


if __name__ == "__main__":
    run(main)
