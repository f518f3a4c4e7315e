"""Loading a model's weights against reading its file: rates, peak memory, and the time to open it.

    python benchmarks/load_rate.py [--model FILE] [--rounds 7]

Each pass is a process of its own, and the two take turns: one reads the whole file into fresh memory
in one call, the other fills the model's weights; first from the disk, with the file put out of the
page cache, then from the page cache. Exits with 1 when loading is slower than it should be, or takes
more memory at its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from harness.json_lines import BENCHMARKS
from harness.machine import load_average, measured_cpu, now, physical_cores, software, write_result

from pascaline.checkpoint.reference import resolve
from pascaline.cli.ending import run
from pascaline.core.errors import ConfigError
from pascaline.core.progress import ignore_progress
from pascaline.report.run_record import Row, RunRecord

CASE = "load-rate"
LEAST_RATIO = 0.8
"""Of the rate of reading."""
MOST_PEAK = 1.10
"""Of what stays resident."""
MOST_OPENING_S = 0.05

Pass = dict[str, float]


def main() -> int:
    arguments = _parse_arguments()
    return _run(arguments.model, arguments.rounds)


def _run(model: str, rounds: int) -> int:
    path = resolve(model, ignore_progress).path
    if not path.is_file():
        raise ConfigError(f"{path} is a folder", expected="a single file, which can be read in one call")
    before = load_average()
    passes = {source: _rounds(path, rounds, cold=source == "disk") for source in ("disk", "page cache")}
    ratios = {source: _ratio(done) for source, done in passes.items()}
    loads = [item for done in passes.values() for item in done["load"]]
    peak = max(item["peak"] / item["resident"] for item in loads)
    opening = statistics.median(item["open_seconds"] for item in passes["page cache"]["load"])
    notes = [
        f"{path.name}: {loads[0]['bytes'] / 1e6:.0f} MB of tensors",
        *(
            f"from the {source}: read {_spread(done['read'])}, load {_spread(done['load'])} GB/s; "
            f"{ratios[source]:.2f} of the reading, round by round (goal: {LEAST_RATIO})"
            for source, done in passes.items()
        ),
        f"peak memory over what stays: {peak:.3f} (goal: {MOST_PEAK})",
        f"opening: {opening * 1e3:.1f} ms (goal: {MOST_OPENING_S * 1e3:.0f} ms)",
        f"load average of the last minute: {before} at the start, {load_average()} at the end",
    ]
    record = RunRecord(
        kind="bench",
        created=now(),
        software=software("pascaline", "torch", "numpy"),
        cpu=measured_cpu(physical_cores()),
        model={"model": path.name},
        rows=[
            Row(
                module="",
                op=f"{mode} from the {source}",
                measured_s=item["seconds"],
                bytes=int(item["bytes"]),
            )
            for source, done in passes.items()
            for mode, items in done.items()
            for item in items
        ],
        notes=notes,
    )
    print("\n".join(notes))
    if record.cpu is not None:
        print(f"written: {os.path.relpath(write_result(record, record.cpu, CASE))}")
    return 0 if min(ratios.values()) >= LEAST_RATIO and peak <= MOST_PEAK and opening <= MOST_OPENING_S else 1


def _rounds(path: Path, rounds: int, *, cold: bool) -> dict[str, list[Pass]]:
    passes: dict[str, list[Pass]] = {"read": [], "load": []}
    _pass("read", path)  # fills the page cache
    for _ in range(rounds):
        for mode, done in passes.items():
            if cold:
                _put_out_of_page_cache(path)
            done.append(_pass(mode, path))
    return passes


def _put_out_of_page_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _rates(passes: list[Pass]) -> list[float]:
    return [item["bytes"] / item["seconds"] / 1e9 for item in passes]


def _ratio(passes: dict[str, list[Pass]]) -> float:
    loads, reads = _rates(passes["load"]), _rates(passes["read"])
    return statistics.median(load / read for load, read in zip(loads, reads, strict=True))


def _spread(passes: list[Pass]) -> str:
    rates = _rates(passes)
    return f"{statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})"


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", default="demo", help="a GGUF file, or demo")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds has to be at least 1")
    return arguments


def _pass(mode: str, path: Path) -> Pass:
    done = subprocess.run(
        [sys.executable, "-m", "harness.load_worker", mode, str(path.resolve())],
        cwd=BENCHMARKS,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise ConfigError(f"the timed pass failed: {done.stderr.decode(errors='replace').strip()}")
    result: Pass = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    run(main)
