"""The server on the card with Qwen2.5-7B's shapes in int4: random arrivals, and what serving costs.

    PYTHONPATH=src python benchmarks/cuda_serving.py [--output FILE] [--only arrivals,cost] [--seconds 8]
        [--streams 1,4,16,64,128] [--rounds 3]

Weights are made up on the card (`load_format` "dummy"). The server is `pascaline serve` with its engine
process; clients are a process of their own (`harness/arrivals_client.py`): each stream sends requests of 64
to 512 tokens, for 32 to 192, with random pauses of 0.1 s on average between them. Measured are tokens a
second, the time to a request's first token and the time between tokens, median and 99th of a hundred.

What serving costs: 64 prompts at once, 256 tokens for each, to the server and to `LLM` in a process of its
own, in turns; clients sleep meanwhile (`harness/streaming_client.py`).

Prints it all and what is wanted; writes FILE after every part. Exit code 1: something failed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from harness.findings import Findings
from harness.json_lines import Worker
from harness.random_model import QWEN_7B
from harness.served_model import Server, serving
from harness.seven_billion import INT4, write_folder
from harness.streaming_client import check_whole

from pascaline.cli.ending import run

CASE = "cuda-serving"
PARTS = ("arrivals", "cost")
STREAMS = (1, 4, 16, 64, 128)
COST_STREAMS, COST_PROMPT, COST_TOKENS = 64, 128, 256
MOST_COST = 0.05
_NAME = "qwen2.5-7b"
"""That the model is served by."""
SHARE_OF_MEMORY = 0.35
MOST_SEQUENCES, MOST_BATCH_TOKENS, MOST_LENGTH = 128, 2048, 4096


class ServingRun:
    """The parts of one run."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self._given = given
        self._model = str(write_folder(folder / _NAME, INT4, has_tokenizer=True))
        self.findings = Findings(CASE, given.output)
        self.findings.found |= {"card": {"gpu": torch.cuda.get_device_name()}, "arrivals": {}, "cost": []}

    def measure(self) -> None:
        """All parts that are wanted."""
        self.findings.part("server", self._served)

    def _served(self) -> str:
        options = (
            *("--device", "cuda", "--load-format", "dummy", "--max-model-len", str(MOST_LENGTH)),
            *("--max-sequences", str(MOST_SEQUENCES), "--max-batch-tokens", str(MOST_BATCH_TOKENS)),
            *("--gpu-memory-utilization", str(SHARE_OF_MEMORY)),
        )
        part = self.findings.part
        with serving(self._model, options) as server:
            if "arrivals" in self._given.only:
                with Worker(
                    *(sys.executable, "arrivals_client", str(server.port), _NAME, str(QWEN_7B.vocab))
                ) as client:
                    client.ask("run", streams=2, seconds=1.0)  # whatever the first requests bring to life
                    for streams in self._given.streams:
                        part(f"arrivals of {streams}", partial(self._arrivals, client, streams))
            if "cost" in self._given.only:
                part("cost", partial(self._cost, server))
        return "the server has ended"

    def _arrivals(self, client: Worker, streams: int) -> str:
        seen = client.ask("run", streams=streams, seconds=self._given.seconds)
        self.findings.found["arrivals"][str(streams)] = seen
        if seen["failed"]:
            self.findings.failed[f"{streams} streams"] = seen["failed"][0]
        first, between = (
            ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in seen[key].items())
            for key in ("first_token_s", "between_tokens_s")
        )
        return (
            f"{streams:3} streams: {seen['tokens_per_s']:8.1f} tokens/s in {seen['requests']} requests; "
            f"first token {first}; between tokens {between}"
        )

    def _cost(self, server: Server) -> str:
        options = {
            "device": "cuda",
            "load_format": "dummy",
            "max_model_len": MOST_LENGTH,
            "max_sequences": MOST_SEQUENCES,
            "max_batch_tokens": MOST_BATCH_TOKENS,
        }
        arguments = (self._model, str(SHARE_OF_MEMORY), json.dumps(options))
        rounds = self.findings.found["cost"]
        with (
            Worker(sys.executable, "streaming_client", str(server.port)) as client,
            Worker(sys.executable, "offline_worker", *arguments) as offline,
        ):
            for number in range(self._given.rounds + 1):
                sides = [partial(self._offline_s, offline), partial(self._served_s, client)]
                prompts = _prompts(number)
                seconds = {side.func.__name__: side(prompts) for side in sides[:: 1 if number % 2 else -1]}
                if number:  # the first brings things to life
                    rounds.append(seconds)
        offline_s, served_s = (
            statistics.median(each[name] for each in rounds) for name in ("_offline_s", "_served_s")
        )
        cost = statistics.median(1 - each["_offline_s"] / each["_served_s"] for each in rounds)
        tokens = COST_STREAMS * COST_TOKENS
        mark = "✓" if cost <= MOST_COST else "✗"
        return (
            f"{COST_STREAMS} streams: offline {tokens / offline_s:.0f} tokens/s, served "
            f"{tokens / served_s:.0f}: the server costs {cost:.1%} {mark} (wanted at most {MOST_COST:.0%})"
        )

    def _offline_s(self, offline: Worker, prompts: list[list[int]]) -> float:
        answer = offline.ask("generate", prompts=prompts, max_tokens=COST_TOKENS)
        check_whole(answer["tokens"], COST_STREAMS, COST_TOKENS)
        return float(answer["seconds"])

    def _served_s(self, client: Worker, prompts: list[list[int]]) -> float:
        body = {"model": _NAME, "temperature": 0.0, "max_tokens": COST_TOKENS, "ignore_eos": True}
        answer = client.ask("stream", bodies=[body | {"prompt": prompt} for prompt in prompts])
        check_whole(answer["tokens"], COST_STREAMS, COST_TOKENS)
        return float(answer["seconds"])


def _prompts(number: int) -> list[list[int]]:
    """Of a round of its own: nothing for the prefix cache."""
    chance = random.Random(number)
    return [[chance.randrange(QWEN_7B.vocab) for _ in range(COST_PROMPT)] for _ in range(COST_STREAMS)]


def main() -> int:
    """Measure and print."""
    given = _arguments()
    if not torch.cuda.is_available():
        print("there is no card here that torch can use; `pascaline doctor` says why", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="cuda-serving-") as folder:
        measured = ServingRun(given, Path(folder))
        measured.measure()
    print(f"{measured.findings.found['wall_s']} s")
    return int(bool(measured.findings.failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help=f"by default results/<card>/<date>-{CASE}.json")
    parser.add_argument("--only", type=lambda text: tuple(text.split(",")), default=PARTS)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each number of streams")
    parser.add_argument("--streams", type=lambda text: tuple(map(int, text.split(","))), default=STREAMS)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if unknown := set(given.only) - set(PARTS):
        parser.error(f"--only {', '.join(sorted(unknown))}: not among {', '.join(PARTS)}")
    return given


if __name__ == "__main__":
    run(main)
