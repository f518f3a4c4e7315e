"""The engine on the card with Qwen2.5-7B's shapes, against the card's limits and llama.cpp.

    PYTHONPATH=src python benchmarks/cuda_engine.py [--only start,decode,prefill,trace,bf16,peer]
        [--output FILE] [--llamacpp FOLDER] [--gguf FOLDER] [--rounds 2] [--options JSON]

Weights are made up on the card (`load_format` "dummy"): int4 in groups of 128 as GPTQ leaves them, with head
and embeddings in fp16; then dense in bf16. Every engine is a process of its own; tokens are random, choices
greedy. Measured:

- the start, by stage, with an empty cache of kernels and with a full one;
- decode of 1 to 128 streams with 512 tokens behind each; a step's bytes (weights without the embeddings, and
  keys and values) over what a plain read of 1 GiB gives in the same run;
- prompts of 512 to 4096 tokens, new each time, to their first token;
- how long the card works in a step (launches that overlap count once), and what took most of it;
- bf16: one stream against reading, 128 against cuBLAS for all its linears;
- llama.cpp (`peers/build_llamacpp.py`, models of `harness/random_q4_0.py`), in turns with ours: one stream,
  several streams, prompts, with its head in fp16 as ours is and in Q6_K as its quantiser has it.

Prints ratios and what is wanted; writes all to FILE after every part, and what had failed. Exit code 1:
something failed; 2: there is no card.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from engine_figures import cases, report
from harness.card_session import CardSession
from harness.findings import Findings, asked
from harness.llamacpp_bench import LlamaCpp
from harness.random_q4_0 import FP16_HEAD, Q6_K_HEAD
from harness.seven_billion import BF16, INT4, write_folder

from pascaline.cli.ending import run

CASE = "cuda-engine"
PARTS = ("start", "decode", "prefill", "trace", "bf16", "peer")
PEER_PROMPT = 2048


class EngineRun:
    """The parts of one run."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self._given = given
        self._only = frozenset(given.only)
        self._options = cases.OPTIONS | given.options
        self._folder = folder
        # An empty cache of kernels, which the first start fills for all that follow.
        self._environment = {"PASCALINE_CACHE": str(folder / "cache")} if "start" in self._only else {}
        self.findings = Findings(CASE, given.output)
        self.found = self.findings.found
        self.found |= {"decode": {}, "bf16": {}, "prefill": {}, "peer": {}, "trace": {}, "cublas": {}}

    def measure(self) -> None:
        """All parts that are wanted."""
        part = self.findings.part
        part("limits", self._limits)
        if "card" not in self.found:
            return
        if "start" in self._only:
            for cache in ("cold", "warm"):
                part(f"start, {cache}", partial(self._start, cache))
        if {"decode", "prefill", "trace", "peer"} & self._only:
            part("int4 engine", self._int4)
        if "peer" in self._only and not self.found["peer"]:  # no engine of ours to take turns with
            for model in (FP16_HEAD, Q6_K_HEAD):
                part(f"llama.cpp, {model}", partial(self._peer, model))
        if "bf16" in self._only:
            part("bf16 engine", self._bf16)
            part("cuBLAS", self._cublas)

    def _limits(self) -> str:
        with CardSession("limits_worker") as session:
            self.found["card"] = session.hello
            read = self.found["read"] = asked(session, "read", nbytes=cases.READ_BYTES)
        return f"{session.hello['gpu']}: reads {read['bytes'] / read['seconds'] / 1e12:.2f} TB/s"

    def _start(self, cache: str) -> str:
        with self._engine(INT4, cases.START_OPTIONS | self._given.options) as session:
            self.found[f"start_{cache}"] = session.hello
        return report.start_text(cache, session.hello)

    def _int4(self) -> str:
        """Rounds in which ours and the peer take turns."""
        part = self.findings.part
        with self._engine(INT4, self._options) as engine:
            self.found["int4"] = engine.hello
            ready = engine.hello["ready"]
            for number in range(self._given.rounds):
                for streams in cases.STREAMS if "decode" in self._only else ():
                    decode = partial(self._decode, engine, "decode", streams, ready)
                    part(f"int4 decode of {streams}, round {number}", decode)
                for tokens in cases.PROMPTS if "prefill" in self._only else ():
                    part(f"prompt of {tokens}, round {number}", partial(self._prefill, engine, tokens))
                for model in (FP16_HEAD, Q6_K_HEAD) if "peer" in self._only else ():
                    part(f"llama.cpp, {model}, round {number}", partial(self._peer, model))
            for streams in cases.TRACED_STREAMS if "trace" in self._only else ():
                part(f"trace of {streams}", partial(self._trace, engine, streams))
        lines = [report.start_text("used", engine.hello)]
        for model in self.found["peer"]:
            lines += report.peer_text(model, self.found, PEER_PROMPT)
        return "\n".join(lines)

    def _decode(self, engine: CardSession, kind: str, streams: int, ready: Mapping[str, Any]) -> str:
        steps = cases.steps(streams)
        answer = asked(engine, "decode", streams=streams, context=cases.CONTEXT, steps=steps)
        figures = report.decode_figures(answer, ready, self.found.get("read"))
        rounds = self.found[kind].setdefault(str(streams), [])
        rounds.append(answer | figures)
        return report.decode_text(rounds, "bf16" if kind == "bf16" else "int4")

    def _prefill(self, engine: CardSession, tokens: int) -> str:
        answer = asked(engine, "prefill", tokens=tokens, repeats=cases.PROMPT_REPEATS)
        seconds = self.found["prefill"].setdefault(str(tokens), [])
        seconds += answer["seconds"]
        return report.prompt_text(tokens, seconds)

    def _trace(self, engine: CardSession, streams: int) -> str:
        seen = asked(engine, "trace", streams=streams, context=cases.CONTEXT)
        self.found["trace"][str(streams)] = seen
        return report.trace_text(streams, seen)

    def _peer(self, model: str) -> str:
        """Of what fails the rest is kept."""
        peer = LlamaCpp(self._given.llamacpp, self._given.gguf / model)
        seen: dict[str, dict[str, float]] = {}
        self.found["peer"].setdefault(model, []).append(seen)
        repeats, tokens = cases.PROMPT_REPEATS, cases.PEER_TOKENS
        seen["decode"] = peer.decode(tokens, (0, cases.CONTEXT), repeats)
        seen["prompts"] = peer.prompts(cases.PROMPTS, repeats)
        seen["batched"] = peer.batched(cases.PEER_STREAMS, cases.CONTEXT, tokens)
        return f"llama.cpp, {model}: {json.dumps(seen)}"

    def _bf16(self) -> str:
        with self._engine(BF16, self._options) as engine:
            self.found["bf16_engine"] = engine.hello
            for streams in cases.BF16_STREAMS:
                decode = partial(self._decode, engine, "bf16", streams, engine.hello["ready"])
                self.findings.part(f"bf16 decode of {streams}", decode)
        return report.start_text("used", engine.hello)

    def _cublas(self) -> str:
        lines = []
        with CardSession("limits_worker") as session:
            for rows in cases.BF16_STREAMS:
                answer = self.found["cublas"][str(rows)] = asked(session, "cublas", rows=rows)
                if rounds := self.found["bf16"].get(str(rows)):
                    lines.append(report.cublas_text(rounds, answer))
        return "\n".join(lines)

    def _engine(self, kind: str, options: Mapping[str, Any]) -> CardSession:
        model = write_folder(self._folder / kind, kind)
        arguments = (str(model), json.dumps(options))
        return CardSession("engine_worker", *arguments, environment=self._environment)


def main() -> int:
    """Measure and print."""
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="cuda-engine-") as folder:
        measured = EngineRun(given, Path(folder))
        measured.measure()
    if "card" not in measured.found:
        return 2
    print(f"{measured.found['wall_s']} s")
    return int(bool(measured.findings.failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help=f"by default results/<card>/<date>-{CASE}.json")
    parser.add_argument("--only", type=lambda text: tuple(text.split(",")), default=PARTS)
    parser.add_argument("--llamacpp", type=Path, default=Path("/tmp/llama"), help="folder of its programs")
    parser.add_argument("--gguf", type=Path, default=Path("/tmp/gguf"), help="folder of its models")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--options", type=json.loads, default={}, help="more settings of our engine")
    given = parser.parse_args()
    if unknown := set(given.only) - set(PARTS):
        parser.error(f"--only {', '.join(sorted(unknown))}: not among {', '.join(PARTS)}")
    if not (given.llamacpp / "llama-bench").exists():
        print(f"no llama.cpp in {given.llamacpp}: ours is measured alone", file=sys.stderr)
        given.only = tuple(part for part in given.only if part != "peer")
    return given


if __name__ == "__main__":
    run(main)
