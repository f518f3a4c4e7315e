"""Figures of linears as text: ratios, what is wanted of them, and the card's limits."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from linears.cases import ANY, LARGE_SHAPES, MOST_ERROR, READ_SHARES, SHAPES, Shape, targets
from linears.format_cases import INT4

_LEAST_DP4A_SHARE, _LEAST_SIMT_SHARE = 0.75, 0.85
_DP4A_ROWS, _SIMT_ROWS = 256, 512
_MOST_FORMAT_BYTES, _MOST_FORMAT_TIME = 1.02, 1.10
_SHOWN = 5
_SHAPES = {shape.name: shape for shape in SHAPES}

Record = dict[str, Any]


def rates_text(rates: Mapping[str, Any]) -> str:
    """What the card's arithmetic gives."""
    if "dp4a" not in rates:
        return f"rates: {rates.get('reason', 'not measured')}"
    return (
        f"card: dp4a {rates['dp4a'] / 1e12:.1f} TOPS, FFMA {rates['ffma'] / 1e12:.1f} TFLOPS, "
        f"an empty graph node {rates['node_s'] * 1e6:.2f} µs"
    )


def comparison_text(case: Record, rates: Mapping[str, Any]) -> str:
    """All ways of one shape and M, fastest first."""
    shape, rows = _SHAPES[case["shape"]], case["rows"]
    lines = [f"\n{shape.label} ({shape.name}), M = {rows}{_limits(case, shape, rates)}"]
    for name, way in sorted(case["ways"].items(), key=lambda item: float(item[1]["median_s"])):
        share = f"{case['read_s'] / way['median_s']:6.2f} of read" if "read_s" in case else ""
        error = f"error {way.get('error', float('nan')):.1e}"
        operations = 2.0 * rows * shape.inputs * shape.outputs / way["median_s"] / 1e12
        lines.append(
            f"  {name:54.54} {way['side']:8} {way['accuracy']:6} {way['median_s'] * 1e6:9.2f} µs "
            f"±{way['spread'] * 100:4.1f} %  {error} {share} {operations:7.1f} T/s"
        )
    lines += [f"  FAILED {name}: {reason:.300}" for name, reason in case["failed"].items()]
    return "\n".join(lines)


def _limits(case: Record, shape: Shape, rates: Mapping[str, Any]) -> str:
    """The card's limits for a case: reading its weights, and its arithmetic."""
    text = ""
    if "read_s" in case:
        rate = case["read_bytes"] / case["read_s"] / 1e12
        text += f"; reading its {case['read_bytes'] / 1e6:.1f} MB takes {case['read_s'] * 1e6:.2f} µs"
        text += f" ({rate:.2f} TB/s)"
    if "dp4a" in rates and case["rows"] >= 16:
        operations = 2.0 * case["rows"] * shape.inputs * shape.outputs
        text += f", its dp4a {operations / rates['dp4a'] * 1e6:.1f} µs"
    clocks = [clock[0] for clock in case.get("clocks_mhz", [])]
    return text + (f"; {statistics.median(clocks):.0f} MHz" if clocks else "")


def summary(cases: Iterable[Record], rates: Mapping[str, Any]) -> str:
    """Everything that is wanted, case by case, with what was reached."""
    lines = ["\nWanted and reached (times as fast, or shares; ✗ is short of it)"]
    for case in cases:
        if case["ways"]:
            found = [
                *_against_read(case),
                *_against_peers(case),
                *_without_tensor_cores(case, rates),
                *_errors(case),
            ]
            shape = _SHAPES[case["shape"]]
            lines += [f"  {shape.label:>11} M = {case['rows']:<5} {text}" for text in found]
    return "\n".join(lines)


def _best(case: Record, accuracies: Iterable[str], **details: object) -> tuple[str, Record] | None:
    """Our fastest way of one of these accuracies, with such details."""
    known = [
        (name, way)
        for name, way in case["ways"].items()
        if way["side"] == "ours"
        and way["accuracy"] in accuracies
        and all(way["details"].get(key) == value for key, value in details.items())
    ]
    return min(known, key=lambda item: float(item[1]["median_s"]), default=None)


def _verdict(value: float, least: float) -> str:
    return f"{value:5.2f} {'✓' if value >= least else '✗'} (wanted {least:.2f})"


def _against_read(case: Record) -> Iterable[str]:
    best = _best(case, ("exact",))
    if case["rows"] == 1 and best is not None and "read_s" in case:
        share = case["read_s"] / best[1]["median_s"]
        yield f"of read      {_verdict(share, READ_SHARES[case['shape']])}  exact: {best[0]}"


def _against_peers(case: Record) -> Iterable[str]:
    wanted = {target.peer: target for target in targets(case["rows"])}
    for peer in ("exllama", "marlin"):
        if peer not in case["ways"]:
            continue
        peer_s = case["ways"][peer]["median_s"]
        for accuracy in ANY:
            best = _best(case, (accuracy,))
            if best is not None:
                text = f"{peer_s / best[1]['median_s']:5.2f}"
                yield f"× {peer:10} {text}  {accuracy}: {best[0]} ({best[1]['median_s'] * 1e6:.2f} µs)"
        target = wanted.get(peer)
        if target is not None:
            best = _best(case, target.accuracies)
            ratio = 0.0 if best is None else peer_s / best[1]["median_s"]
            yield f"× {peer:10} {_verdict(ratio, target.least)}"


def _without_tensor_cores(case: Record, rates: Mapping[str, Any]) -> Iterable[str]:
    shape, rows = _SHAPES[case["shape"]], case["rows"]
    operations = 2.0 * rows * shape.inputs * shape.outputs
    for planes in (1, 2):
        best = _best(case, ANY, arithmetic="dp4a", planes=planes)
        if best is not None and "dp4a" in rates and rows >= _DP4A_ROWS:
            share = operations * planes / best[1]["median_s"] / rates["dp4a"]
            is_wanted = shape.name in LARGE_SHAPES and planes == 1
            reached = _verdict(share, _LEAST_DP4A_SHARE) if is_wanted else f"{share:5.2f}"
            yield f"of dp4a peak {reached}  {planes} planes: {best[0]}"
    best = _best(case, ANY, arithmetic="ffma")
    library = case["ways"].get("torch fp32")
    if best is not None and library is not None and rows >= _SIMT_ROWS:
        ratio = library["median_s"] / best[1]["median_s"]
        yield f"× sgemm      {_verdict(ratio, _LEAST_SIMT_SHARE)}  {best[0]}"


def _errors(case: Record) -> Iterable[str]:
    for accuracy, most in MOST_ERROR.items():
        errors = {
            name: way["error"]
            for name, way in case["ways"].items()
            if way["side"] == "ours" and way["accuracy"] == accuracy
        }
        for name, error in errors.items():
            if error > most:
                yield f"error        {error:.1e} ✗ (wanted ≤ {most:.1e})  {accuracy}: {name}"


def formats_table(cases: Iterable[Record]) -> str:
    """Bytes read against the file's, and times against those bytes at int4's rate."""
    lines = ["\nOther forms at M = 1 (exact): bytes over the file's ≤ 1.02, time over int4's rate ≤ 1.10"]
    for case in cases:
        shape, name = _SHAPES[case["shape"]], case["format"]
        own = {each: way for each, way in case["ways"].items() if not each.startswith(INT4)}
        beside = [way["median_s"] for each, way in case["ways"].items() if each.startswith(INT4)]
        best = _best(case | {"ways": own}, ("exact",))
        if best is None or not beside:
            lines.append(f"  {shape.label:>11} {name:8} FAILED {case['failed']}")
            continue
        seconds, error = best[1]["median_s"], best[1].get("error", float("nan"))
        of_bytes = case["read_bytes"] / case["file_bytes"]
        of_time = seconds / (case["read_bytes"] / (case["int4_bytes"] / min(beside)))
        lines.append(
            f"  {shape.label:>11} {name:8} {case['read_bytes'] / 1e6:7.1f} MB = {of_bytes:.3f} "
            f"{_mark(of_bytes <= _MOST_FORMAT_BYTES)}  {seconds * 1e6:7.2f} µs = {of_time:.3f} "
            f"{_mark(of_time <= _MOST_FORMAT_TIME)}  error {error:.1e}  {best[0]}"
        )
        lines += [f"    FAILED {each}: {reason:.200}" for each, reason in case["failed"].items()]
    return "\n".join(lines)


def sweep_table(case: Record) -> str:
    """The fastest candidates of each arithmetic at one shape and M; the figures' file has all."""
    shape = _SHAPES[case["shape"]]
    read = f"; read {case['read_s'] * 1e6:.2f} µs" if "read_s" in case else ""
    if "format" in case:
        lines = [f"\nsweep of {case['family']}: {shape.label}, {case['format']}, M = 1"]
        beside = [way["median_s"] for name, way in case["ways"].items() if name.startswith(INT4)]
        if beside:
            at_rate_s = min(beside) * case["read_bytes"] / case["int4_bytes"]
            lines[0] += f"; its bytes at int4's rate take {at_rate_s * 1e6:.2f} µs"
    else:
        lines = [f"\nsweep of {case['family']}: {shape.label}, M = {case['rows']}{read}"]
    shown: Counter[str] = Counter()
    for name, way in sorted(case["ways"].items(), key=lambda item: float(item[1]["median_s"])):
        arithmetic = name.partition(":")[0]
        shown[arithmetic] += 1
        if shown[arithmetic] <= _SHOWN:
            share = f"{case['read_s'] / way['median_s']:5.2f}" if read else ""
            error = way.get("error", float("nan"))
            lines.append(f"  {way['median_s'] * 1e6:9.2f} µs {share}  {error:.1e}  {name}")
    lines += [f"  FAILED {name}: {reason:.300}" for name, reason in case["failed"].items()]
    return "\n".join(lines)


def print_failures(found: Mapping[str, Any]) -> bool:
    """Whether anything failed; says so on stderr."""
    failed: dict[str, str] = {}
    for part in ("compare", "formats", "dense", "sweep"):
        for case in found[part]:
            failed |= {f"{name} ({case['shape']})": reason for name, reason in case["failed"].items()}
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason:.300}", file=sys.stderr)
    return bool(failed)


def _mark(is_reached: bool) -> str:
    return "✓" if is_reached else "✗"
