"""Figures of attention as text: ratios, what is wanted of them, and the card's limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attention.cases import (
    FULL_BATCH,
    LEAST_INT8_GAIN,
    LEAST_OF_READ,
    LEAST_OF_SDPA,
    LEAST_TFLOPS,
    DecodeCase,
    PrefillCase,
)

Record = Mapping[str, Any]
FP16, INT8 = "ours float16", "ours int8"


def decode_text(case: DecodeCase, found: Record) -> str:
    """All ways of one batch and context."""
    lines = [f"\n{case.name}"]
    for name in ("fp16", "int8"):
        if read := found.get(f"read_{name}"):
            lines[0] += (
                f"; reading its {read['bytes'] / 1e6:.1f} MB of {name} takes {read['median_s'] * 1e6:.1f} µs "
                f"({read['bytes'] / read['median_s'] / 1e12:.2f} TB/s)"
            )
    return "\n".join([*lines, *_ways(found), *_decode_verdicts(case, found)])


def prefill_text(case: PrefillCase, found: Record) -> str:
    """All ways of one chunk."""
    lines = [f"\n{case.name}", *_ways(found)]
    if FP16 in found["ways"]:
        rate = case.operations / found["ways"][FP16]["median_s"] / 1e12
        lines.append(
            f"  {rate:.0f} TFLOPS {_mark(rate >= LEAST_TFLOPS)} (wanted {LEAST_TFLOPS:.0f} from 2048 on)"
        )
        if best := _best_library(found):
            lines.append(f"  × torch {best / found['ways'][FP16]['median_s']:.2f}")
    return "\n".join(lines)


def failures(cases: Iterable[Record]) -> dict[str, str]:
    """What was wrong, did not run, or broke the card's context."""
    return {f"{name}, {case['case']}": reason for case in cases for name, reason in case["failed"].items()}


def _ways(found: Record) -> Iterable[str]:
    for name, way in sorted(found["ways"].items(), key=lambda item: float(item[1]["median_s"])):
        error = way.get("error", way["details"].get("error_before", float("nan")))
        yield f"  {name:32} {way['median_s'] * 1e6:9.2f} µs ±{way['spread'] * 100:4.1f} %  error {error:.1e}"
    yield from (f"  not there: {name}: {reason:.120}" for name, reason in found.get("refused", {}).items())
    yield from (f"  FAILED {name}: {reason:.300}" for name, reason in found["failed"].items())


def _decode_verdicts(case: DecodeCase, found: Record) -> Iterable[str]:
    ways = found["ways"]
    if FP16 not in ways:
        return
    seconds = ways[FP16]["median_s"]
    if best := _best_library(found):
        yield f"  × torch {_verdict(best / seconds, LEAST_OF_SDPA)}"
    is_full = case.batch == FULL_BATCH and case.width == case.context
    share = found["read_fp16"]["median_s"] / seconds
    yield f"  of read {_verdict(share, LEAST_OF_READ) if is_full else f'{share:.2f}'}"
    if INT8 in ways:
        gain = seconds / ways[INT8]["median_s"]
        share = found["read_int8"]["median_s"] / ways[INT8]["median_s"]
        reached = _verdict(gain, LEAST_INT8_GAIN) if is_full else f"{gain:.2f}"
        yield f"  int8 over fp16 {reached}; of its read {share:.2f}"


def _best_library(found: Record) -> float | None:
    times = [way["median_s"] for way in found["ways"].values() if way["side"] == "library"]
    return min(times, default=None)


def _verdict(value: float, least: float) -> str:
    return f"{value:.2f} {_mark(value >= least)} (wanted {least:.2f})"


def _mark(is_reached: bool) -> str:
    return "✓" if is_reached else "✗"
