"""What serving costs: 16 streams of a real server against the same prompts given to `LLM`, in turns.

    python benchmarks/server_vs_offline.py [--model demo] [--rounds 7]

Both engines stay loaded, and while one works the other waits. The server is `pascaline serve`, with
its engine process; the clients are one process that sleeps while the streams come, and what time it
takes is measured and left out. Every round has prompts of its own: 16 texts, each to be continued by
128 tokens, greedy. Timed are the first request to the end of the last stream, and the call of
`LLM.generate`.

Prints both rates, what the server costs, and whose processor time each took; writes a run record.
Exit code 1: the server costs more than it should.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

from harness.json_lines import Worker, WorkerError
from harness.machine import (
    load_average,
    measured_cpu,
    now,
    physical_cores,
    software,
    thread_settings,
    write_result,
)
from harness.other_work import OtherWork, process_cpu_s
from harness.served_model import Server, serving
from harness.streaming_client import check_whole
from harness.texts import MORE_TEXTS, TEXTS

from pascaline.cli.ending import run
from pascaline.report.run_record import Row, RunRecord

CASE = "server-vs-offline"
STREAMS = 16
TOKENS = 128
MOST_COST = 0.10
"""Of the offline rate, that the project allows the server."""
CPUS = os.cpu_count() or 1
MEMORY_SHARE = 0.2
"""Of what is free, for each of the two engines."""


@dataclass(frozen=True)
class Offline:
    """Seconds by the wall's clock, and of the processors."""

    s: float
    cpu_s: float


@dataclass(frozen=True)
class Served:
    """Seconds by the wall's clock, and of the processors, by process."""

    s: float
    engine_cpu_s: float
    server_cpu_s: float
    client_cpu_s: float
    other_cpu_s: float

    @property
    def idle_s(self) -> float:
        """Of all CPUs."""
        busy = self.engine_cpu_s + self.server_cpu_s + self.client_cpu_s + self.other_cpu_s
        return max(0.0, CPUS * self.s - busy)

    @property
    def alone_s(self) -> float:
        """Without the client, whose time is taken as lost by one CPU only, which is the least."""
        return self.s - self.client_cpu_s / CPUS


@dataclass(frozen=True)
class Round:
    """Both sides, and what others took of the machine meanwhile."""

    offline: Offline
    served: Served
    other_share: float

    @property
    def cost(self) -> float:
        """Share of the offline rate that is lost."""
        return 1 - self.offline.s / self.served.alone_s


def main() -> int:
    arguments = _parse_arguments()
    try:
        return _run(arguments.model, arguments.rounds)
    except WorkerError as error:
        sys.stderr.write(f"server_vs_offline: {error}\n")
        return 2


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", default="demo", help="as for pascaline serve")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds has to be at least 1")
    return arguments


def _run(model: str, rounds: int) -> int:
    before = load_average()
    cpu = measured_cpu(physical_cores())
    with (
        serving(model, ("--gpu-memory-utilization", str(MEMORY_SHARE))) as server,
        Worker(sys.executable, "streaming_client", str(server.port)) as client,
        Worker(sys.executable, "offline_worker", model, str(MEMORY_SHARE)) as offline,
    ):
        done = [_round(number, model, server, client, offline) for number in range(rounds + 1)][1:]
    notes = [
        *_summary(done),
        f"load average of the last minute: {before} at the start, {load_average()} at the end",
        f"thread variables: {thread_settings()}",
    ]
    record = RunRecord(
        kind="bench",
        created=now(),
        software=software("pascaline", "torch", "numpy", "uvicorn", "fastapi"),
        cpu=cpu,
        model={"model": model},
        batch=STREAMS,
        rows=[
            Row(module="", op=op, phase="decode", calls=STREAMS * TOKENS, measured_s=seconds)
            for each in done
            for op, seconds in (("offline", each.offline.s), ("served", each.served.s))
        ],
        notes=notes,
    )
    print("\n".join(notes))
    print(f"written: {os.path.relpath(write_result(record, cpu, CASE))}")
    return 1 if statistics.median(each.cost for each in done) > MOST_COST else 0


def _round(number: int, model: str, server: Server, client: Worker, offline: Worker) -> Round:
    """Offline and served, the first to go changing from round to round."""
    texts = list((TEXTS | MORE_TEXTS).values())[:STREAMS]
    prompts = [f"{number}. {text}" for text in texts]  # nothing for the prefix cache
    others = OtherWork(server.pid, server.engine_pid, client.pid, offline.pid)
    if number % 2:
        apart = _offline(prompts, offline)
        served = _served(prompts, model, server, client)
    else:
        served = _served(prompts, model, server, client)
        apart = _offline(prompts, offline)
    return Round(apart, served, others.share())


def _offline(prompts: list[str], offline: Worker) -> Offline:
    began = process_cpu_s(offline.pid)
    answer = offline.ask("generate", prompts=prompts, max_tokens=TOKENS)
    cpu_s = process_cpu_s(offline.pid) - began
    check_whole(answer["tokens"], STREAMS, TOKENS)
    return Offline(answer["seconds"], cpu_s)


def _served(prompts: list[str], model: str, server: Server, client: Worker) -> Served:
    body = {"model": model, "temperature": 0.0, "max_tokens": TOKENS, "ignore_eos": True}
    pids = (server.engine_pid, server.pid)
    others = OtherWork(*pids, client.pid)
    began = [process_cpu_s(pid) for pid in pids]
    answer = client.ask("stream", bodies=[body | {"prompt": prompt} for prompt in prompts])
    share = others.share()
    engine, own = (process_cpu_s(pid) - start for pid, start in zip(pids, began, strict=True))
    check_whole(answer["tokens"], STREAMS, TOKENS)
    seconds = answer["seconds"]
    return Served(seconds, engine, own, answer["cpu_seconds"], share * seconds * CPUS)


def _summary(done: list[Round]) -> list[str]:
    tokens = STREAMS * TOKENS
    offline, offline_cpu = (
        _median(done, lambda item: item.offline.s),
        _median(done, lambda item: item.offline.cpu_s),
    )
    served, alone = (
        _median(done, lambda item: item.served.s),
        _median(done, lambda item: item.served.alone_s),
    )
    each = ", ".join(f"{item.cost:.1%}" for item in done)
    parts = {
        "engine process": _median(done, lambda item: item.served.engine_cpu_s),
        "server process": _median(done, lambda item: item.served.server_cpu_s),
        "client": _median(done, lambda item: item.served.client_cpu_s),
        "others": _median(done, lambda item: item.served.other_cpu_s),
        "idle": _median(done, lambda item: item.served.idle_s),
    }
    return [
        f"offline: median {tokens / offline:.1f} tokens/s of {STREAMS} sequences",
        f"served: median {tokens / alone:.1f} tokens/s of {STREAMS} streams "
        f"({tokens / served:.1f} with what the client took)",
        f"the server costs {_median(done, lambda item: item.cost):.1%} of the offline rate ({each}), "
        f"{(alone - offline) / TOKENS * 1e3:.2f} ms a step (goal: {MOST_COST:.0%})",
        f"offline, {CPUS} CPUs for {offline:.2f} s: the process {offline_cpu:.2f} s",
        f"served, {CPUS} CPUs for {served:.2f} s: "
        + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items()),
        f"others took up to {max(item.other_share for item in done):.1%} of the machine in a round",
    ]


def _median(done: list[Round], figure: Callable[[Round], float]) -> float:
    return statistics.median(figure(item) for item in done)


if __name__ == "__main__":
    run(main)
