"""From the command to the first token: `pascaline generate demo --max-tokens 1`, on a warm disk.

    python benchmarks/start_to_first_token.py [--model demo] [--runs 5]

Runs the command itself, timed to the first byte of its output and to its end; and, in turns with
it, a process that goes the same way and notes the time at every station, and the memory that it has
after the first token. Prints medians and writes a run record: one row for each run of the command,
one with the median of each station. Exit code 1: a goal was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from harness.json_lines import BENCHMARKS
from harness.machine import load_average, measured_cpu, now, physical_cores, software, write_result

from pascaline.cli.ending import run
from pascaline.core.errors import ConfigError
from pascaline.report.run_record import Row, RunRecord

CASE = "start-to-first-token"
PROMPT = "The capital of France is"
GOAL_S = 2.5
"""Longest time to the first token that the project allows itself."""
GOAL_LOAD_S = 0.3
"""Longest time to open, plan, load and allocate the demo."""
GOAL_MEMORY_BYTES = 300_000_000
"""Most resident memory besides weights, keys and values, and pages of files."""


@dataclass(frozen=True)
class CommandRun:
    """Seconds from starting the process."""

    to_first_byte_s: float
    to_exit_s: float


@dataclass(frozen=True)
class Walk:
    """One run of the same way: seconds to each station from the one before it; bytes of memory at its end."""

    taken: dict[str, float]
    load_s: float
    anonymous: int
    weights: int
    kv: int

    @property
    def overhead(self) -> int:
        return self.anonymous - self.weights - self.kv


def main() -> int:
    arguments = _parse_arguments()
    return _run(arguments.model, arguments.runs)


def _run(model: str, runs: int) -> int:
    before = load_average()
    _time_command(model)  # reads everything from disk once
    commands: list[CommandRun] = []
    stations: dict[str, list[float]] = defaultdict(list)
    walks: list[Walk] = []
    for _ in range(runs):
        commands.append(_time_command(model))
        walks.append(_walk(model))
        for station, seconds in walks[-1].taken.items():
            stations[station].append(seconds)
    loads = [walk.load_s for walk in walks]
    load = statistics.median(loads)
    largest = max(walks, key=lambda walk: walk.overhead)
    first = statistics.median(run.to_first_byte_s for run in commands)
    slowest = max(run.to_first_byte_s for run in commands)
    notes = [
        f"command to first token: median {first:.2f} s of {runs} runs, slowest {slowest:.2f} s "
        f"(goal: {GOAL_S} s); to its end {statistics.median(run.to_exit_s for run in commands):.2f} s",
        *(f"{station}: {statistics.median(taken):.3f} s" for station, taken in stations.items()),
        f"load: median {load:.3f} s, slowest {max(loads):.3f} s (goal: {GOAL_LOAD_S} s)",
        f"resident memory without files: {largest.anonymous / 1e6:.0f} MB, of which weights "
        f"{largest.weights / 1e6:.0f} MB, keys and values {largest.kv / 1e6:.1f} MB, all else "
        f"{largest.overhead / 1e6:.0f} MB (goal: {GOAL_MEMORY_BYTES / 1e6:.0f} MB)",
        f"load average of the last minute: {before} at the start, {load_average()} at the end",
    ]
    rows = [
        *(Row(module="", op="command to first token", measured_s=run.to_first_byte_s) for run in commands),
        *(Row(module="", op="command to its end", measured_s=run.to_exit_s) for run in commands),
        *(Row(module="", op=name, measured_s=statistics.median(taken)) for name, taken in stations.items()),
        Row(module="", op="load", measured_s=load, bytes=largest.weights),
    ]
    record = RunRecord(
        kind="bench",
        created=now(),
        software=software("pascaline", "torch", "numpy"),
        cpu=measured_cpu(physical_cores()),
        model={"model": model},
        rows=rows,
        notes=notes,
    )
    print("\n".join(notes))
    if record.cpu is not None:
        print(f"written: {os.path.relpath(write_result(record, record.cpu, CASE))}")
    return 0 if first <= GOAL_S and load <= GOAL_LOAD_S and largest.overhead <= GOAL_MEMORY_BYTES else 1


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", default="demo", help="as for pascaline generate")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs has to be at least 1")
    return arguments


def _time_command(model: str) -> CommandRun:
    command = Path(sys.executable).with_name("pascaline")
    began = time.monotonic()
    with subprocess.Popen(
        [command, "generate", model, "--prompt", PROMPT, "--max-tokens", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        first = process.stdout.read(1) if process.stdout is not None else b""
        arrived = time.monotonic()
        _, messages = process.communicate()
        ended = time.monotonic()
    if process.returncode or not first:
        raise ConfigError(f"pascaline generate failed: {messages.decode(errors='replace').strip()}")
    return CommandRun(arrived - began, ended - began)


def _walk(model: str) -> Walk:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "harness.first_token_worker", model, PROMPT],
        cwd=BENCHMARKS,
        capture_output=True,
        check=False,
    )
    ended = time.monotonic()
    if done.returncode:
        raise ConfigError(f"the timed run failed: {done.stderr.decode(errors='replace').strip()}")
    found = json.loads(done.stdout)
    taken: dict[str, float] = {}
    for station, arrived in (found.pop("stations") | {"end of the process": ended}).items():
        taken[station] = arrived - began
        began = arrived
    return Walk(taken, **found)


if __name__ == "__main__":
    run(main)
