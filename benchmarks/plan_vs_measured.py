"""How far predicted speeds are from the engine's on this CPU.

    python benchmarks/plan_vs_measured.py [--model demo FILE.gguf FOLDER] [--rounds 3]

Each model is measured in a process of its own. Before every measurement the processor is probed as `pascaline
plan` does, so that the memory's bandwidth, which changes with what other machines on the host do, is the one
of that minute. Of the rounds those with the least other work on the machine count.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.json_lines import Worker, WorkerError
from harness.machine import load_average, measured_cpu, now, software, write_result
from harness.other_work import OtherWork

from pascaline.checkpoint.opening import open_checkpoint
from pascaline.checkpoint.reference import resolve
from pascaline.cli.ending import run
from pascaline.core.progress import ignore_progress
from pascaline.hardware.cpu import probe_cpu
from pascaline.models import read_config
from pascaline.plan.chips import cpu_chip
from pascaline.plan.latency import Model, Prediction, predict_decode, predict_prefill
from pascaline.plan.placement import STEP_TOKENS
from pascaline.report.run_record import Phase, Row, RunRecord
from pascaline.workload.holdings import held_weights, settled_tying

QUIET = 0.08
"""Most of the machine's time that others may take of a round that counts, while attempts are left."""
MOST_ATTEMPTS = 6
PAUSE_S = 1.0
"""After a round beside other work."""
MOST_MEDIAN_ERROR = 0.2
DECODED = 32
CONTEXT = 2304
SEQUENCES = 4
KEY_VALUE_BYTES = 2
"""Of an element, where native kernels run."""


@dataclass(frozen=True)
class Case:
    """A speed: of a prompt of so many tokens, or of `DECODED` tokens of each sequence behind one."""

    phase: Phase
    prompt_tokens: int
    sequences: int = 1

    @property
    def name(self) -> str:
        if self.phase == "prefill":
            return f"prompt of {self.prompt_tokens}"
        return f"decode at {self.context}, {self.sequences} at once"

    @property
    def context(self) -> int:
        """Mean one of the decoded tokens."""
        return self.prompt_tokens + DECODED // 2

    def predict(self, model: Model) -> Prediction:
        """By a processor that is probed now."""
        chip = cpu_chip(probe_cpu(lambda said: print(said, file=sys.stderr)))
        if self.phase == "prefill":
            return predict_prefill(model, chip, self.prompt_tokens, STEP_TOKENS)
        return predict_decode(model, chip, self.sequences, self.context)


CASES = (
    Case("prefill", 512),
    Case("prefill", 2048),
    Case("decode", 48),
    Case("decode", 2000),
    Case("decode", 48, SEQUENCES),
)


@dataclass(frozen=True)
class Outcome:
    """Tokens a second, and what others took of the machine meanwhile."""

    model: str
    case: Case
    measured: float
    predicted: float
    other_work: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", nargs="+", default=["demo"], help="what `pascaline plan` takes")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds has to be at least 1")
    try:
        return _run(arguments.model, arguments.rounds)
    except WorkerError as error:
        sys.stderr.write(f"plan_vs_measured: {error}\n")
        return 2


def _run(names: list[str], rounds: int) -> int:
    before = load_average()
    outcomes = []
    for name in names:
        for outcome in _of_model(name, rounds):
            outcomes.append(outcome)
            print(_line(outcome), flush=True)
    errors = [abs(outcome.error) for outcome in outcomes]
    median, worst = statistics.median(errors), max(errors)
    summary = f"{len(outcomes)} cases: median error {median:.1%}, largest {worst:.1%}"
    print(summary)
    cpu = measured_cpu(probe_cpu(print).threads)
    record = RunRecord(
        kind="bench",
        created=now(),
        software=software("pascaline", "torch", "numpy"),
        cpu=cpu,
        rows=[_row(outcome) for outcome in outcomes],
        notes=[summary, f"load average {before} before, {load_average()} after", *map(_line, outcomes)],
    )
    print(write_result(record, cpu, "plan-vs-measured"))
    return 0 if median <= MOST_MEDIAN_ERROR else 1


def _of_model(name: str, rounds: int) -> Iterator[Outcome]:
    path = resolve(name, ignore_progress).path
    checkpoint = open_checkpoint(path)
    try:
        config = settled_tying(read_config(checkpoint.hf_config, checkpoint.container), checkpoint)
        model = Model(config, held_weights(checkpoint, config), KEY_VALUE_BYTES)
    finally:
        checkpoint.close()
    numbers = random.Random(0)
    with Worker(sys.executable, "pascaline_worker", str(path), str(CONTEXT), str(SEQUENCES)) as worker:
        for case in CASES:
            tries = [
                _try(worker, path, case, model, numbers)
                for _ in range(1 + rounds)  # the first warms up
            ][1:]
            while (
                sum(each.other_work <= QUIET for each in tries) < rounds
                and len(tries) < rounds * MOST_ATTEMPTS
            ):
                time.sleep(PAUSE_S)
                tries.append(_try(worker, path, case, model, numbers))
            tries.sort(key=lambda each: each.other_work)
            counted = sorted(tries[:rounds], key=lambda each: each.error)
            yield counted[len(counted) // 2]


def _try(worker: Worker, path: Path, case: Case, model: Model, numbers: random.Random) -> Outcome:
    prompts = [
        [numbers.randrange(model.config.vocab_size) for _ in range(case.prompt_tokens)]
        for _ in range(case.sequences)
    ]
    others = OtherWork(worker.pid)
    predicted = case.predict(model)
    if case.phase == "prefill":
        answer = worker.ask("prefill", token_ids=prompts[0])
    else:
        answer = worker.ask("decode", prompts=prompts, count=DECODED)
    measured = answer["computed"] / answer["seconds"]
    name = path.name if path.is_file() else path.resolve().name
    return Outcome(name, case, measured, predicted.tokens_per_s, others.share())


def _line(outcome: Outcome) -> str:
    return (
        f"{outcome.model}, {outcome.case.name}: predicted {outcome.predicted:.1f}, measured "
        f"{outcome.measured:.1f} tokens/s ({outcome.error:+.0%}; others took {outcome.other_work:.0%})"
    )


def _row(outcome: Outcome) -> Row:
    case = outcome.case
    tokens = case.prompt_tokens if case.phase == "prefill" else DECODED * case.sequences
    return Row(
        module="",
        op=f"{outcome.model}: {case.name}",
        phase=case.phase,
        calls=tokens,
        measured_s=tokens / outcome.measured,
        predicted_s=tokens / outcome.predicted,
    )


if __name__ == "__main__":
    run(main)
