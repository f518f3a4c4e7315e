"""Pascaline against llama.cpp on the CPU: same weights, same threads, in turns.

    python benchmarks/cpu_vs_llamacpp.py [--peer-python PYTHON] [--model demo FILE.gguf FOLDER=FILE.gguf …]
        [--rounds 7] [--threads N] [--instructions avx2] [--only NAME …] [--kl]

Each side is a process that loads once and measures on request, so that loading is in no figure. After
a warm-up the sides take turns, the first to go changing from round to round:

- prefill-512: a prompt of 512 tokens to its first token;
- decode: 64 tokens after a prompt of 16;
- decode-1-of-16 and decode-16: one and 16 sequences at once, each with 32 tokens after a prompt of 16,
  on sides that are set up for 16;
- decode-at-8k: 32 tokens after a prompt of 8128, which both sides compute once and keep.

All greedy, past any end token, on random token ids. Before that, both sides predict every next token
of some text: where they disagree on many, they do not compute the same model. `--kl` adds how far
each side's distribution of the next token is from that of fp32 arithmetic, on 22 texts.

A model is a GGUF file that both sides read, or FOLDER=FILE.gguf: our folder, and their file of the
same weights. Prints medians, ratios, and the share of the measured read bandwidth that our decode
reaches; a table at the end; and writes a run record for each model. Exit code 2: llama-cpp-python is
not there, or the sides are not comparable.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from harness.divergence import Divergences, divergences
from harness.json_lines import WorkerError
from harness.machine import (
    load_average,
    measured_cpu,
    now,
    physical_cores,
    software,
    thread_settings,
    write_result,
)
from harness.measurements import MEASUREMENTS, QUIET, Measurement, Outcome, take_turns
from harness.sides import OURS, THEIRS, Model, NotComparableError, Setting, agreement, both_sides

from pascaline.cli.ending import run
from pascaline.report.run_record import Cpu, Row, RunRecord

CASE = "cpu-vs-llamacpp"


@dataclass
class Comparison:
    """What is known of one model by now."""

    model: Model
    hellos: dict[str, dict[str, object]] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    divergences: Divergences | None = None
    notes: list[str] = field(default_factory=list)

    def step_bytes(self, item: Measurement) -> int:
        """Weights, keys and values that one of our decode steps reads."""
        per_token = self.hellos[OURS]["kv_bytes_per_token"]
        assert isinstance(per_token, int)
        return self.model.weight_bytes + round(item.sequences * item.mean_context * per_token)

    def bandwidth_share(self, outcome: Outcome) -> float | None:
        """That our decode reaches; None of a prefill."""
        item = outcome.measurement
        if item.phase == "prefill":
            return None
        return outcome.bandwidth_share(self.step_bytes(item))

    def rows(self) -> Iterator[Row]:
        """One for each measurement, round and side."""
        for outcome in self.outcomes:
            item = outcome.measurement
            moved = self.step_bytes(item) * item.count if item.phase == "decode" else None
            for each in outcome.rounds:
                for side, seconds in each.seconds.items():
                    ours = side == OURS and moved
                    yield Row(
                        module="",
                        op=f"{item.name}, {side}",
                        phase=item.phase,
                        calls=item.tokens,
                        measured_s=seconds,
                        bound_s=moved / each.bandwidth if ours and moved else None,
                        bound_by="memory" if ours else None,
                        bytes=moved if ours else None,
                    )


def main() -> int:
    arguments = _parse_arguments()
    try:
        return _run(arguments)
    except (NotComparableError, WorkerError) as error:
        sys.stderr.write(f"cpu_vs_llamacpp: {error}\n")
        return 2


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", nargs="+", default=["demo"], help="GGUF files, demo, FOLDER=FILE.gguf")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with llama-cpp-python")
    parser.add_argument("--threads", type=int, help="of each side [default: physical cores]")
    parser.add_argument("--instructions", help="instruction set of our kernels [default: the fastest here]")
    parser.add_argument("--rounds", type=int, default=7)
    names = [item.name for item in MEASUREMENTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="measurements, by name")
    parser.add_argument("--kl", action="store_true", help="also distances from fp32 of both sides")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or (arguments.threads is not None and arguments.threads < 1):
        parser.error("--rounds and --threads have to be at least 1")
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    threads: int = arguments.threads or physical_cores()
    setting = Setting(arguments.peer_python, threads, arguments.instructions)
    setting.require_peer()
    models = [Model.find(name) for name in arguments.model]
    wanted = [item for item in MEASUREMENTS if item.name in arguments.only]
    cpu = measured_cpu(threads)
    print(f"{cpu.name}, {threads} threads; {' '.join(cpu.instruction_sets)}")
    done = []
    for model in models:
        comparison = _compare(model, setting, wanted, arguments.rounds)
        if arguments.kl:
            comparison.divergences = divergences(model, setting)
        done.append(comparison)
        _finish(comparison, cpu)
    print(_table(done))
    return 0


def _compare(model: Model, setting: Setting, wanted: list[Measurement], rounds: int) -> Comparison:
    """All measurements of one model that its context allows."""
    numbers = random.Random(0)
    before = load_average()
    comparison = Comparison(model)
    possible = [item for item in wanted if item.context <= model.positions]
    alike: list[float] = []
    for (context, slots), together in groupby(possible, lambda item: (item.context, item.slots)):
        with both_sides(model, setting, context, slots) as sides:
            comparison.hellos = {name: side.hello for name, side in sides.items()}
            if context >= 512 and not alike:
                alike.append(agreement(model, sides, numbers))
            comparison.outcomes += take_turns(
                list(together), sides, rounds, model.vocab_size, numbers, setting.threads
            )
            for outcome in comparison.outcomes[-1:]:
                sys.stderr.write(f"{model.name}: {outcome.measurement.name} done\n")
    comparison.notes = [
        f"{side} runs {hello['instructions']}; {hello['settings']}"
        for side, hello in comparison.hellos.items()
    ] + [
        *(f"the same next token at {share:.1%} of the positions of a text" for share in alike),
        f"weights: {model.weight_bytes / 1e6:.1f} MB a token on our side",
        f"load average of the last minute: {before} at the start, {load_average()} at the end",
        f"thread variables: {thread_settings()}",
    ]
    return comparison


def _finish(comparison: Comparison, cpu: Cpu) -> None:
    """Print what was found of a model, and write its record."""
    model, hellos = comparison.model, comparison.hellos
    notes = [
        *(line for outcome in comparison.outcomes for line in _lines(comparison, outcome)),
        *_batch_lines(comparison),
        *(comparison.divergences.lines() if comparison.divergences else []),
        *comparison.notes,
    ]
    print(f"\n{model.name}\n  " + "\n  ".join(notes))
    if not hellos:
        return
    record = RunRecord(
        kind="bench",
        created=now(),
        software=software("pascaline", "torch", "numpy")
        | {"llama-cpp-python": str(hellos[THEIRS]["version"])},
        cpu=cpu,
        model={
            "file": model.name,
            "sha256": hellos[THEIRS]["sha256"],
            "weight_bytes_per_token": model.weight_bytes,
        },
        rows=list(comparison.rows()),
        notes=notes,
    )
    suffix = re.sub(r"\W+", "-", f"{hellos[OURS]['instructions']}-{model.name.removesuffix('.gguf')}")
    print(f"  written: {os.path.relpath(write_result(record, cpu, f'{CASE}-{suffix}'))}")


def _lines(comparison: Comparison, outcome: Outcome) -> Iterator[str]:
    name = outcome.measurement.name
    for side in (OURS, THEIRS):
        rates = outcome.rates(side)
        yield (
            f"{name}, {side}: median {outcome.rate(side):.2f} tokens/s ({min(rates):.2f} to {max(rates):.2f})"
        )
    each = ", ".join(f"{ratio:.3f}" for ratio in outcome.ratios)
    yield f"{name}, {OURS} / {THEIRS}: median {outcome.ratio:.3f} ({each})"
    share = comparison.bandwidth_share(outcome)
    if share is not None:
        megabytes = comparison.step_bytes(outcome.measurement) / 1e6
        yield (
            f"{name}, {OURS}: {megabytes:.1f} MB of weights, keys and values a step, {share:.0%} of the "
            f"read bandwidth of the same round ({min(outcome.bandwidths) / 1e9:.1f} to "
            f"{max(outcome.bandwidths) / 1e9:.1f} GB/s)"
        )
    yield (
        f"{name}: others took up to {outcome.other_work:.1%} of the machine in a round; {outcome.attempts} "
        f"rounds run" + (" (NOT QUIET)" if outcome.other_work > QUIET else "")
    )


def _batch_lines(comparison: Comparison) -> Iterator[str]:
    """What 16 sequences at once gain on one."""
    found = {outcome.measurement.name: outcome for outcome in comparison.outcomes}
    one, many = found.get("decode-1-of-16"), found.get("decode-16")
    if one is not None and many is not None:
        for side in (OURS, THEIRS):
            yield f"16 sequences over one, {side}: {many.rate(side) / one.rate(side):.2f}"


def _table(done: list[Comparison]) -> str:
    lines = ["", f"{'model':32} {'measured':16} {OURS:>10} {THEIRS:>10} {'ratio':>7} {'bandwidth':>10}"]
    for comparison in done:
        for outcome in comparison.outcomes:
            share = comparison.bandwidth_share(outcome)
            lines.append(
                f"{comparison.model.name:32} {outcome.measurement.name:16} {outcome.rate(OURS):10.1f} "
                f"{outcome.rate(THEIRS):10.1f} {outcome.ratio:7.2f} "
                f"{'' if share is None else f'{share:.0%}':>10}"
                + (" not quiet" if outcome.other_work > QUIET else "")
            )
        if comparison.divergences:
            ours, theirs = (comparison.divergences.mean(side) for side in (OURS, THEIRS))
            lines.append(
                f"{comparison.model.name:32} {'KL from fp32':16} {ours:10.2e} {theirs:10.2e} "
                f"{ours / theirs:7.2f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
