"""What look-up speculation gives and costs: with and without it in turns, on answers that repeat or do not.

    python benchmarks/speculation.py [--model demo] [--device auto] [--rounds 5] [--dummy-7b]

Both engines stay loaded. A round is every prompt of a workload, one after the other, each by both in turn;
the first round is not counted, so the prompts of the others are remembered, and decoding is what is timed.
"edit" are texts to be repeated as they are, greedy; "free" are stories drawn at temperature 1. With
--dummy-7b the model has the shapes of Qwen2.5-7B in GPTQ-Int4 and made-up weights: "free" are tokens that are
drawn after random prompts, and "greedy" the most likely ones, which may repeat themselves or not.

Token ids of both sides must be equal on the CPU. On a card rows of a draft are computed by other kernels than
single tokens are: greedy answers may part where the two tokens' log-probabilities are as good as equal.
The ratio is the median of what was timed in turn.

Prints both rates, their ratio and how many drafted tokens were accepted; writes a run record. Exit code 1:
token ids differ, "edit" is not faster, or "free" loses more than it may.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import torch
from harness.machine import card_result_path, measured_cpu, now, physical_cores, result_path, software
from harness.seven_billion import INT4, write_folder
from harness.texts import TEXTS

from pascaline.cli.ending import run
from pascaline.engine.sampling_params import SamplingParams
from pascaline.llm.offline import LLM
from pascaline.report.run_record import Gpu, Row, RunRecord, write_record

CASE = "speculation"
TOKENS = 128
MOST_LOSS = 0.02
"""Of the rate without speculation, that the project allows where nothing repeats."""
SIDES = ("off", "auto")
ALIKE = 2.0**-5
"""Log-probabilities so near may change places: two roundings to half precision of logits up to 32."""
PROMPT, PROMPTS = 200, 5
"""Tokens of random prompts, and how many there are."""


@dataclass(frozen=True)
class Workload:
    """Prompts with how each is answered."""

    name: str
    prompts: list[list[int]]
    params: list[SamplingParams]


@dataclass
class Measured:
    """Of one side: tokens and seconds of each answer."""

    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        return statistics.median(
            tokens / taken for tokens, taken in zip(self.tokens, self.seconds, strict=True)
        )


def random_workloads(llm: LLM) -> list[Workload]:
    """Of a model whose weights are made up."""
    random = Random(0)
    prompts = [[random.randrange(llm.ready.vocab_size) for _ in range(PROMPT)] for _ in range(PROMPTS)]
    greedy = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
    drawn = [replace(greedy, temperature=1.0, seed=seed) for seed in range(PROMPTS)]
    return [Workload("greedy", prompts, [greedy] * PROMPTS), Workload("free", prompts, drawn)]


def workloads(llm: LLM) -> list[Workload]:
    """Of the texts of the harness."""

    def chat(content: str) -> list[int]:
        return llm.text.encode_chat([{"role": "user", "content": content}])

    edit = [chat(f"Repeat this text word by word, and change nothing:\n\n{text}") for text in TEXTS.values()]
    free = [
        chat(f"Write a long story about {subject}.")
        for subject in ("a lighthouse", "the first snow", "two rivers", "a lost key", "an old clock")
    ]
    greedy = SamplingParams(temperature=0.0, max_tokens=TOKENS)
    return [
        Workload("edit", edit, [greedy] * len(edit)),
        Workload(
            "free",
            free,
            [
                SamplingParams(temperature=1.0, seed=seed, max_tokens=TOKENS, ignore_eos=True)
                for seed in range(len(free))
            ],
        ),
    ]


def answer(llm: LLM, prompt: list[int], params: SamplingParams, measured: Measured) -> list[int]:
    """One prompt's answer by one side."""
    began = time.perf_counter()
    token_ids = llm.generate([prompt], params)[0].completions[0].token_ids
    measured.seconds.append(time.perf_counter() - began)
    measured.tokens.append(len(token_ids))
    return token_ids


def gap(llm: LLM, prompt: list[int], one: list[int], other: list[int]) -> float:
    """Between the log-probabilities of the tokens where two greedy answers part."""
    place = next(at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    params = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, logprobs=20)
    [first] = llm.generate([prompt + one[:place]], params)[0].completions[0].logprobs or []
    found = dict(first.top_logprobs)
    return (
        abs(found[one[place]] - found[other[place]]) if {one[place], other[place]} <= {*found} else math.inf
    )


def ratio(off: Measured, auto: Measured) -> float:
    """Of the rates, the median of what was timed one after the other."""
    return statistics.median(a / b for a, b in zip(off.seconds, auto.seconds, strict=True))


def main() -> int:
    """Measure and print."""
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="speculation-") as folder:
        if given.dummy_7b:
            given.model = str(write_folder(Path(folder) / "qwen2.5-7b-dummy", INT4, has_tokenizer=True))
        llms = {
            side: LLM(
                given.model,
                device=given.device,
                max_model_len=2048,
                max_sequences=4,
                gpu_memory_utilization=0.3,
                load_format="dummy" if given.dummy_7b else "auto",
                speculation=side,  # type: ignore[arg-type]
            )
            for side in SIDES
        }
    return _measured(given, llms)


def _measured(given: argparse.Namespace, llms: dict[str, LLM]) -> int:
    is_card = llms["off"].ready.device != "cpu"
    rows: list[Row] = []
    notes: list[str] = []
    good = True
    for workload in (random_workloads if given.dummy_7b else workloads)(llms["off"]):
        parted: dict[int, float] = {}
        measured = {side: Measured() for side in SIDES}
        before = llms["auto"].core.status()
        for number in range(given.rounds + 1):
            for place, (prompt, params) in enumerate(zip(workload.prompts, workload.params, strict=True)):
                answers = {
                    side: answer(llms[side], prompt, params, measured[side] if number else Measured())
                    for side in (SIDES if (number + place) % 2 else SIDES[::-1])
                }
                if answers["off"] == answers["auto"]:
                    continue
                is_tie = is_card and params.greedy
                parted[place] = (
                    gap(llms["off"], prompt, answers["off"], answers["auto"]) if is_tie else math.inf
                )
                good &= parted[place] <= ALIKE or (is_card and not params.greedy)
        notes += [
            f"{workload.name}: token ids of prompt {place} differ"
            + (f", where log-probabilities are {distance:.4f} apart" if distance < math.inf else "")
            for place, distance in parted.items()
        ]
        after = llms["auto"].core.status()
        drafted = after.drafted_tokens - before.drafted_tokens
        accepted = after.accepted_tokens - before.accepted_tokens
        off, auto = (measured[side].tokens_per_s for side in SIDES)
        gain = ratio(measured["off"], measured["auto"])
        notes.append(
            f"{workload.name}: {off:.1f} tokens/s without, {auto:.1f} with: {gain:.3f}; "
            f"of {drafted} drafted tokens {accepted} accepted"
        )
        good &= gain > (1.0 if workload.name == "edit" else 1.0 - MOST_LOSS)
        rows += [
            Row(
                module=workload.name,
                op=f"{sum(item.tokens)} tokens, speculation {side}",
                measured_s=sum(item.seconds),
                calls=len(item.seconds),
            )
            for side, item in measured.items()
        ]
    print("\n".join(notes))
    record = RunRecord(
        kind="bench",
        created=now(),
        software=software("pascaline", "torch", "numpy"),
        gpu=Gpu(name=torch.cuda.get_device_name()) if is_card else None,
        cpu=measured_cpu(physical_cores()),
        model={"model": given.model, "device": llms["auto"].ready.device},
        rows=rows,
        notes=notes,
    )
    case = f"{CASE}-dummy-7b" if given.dummy_7b else CASE
    if record.gpu is not None:
        path = card_result_path(record.gpu.name, case)
    else:
        assert record.cpu is not None
        path = result_path(record.cpu, record.created or "", case)
    write_record(record, path)
    print(f"written: {os.path.relpath(path)}")
    return 0 if good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", default="demo", help="as for pascaline generate")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dummy-7b", action="store_true", help="made-up weights instead of --model")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds has to be at least 1")
    return given


if __name__ == "__main__":
    run(main)
