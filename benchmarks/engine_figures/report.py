"""Figures of an engine as text: ratios, what is wanted of them, and the card's limits."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.random_model import QWEN_7B

from engine_figures.cases import (
    CONTEXT,
    LEAST_BF16_OF_READ,
    LEAST_OF_PEER,
    LEAST_OF_READ,
    LEAST_TOKENS_PER_S,
    MOST_IDLE,
    MOST_OVER_CUBLAS,
    MOST_START_S,
)

Record = Mapping[str, Any]
_SHOWN = 8


def start_text(name: str, hello: Record) -> str:
    """How long the start took, and its parts."""
    stages = ", ".join(
        f"{stage} {seconds:.1f} s" + ("" if expected is None else f", {expected:.1f} expected")
        for stage, expected, seconds in hello["ready"]["stages"]
    )
    verdict = _at_most(hello["process_s"], MOST_START_S[name], "s") if name in MOST_START_S else ""
    return (
        f"start, {name} cache: the process {hello['process_s']:.1f} s {verdict}, "
        f"of them the engine {hello['core_s']:.1f} s ({stages})"
    )


def step_bytes(ready: Record, streams: int, context: float) -> float:
    """That a step reads: weights, of which the embeddings are a table, and keys and values."""
    embeddings = QWEN_7B.vocab * QWEN_7B.hidden * 2
    of_token = ready["kv_bytes"] / (ready["pages"] * ready["page_size"])
    return float(ready["weights_bytes"] - embeddings + streams * context * of_token)


def decode_figures(answer: Record, ready: Record, read: Record | None) -> dict[str, float]:
    """Tokens a second, a step's time, and its share of what reading its bytes takes."""
    seconds, tokens = answer["step_s"], answer["tokens"]
    step_s = statistics.median(seconds)
    figures = {"tokens_per_s": sum(tokens) / sum(seconds), "step_s": step_s}
    if read is not None:
        nbytes = step_bytes(ready, answer["streams"], answer["context"] + len(seconds) / 2)
        figures |= {"bytes": nbytes, "of_read": nbytes / read["bytes"] * read["seconds"] / step_s}
    return figures


def decode_text(rounds: Sequence[Record], kind: str) -> str:
    """One number of streams, the median of its rounds."""
    rates = [each["tokens_per_s"] for each in rounds]
    streams = rounds[0]["streams"]
    rate = statistics.median(rates)
    each_rate = ", ".join(f"{each:.1f}" for each in rates)
    text = f"{kind} decode, {streams:3} streams: {rate:9.1f} tokens/s ({each_rate})"
    if streams == 1 and kind == "int4":
        text += f" {_at_least(rate, LEAST_TOKENS_PER_S)}"
    shares = [each["of_read"] for each in rounds if "of_read" in each]
    if shares:
        share = statistics.median(shares)
        least = {"int4": LEAST_OF_READ, "bf16": LEAST_BF16_OF_READ}[kind]
        verdict = f" {_at_least(share, least)}" if streams == 1 else ""
        text += f"; {share:.2f} of read{verdict}"
    return text


def prompt_text(tokens: int, seconds: Sequence[float]) -> str:
    """A prompt to its first token."""
    middle = statistics.median(seconds)
    return f"prompt of {tokens}: {tokens / middle:9.0f} tokens/s, {middle * 1e3:.1f} ms to its first token"


def trace_text(streams: int, seen: Record) -> str:
    """How long the card works in a step."""
    plain = statistics.median(seen["plain_step_s"])
    idle, watched = (max(0.0, 1 - seen["busy_s"] / step_s) for step_s in (plain, seen["span_s"]))
    lines = [
        f"{streams} streams: a step takes {plain * 1e6:.0f} µs, the card works {seen['busy_s'] * 1e6:.0f} of "
        f"them in {seen['launches']:.0f} launches: idle {idle:.1%} {_at_most(idle, MOST_IDLE)}; watched, a "
        f"step took {seen['span_s'] * 1e6:.0f} µs, {watched:.1%} idle"
    ]
    for name, (seconds, times) in list(seen["by_name"].items())[:_SHOWN]:
        lines.append(f"  {seconds * 1e6:8.1f} µs a step, {times:5.1f} launches  {name:.90}")
    return "\n".join(lines)


def cublas_text(rounds: Sequence[Record], cublas: Record) -> str:
    """A step against the library's products alone."""
    step_s = statistics.median(each["step_s"] for each in rounds)
    ratio = step_s / cublas["seconds"]
    return (
        f"bf16, {cublas['rows']} streams: a step {step_s * 1e3:.2f} ms, cuBLAS for its linears alone "
        f"{cublas['seconds'] * 1e3:.2f} ms: {ratio:.2f} times {_at_most(ratio, MOST_OVER_CUBLAS)}"
    )


def peer_text(model: str, found: Record, prompt: int) -> Iterable[str]:
    """Ours over llama.cpp's, each the median of its rounds, at the same contexts."""
    ours = found["decode"]
    theirs = found["peer"].get(model, [])

    def line(what: str, own: float, rates: list[float], least: float | None) -> str:
        other = statistics.median(rates)
        verdict = f" {_at_least(own / other, least)}" if least is not None else ""
        rates_text = f"{other:.0f} tokens/s; ours {own:.0f}"
        return f"llama.cpp, {model}, {what}: {rates_text}: {own / other:.2f} times{verdict}"

    def own_rate(streams: str) -> float | None:
        rounds = ours.get(streams)
        return statistics.median(each["tokens_per_s"] for each in rounds) if rounds else None

    own = own_rate("1")
    rates = [each["decode"][str(CONTEXT)] for each in theirs if str(CONTEXT) in each.get("decode", {})]
    if own is not None and rates:
        yield line("1 stream", own, rates, LEAST_OF_PEER["1"])
    for streams in sorted({key for each in theirs for key in each.get("batched", {})}, key=int):
        own = own_rate(streams)
        rates = [each["batched"][streams] for each in theirs if streams in each.get("batched", {})]
        if own is not None and rates:
            yield line(f"{streams} streams", own, rates, LEAST_OF_PEER.get(streams))
    for tokens in sorted({key for each in theirs for key in each.get("prompts", {})}, key=int):
        seconds = found["prefill"].get(tokens)
        rates = [each["prompts"][tokens] for each in theirs if tokens in each.get("prompts", {})]
        if seconds and rates:
            least = LEAST_OF_PEER["prompt"] if int(tokens) == prompt else None
            yield line(f"prompt of {tokens}", int(tokens) / statistics.median(seconds), rates, least)


def _at_least(value: float, least: float) -> str:
    return f"{'✓' if value >= least else '✗'} (wanted {least:g})"


def _at_most(value: float, most: float, unit: str = "") -> str:
    return f"{'✓' if value <= most else '✗'} (wanted at most {most:g}{unit and ' ' + unit})"
