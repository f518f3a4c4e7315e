"""Tokens per second on the CPU: Pascaline against llama.cpp, same file, same threads, in turns.

    python benchmarks/cpu_baseline_vs_llamacpp.py [--peer-python PYTHON] [--model demo] [--rounds 5]

Each side is a process that loads once and measures on request, so that loading is in no figure.
After a warm-up the sides take turns, phase by phase: a prompt of 512 tokens to its first token
(prefill), then 64 tokens after a prompt of 16 (decode), greedy, past any end token. Every round
has token ids of its own (a prefix cache finds nothing, and that is checked); llama.cpp's memory is
cleared each time. Before all that, both sides predict every next token of one text: where they
disagree on many, they do not compute the same model and there is nothing to compare.

Prints the figures and writes a run record: one row for each round, phase and side, in the order
of running. Exit code 2: llama-cpp-python is not there, or the sides are not comparable.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Mapping

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

from pascaline.checkpoint.checkpoint import TensorEntry
from pascaline.checkpoint.hf_config import parse_model_config
from pascaline.checkpoint.opening import open_checkpoint
from pascaline.checkpoint.reference import resolve
from pascaline.core.errors import PascalineError
from pascaline.core.progress import ignore_progress
from pascaline.llm.model_text import ModelText
from pascaline.report.run_record import Cpu, Phase, Row, RunRecord

CASE = "cpu-baseline-vs-llamacpp"
PROMPT_TOKENS = 512
DECODE_TOKENS = 64
DECODE_PROMPT_TOKENS = 16
MIN_AGREEMENT = 0.85
"""Share of next tokens predicted alike. llama.cpp rounds activations to 8 bits, which turns close
calls: about one in twenty on this text."""

TEXT = """A steam engine turns heat into motion. Water boils in a closed vessel, the steam pushes a
piston, and the piston turns a wheel. The first engines pumped water out of mines; they were slow,
and burned so much coal that only mine owners could afford them. Then a Scottish instrument maker
saw that most of the heat was lost in warming the cylinder again after every stroke. He let the
steam condense in a vessel of its own, which was always cold, while the cylinder was always hot."""


class NotComparableError(Exception):
    """The two sides do not do the same work."""


def main() -> int:
    arguments = _parse_arguments()
    try:
        return _run(arguments)
    except (PascalineError, NotComparableError, WorkerError) as error:
        sys.stderr.write(f"cpu_baseline_vs_llamacpp: {error}\n")
        return 2


def _run(arguments: argparse.Namespace) -> int:
    threads: int = arguments.threads or physical_cores()
    peer_python: str = arguments.peer_python
    _require_peer(peer_python)
    path = resolve(arguments.model, ignore_progress).path
    checkpoint = open_checkpoint(path)
    try:
        if checkpoint.container != "gguf":
            raise NotComparableError(f"{path.name} is no GGUF file, which is what llama.cpp reads")
        weight_bytes = _bytes_per_token(checkpoint.tensors)
        config = dataclasses.asdict(parse_model_config(checkpoint.hf_config))
    finally:
        checkpoint.close()
    before = load_average()
    cpu = measured_cpu(threads)
    with (
        Worker(sys.executable, "pascaline_worker", str(path), str(threads)) as ours,
        Worker(peer_python, "llamacpp_worker", str(path), str(threads)) as theirs,
    ):
        sides = {"pascaline": ours, "llama.cpp": theirs}
        _check_hellos(sides, threads)
        agreement = _agreement(ModelText.load(path), sides)
        numbers = random.Random(0)
        _measure(sides, numbers, config["vocab_size"])
        rows: list[Row] = []
        for _ in range(arguments.rounds):
            rows += _measure(sides, numbers, config["vocab_size"])
        after = load_average()
        notes = [
            *_summary(rows, cpu, weight_bytes),
            f"the same next token at {agreement:.1%} of the positions of a text",
            f"load average of the last minute: {before} at the start, {after} at the end",
            f"thread variables: {thread_settings()}",
            *(f"{name}: {side.hello['settings']}" for name, side in sides.items()),
        ]
        versions = software("pascaline", "torch", "numpy") | {"llama-cpp-python": theirs.hello["version"]}
        model = {"file": path.name, "sha256": ours.hello["sha256"], "weight_bytes_per_token": weight_bytes}
    record = RunRecord(
        kind="bench",
        created=now(),
        software=versions,
        cpu=cpu,
        model={**model, "config": config},
        tokens=PROMPT_TOKENS,
        batch=1,
        rows=[_with_bound(row, cpu, weight_bytes) for row in rows],
        notes=notes,
    )
    _print(record)
    print(f"written: {os.path.relpath(write_result(record, cpu, CASE))}")
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", default="demo", help="demo, a .gguf file, or a hub id of one")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with llama-cpp-python")
    parser.add_argument("--threads", type=int, help="of each side [default: physical cores]")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or (arguments.threads is not None and arguments.threads < 1):
        parser.error("--rounds and --threads have to be at least 1")
    return arguments


def _require_peer(python: str) -> None:
    remedy = (
        "`python3 -m venv peer && peer/bin/pip install llama-cpp-python` (it compiles for some minutes, "
        "and needs a C++ compiler), then --peer-python peer/bin/python"
    )
    try:
        found = subprocess.run([python, "-c", "import llama_cpp"], capture_output=True, check=False)
    except OSError as error:
        raise NotComparableError(f"{python}: {error.strerror}. llama-cpp-python: {remedy}") from None
    if found.returncode:
        raise NotComparableError(f"{python} has no llama-cpp-python. {remedy}")


def _bytes_per_token(tensors: Mapping[str, TensorEntry]) -> int:
    """Bytes of weights that one decoded token reads: all but the table of a model with its own head."""
    embedding = "token_embd.weight" if "output.weight" in tensors else None
    return sum(entry.nbytes for name, entry in tensors.items() if name != embedding)


def _check_hellos(sides: Mapping[str, Worker], threads: int) -> None:
    hashes = {side.hello["sha256"] for side in sides.values()}
    if len(hashes) != 1:
        raise NotComparableError(f"the sides read different files: sha256 {hashes}")
    for name, side in sides.items():
        if side.hello["threads"] != threads:
            raise NotComparableError(f"{name} runs {side.hello['threads']} threads, not {threads}")


def _agreement(text: ModelText, sides: Mapping[str, Worker]) -> float:
    """Share of the text's positions at which both sides find the same token likeliest."""
    token_ids = text.encode(TEXT)
    ours, theirs = (side.ask("predict", token_ids=token_ids)["token_ids"] for side in sides.values())
    if not len(ours) == len(theirs) == len(token_ids) - 1:
        raise NotComparableError(f"{len(ours)} and {len(theirs)} predictions for {len(token_ids)} tokens")
    alike: float = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)
    if alike < MIN_AGREEMENT:
        raise NotComparableError(
            f"the sides predict the same token at only {alike:.1%} of a text's positions"
        )
    return alike


def _measure(sides: Mapping[str, Worker], numbers: random.Random, vocab_size: int) -> list[Row]:
    """One round: both sides prefill the same ids, then both decode after the same ids."""
    prompt = [numbers.randrange(vocab_size) for _ in range(PROMPT_TOKENS)]
    short = [numbers.randrange(vocab_size) for _ in range(DECODE_PROMPT_TOKENS)]
    rows = []
    for name, side in sides.items():
        answer = side.ask("prefill", token_ids=prompt)
        if answer["computed"] != PROMPT_TOKENS:
            raise NotComparableError(f"{name} computed {answer['computed']} of {PROMPT_TOKENS} tokens")
        rows.append(Row(module="", op=name, phase="prefill", calls=1, measured_s=answer["seconds"]))
    for name, side in sides.items():
        answer = side.ask("decode", token_ids=short, count=DECODE_TOKENS)
        if answer["computed"] != DECODE_TOKENS or len(answer["token_ids"]) != DECODE_TOKENS + 1:
            raise NotComparableError(f"{name} decoded {answer['computed']} of {DECODE_TOKENS} tokens")
        rows.append(
            Row(module="", op=name, phase="decode", calls=DECODE_TOKENS, measured_s=answer["seconds"])
        )
    return rows


def _with_bound(row: Row, cpu: Cpu, weight_bytes: int) -> Row:
    """Decode cannot be faster than reading the weights once a token."""
    if row.phase != "decode" or not cpu.read_gb_per_s_measured:
        return row
    moved = weight_bytes * row.calls
    return Row(
        module=row.module,
        op=row.op,
        phase=row.phase,
        calls=row.calls,
        measured_s=row.measured_s,
        bound_s=moved / (cpu.read_gb_per_s_measured * 1e9),
        bound_by="memory",
        bytes=moved,
    )


def _rates(rows: list[Row], side: str, phase: Phase) -> list[float]:
    """Tokens per second of each round."""
    tokens = PROMPT_TOKENS if phase == "prefill" else DECODE_TOKENS
    return [
        tokens / row.measured_s for row in rows if row.op == side and row.phase == phase and row.measured_s
    ]


def _summary(rows: list[Row], cpu: Cpu, weight_bytes: int) -> list[str]:
    lines = []
    phases: tuple[Phase, ...] = ("prefill", "decode")
    for phase in phases:
        ours, theirs = _rates(rows, "pascaline", phase), _rates(rows, "llama.cpp", phase)
        for name, rates in (("pascaline", ours), ("llama.cpp", theirs)):
            lines.append(
                f"{phase}, {name}: median {statistics.median(rates):.2f} tokens/s "
                f"({min(rates):.2f} to {max(rates):.2f})"
            )
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        lines.append(f"{phase}, pascaline / llama.cpp: median {statistics.median(ratios):.3f} ({each})")
    bandwidth = cpu.read_gb_per_s_measured
    if bandwidth:
        limit = bandwidth * 1e9 / weight_bytes
        lines.append(
            f"decode limit: {weight_bytes / 1e6:.1f} MB of weights a token at {bandwidth:.1f} GB/s "
            f"read from memory: {limit:.0f} tokens/s (more where weights stay in a cache; KV not counted)"
        )
    return lines


def _print(record: RunRecord) -> None:
    cpu = record.cpu
    if cpu is not None:
        print(f"{cpu.name}, {cpu.threads} threads; {' '.join(cpu.instruction_sets)}")
    print(", ".join(f"{name} {version}" for name, version in record.software.items()))
    for note in record.notes:
        print(note)


if __name__ == "__main__":
    sys.exit(main())
