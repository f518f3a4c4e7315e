"""Sampling on the card: kernels' times, what a launch takes the host, and torch's own operations beside them.

    python benchmarks/cuda_sampling.py [--rows 1,8,64] [--vocabulary 152064] [--output FILE]

Ours are timed as CUDA graphs of several launches in a row, medians; so are torch's argmax (of greedy rows)
and what is usual of it for draws: softmax and multinomial, with a sort before for top-k and top-p. Tokens of
up to 8 rows are held against the CPU's sampler first. Logits are normal ("flat"), or with 200 likely tokens
("peaked"). Prints a line a case, and writes all figures to FILE. Exit code 1: something failed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness.machine import RESULTS, now

from pascaline.cli.ending import run
from pascaline.engine.card_sampler import CardSampler
from pascaline.engine.sampler import sample_by_torch
from pascaline.engine.sampling_call import CallMaker
from pascaline.engine.sampling_params import SamplingParams
from pascaline.engine.sequence import Sequence
from pascaline.kernels.cuda.kernel_set import KernelSet

CASES = {
    "greedy": SamplingParams(temperature=0.0),
    "temperature": SamplingParams(temperature=0.8),
    "top-k 40": SamplingParams(temperature=0.8, top_k=40),
    "top-p 0.9": SamplingParams(temperature=0.8, top_p=0.9),
    "top-k 40, top-p 0.9, min-p 0.05": SamplingParams(temperature=0.8, top_k=40, top_p=0.9, min_p=0.05),
    "min-p 0.05": SamplingParams(min_p=0.05),
    "greedy, 20 log-probabilities": SamplingParams(temperature=0.0, logprobs=20),
    "greedy, penalties": SamplingParams(temperature=0.0, repetition_penalty=1.1, frequency_penalty=0.2),
}
_IN_A_GRAPH, _ROUNDS, _HELD_ROWS, _PROMPT = 20, 15, 8, 1000


def main() -> int:
    """Measure and print."""
    given = _arguments()
    device = torch.device("cuda")
    kernels = KernelSet(device)
    sampler = CardSampler(kernels, max(given.rows), given.vocabulary)
    found: dict[str, Any] = {
        "card": torch.cuda.get_device_name(),
        "vocabulary": given.vocabulary,
        "cases": [],
    }
    failed = False
    for kind in ("peaked", "flat"):
        for rows in given.rows:
            logits = _logits(kind, rows, given.vocabulary).to(device)
            for name, params in CASES.items():
                case: dict[str, Any] = {"case": name, "logits": kind, "rows": rows}
                try:
                    case |= _measure(sampler, params, logits)
                except Exception as error:  # the other cases are worth their figures
                    case["error"] = f"{type(error).__name__}: {error}"
                failed |= "error" in case or case["differ"] > 0
                found["cases"].append(case)
                print(json.dumps(case, ensure_ascii=False), flush=True)
    output = given.output or RESULTS / "cuda-sampling" / f"{now()[:10]}-cuda-sampling.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"figures in {output}")
    return 1 if failed else 0


def _measure(sampler: CardSampler, params: SamplingParams, logits: torch.Tensor) -> dict[str, Any]:
    rows = len(logits)
    sequences = [Sequence(1, 0, 0, params, seed, list(range(_PROMPT)), _PROMPT - 10) for seed in range(rows)]
    for sequence in sequences:
        sequence.output_counts.update(sequence.tokens[-10:])
    chosen = sampler.launch(logits, sequences).read()
    held = min(rows, _HELD_ROWS)
    expected = sample_by_torch(logits[:held].cpu(), sequences[:held])
    call = CallMaker().make(sequences)
    timed = _graph_s(lambda: sampler.launch_kernels(call, logits))
    return {
        "differ": sum(mine.token_id != other.token_id for mine, other in zip(chosen, expected, strict=False)),
        "ours_us": timed * 1e6,
        "torch_us": _graph_s(lambda: _by_torch(logits, params)) * 1e6,
        "bytes_per_s": logits.nbytes / timed,
        "host_us": _host_s(lambda: sampler.launch(logits, sequences)) * 1e6,
        "launch_to_result_us": _host_s(lambda: sampler.launch(logits, sequences).read()) * 1e6,
    }


def _by_torch(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """What is usual: not the same draws, and without penalties, min-p and log-probabilities."""
    if params.greedy:
        return logits.argmax(-1)
    if params.top_k == 0 and params.top_p == 1.0:
        return (logits / params.temperature).softmax(-1).multinomial(1)
    ordered, ids = logits.sort(-1, descending=True)
    probabilities = (ordered / params.temperature).softmax(-1)
    if params.top_k:
        probabilities[:, params.top_k :] = 0.0
    probabilities = probabilities.masked_fill(probabilities.cumsum(-1) - probabilities > params.top_p, 0.0)
    return ids.gather(1, probabilities.multinomial(1))


def _graph_s(launch: Callable[[], object]) -> float:
    """Of one, of several in a row in a CUDA graph; the median."""
    launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_IN_A_GRAPH):
            launch()
    graph.replay()
    times = []
    for _ in range(_ROUNDS):
        # torch gives its events no types.
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        stop = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(float(start.elapsed_time(stop)) / 1e3 / _IN_A_GRAPH)
    return statistics.median(times)


def _host_s(launch: Callable[[], object]) -> float:
    """Until it returns; the median."""
    times = []
    for _ in range(50):
        torch.cuda.synchronize()
        began = time.perf_counter()
        launch()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _logits(kind: str, rows: int, vocabulary: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, vocabulary, generator=generator) * 2
    if kind == "peaked":
        logits[:, torch.randperm(vocabulary, generator=generator)[:200]] += 12
    return logits


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=lambda text: tuple(map(int, text.split(","))), default=(1, 8, 64))
    parser.add_argument("--vocabulary", type=int, default=152_064)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
