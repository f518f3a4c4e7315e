"""How much more work one run did than another, when nobody wrote it down.

Modules that compute next to nothing (activation, norms, rotary embedding) take the time that memory takes to
bring what they read. On two cards that get the same share of their bandwidth, times multiplied by bandwidths
are therefore in the ratio of the bytes, and bytes in that of the tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pascaline.core.errors import UnknownGpuError
from pascaline.hardware.gpus import Gpu as KnownGpu
from pascaline.hardware.gpus import find_gpu, gpus
from pascaline.report.alignment import Pair
from pascaline.report.run_record import RunRecord

# Elements that each op reads and writes for a token, in units of the hidden size, where the feed-forward
# block is four times as wide: two inputs and an output; input, output and a residual in and out; queries and
# keys in and out; one row in and out. What moves most says most: launches and first calls weigh least in it.
_TRAFFIC = {"silu_and_mul": 12.0, "rms_norm": 4.0, "rotary": 2.5, "embedding": 2.0}
_SAME_WORK = 0.1
"""Estimates this close to 1, on one card, are of the same work."""
_MEMORY_GIB = 0.6
"""What a card reports is this near to what it is sold with."""


@dataclass(frozen=True)
class WorkRatio:
    """The work of A over that of B, and how it is known. None: nothing tells."""

    ratio: float | None
    reason: str


def work_ratio(a: RunRecord, b: RunRecord, pairs: Sequence[Pair]) -> WorkRatio:
    """From what was recorded, else from the modules that are bound by memory."""
    first, second = recorded_work(a), recorded_work(b)
    if first is not None and second is not None:
        ratio = first / second
        words = f"recorded: {first} and {second} tokens"
        return WorkRatio(
            ratio, f"{words}, the same work" if ratio == 1 else f"{words}; A did {_times(ratio)}"
        )
    estimates = bandwidth_bound(pairs)
    if not estimates:
        return WorkRatio(
            None, "not known: the tokens were not recorded, and no module bound by memory is in both"
        )
    bandwidths, words = _bandwidths(a, b)
    ratio = weighted_median([(pair.a.seconds / pair.b.seconds, weight) for pair, weight in estimates])
    ratio *= bandwidths
    is_same_card = a.gpu is not None and b.gpu is not None and a.gpu.name == b.gpu.name
    told = estimates[0][0]
    names = dict.fromkeys(pair.pattern.rpartition(".")[2] for pair, _ in estimates)
    reason = (
        f"inferred, because {_unrecorded(first, second)}: of the modules bound "
        f"by memory ({', '.join(names)}), {told.pattern} moves most and took "
        f"{told.a.seconds / told.b.seconds:.3g} times as long in A "
        f"(all: {_range([pair.a.seconds / pair.b.seconds for pair, _ in estimates])}); {words}"
    )
    if is_same_card and abs(ratio - 1) < _SAME_WORK:
        return WorkRatio(1.0, f"{reason}; {ratio:.2f} on one card is the same work")
    reason += f"; so A did {_times(ratio)}"
    if first is not None:
        reason += f", and B had about {float(f'{first / ratio:.2g}'):.0f} tokens"
    if second is not None:
        reason += f", and A had about {float(f'{second * ratio:.2g}'):.0f} tokens"
    return WorkRatio(ratio, reason)


def _unrecorded(first: int | None, second: int | None) -> str:
    if first is None and second is None:
        return "neither recorded its tokens"
    return f"{'A' if first is None else 'B'} did not record its tokens"


def recorded_work(record: RunRecord) -> int | None:
    """Tokens in all; our own records state them for each of their sequences."""
    if record.tokens is None:
        return None
    return record.tokens if record.kind == "imported" else record.tokens * (record.batch or 1)


def bandwidth_bound(pairs: Sequence[Pair]) -> list[tuple[Pair, float]]:
    """Pairs that memory bounds, with how much each moves, the most first."""
    found = [
        (pair, _TRAFFIC[pair.op])
        for pair in pairs
        if pair.op in _TRAFFIC and pair.a.seconds > 0 and pair.b.seconds > 0
    ]
    return sorted(found, key=lambda item: -item[1])


def weighted_median(values: Sequence[tuple[float, float]]) -> float:
    """The value at which half of the weight is reached; `values` are (value, weight)."""
    half, reached = sum(weight for _, weight in values) / 2, 0.0
    for value, weight in sorted(values):
        reached += weight
        if reached >= half:
            return value
    raise ValueError("no values")


def _bandwidths(a: RunRecord, b: RunRecord) -> tuple[float, str]:
    """Bandwidth of A's memory over B's, and a sentence; 1 where either is unknown."""
    first, second = _bandwidth(a), _bandwidth(b)
    if first is None or second is None:
        unknown = " and ".join(name for name, found in (("A", first), ("B", second)) if found is None)
        return 1.0, f"the memory bandwidth of {unknown} is not known, so both are taken to be alike"
    return first[0] / second[0], f"A's memory brings {first[1]}, B's {second[1]}"


def _bandwidth(record: RunRecord) -> tuple[float, str] | None:
    """GB/s, and what it is that of."""
    gpu = record.gpu
    if gpu is None:
        cpu = record.cpu
        measured = None if cpu is None else cpu.read_gb_per_s_measured
        return None if measured is None else (measured, f"{measured:.0f} GB/s (measured)")
    try:
        card = find_gpu(gpu.name, memory_gib=gpu.memory_gib)
    except UnknownGpuError:
        alike = _cards_like(gpu.compute_capability, gpu.memory_gib)
        if not alike:
            return None
        low = statistics.median_low(card.bandwidth_gb_per_s for card in alike)
        card = next(card for card in alike if card.bandwidth_gb_per_s == low)
        others = (
            "" if len(alike) == 1 else f", taken for a {card.name}: one of {len(alike)} cards of its kind"
        )
        return low, f"{low:.0f} GB/s ({gpu.name}{others})"
    return card.bandwidth_gb_per_s, f"{card.bandwidth_gb_per_s:.0f} GB/s ({card.name})"


def _cards_like(compute_capability: str | None, memory_gib: float | None) -> list[KnownGpu]:
    if compute_capability is None or memory_gib is None:
        return []
    return [
        card
        for card in gpus()
        if card.compute_capability == compute_capability and abs(card.memory_gib - memory_gib) < _MEMORY_GIB
    ]


def _times(ratio: float) -> str:
    return f"{ratio:.4g} times the work of B" if ratio >= 1 else f"1/{1 / ratio:.3g} of the work of B"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
