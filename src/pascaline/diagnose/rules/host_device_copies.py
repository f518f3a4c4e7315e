"""Copies between host and card at every step

## Pattern
The time of a step goes into copies over PCIe: weights that live in the host's memory and are fetched for
each use, or activations and caches sent to and fro.

## Evidence
Time (and bytes) of host-to-device and device-to-host copies, in Nsight Systems' or the torch profiler's
records.

## Cause
CPU offload (vLLM `--cpu-offload-gb`, accelerate's hooks, DeepSpeed ZeRO-Inference), swapped KV caches, or
tensors made on the host inside of the step. PCIe 3.0 moves 12 GB/s and 4.0 25 GB/s, the card's memory 200
to 3000.

## Remedy
Keep the weights on the card: fewer bits a weight, or `pascaline plan MODEL --gpu NAME` for what would
fit. Where copies must be: pinned memory, `non_blocking=True`, one copy instead of many.

## Saving
The copies' time: what stays on the card is not copied. (Its reading from the card's memory is in the
kernels already.)

## References
- https://github.com/vllm-project/vllm/pull/6317 (99.9 % of the time in host-to-device copies)
"""

from __future__ import annotations

from pascaline.diagnose.finding import Found, Saving
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import Run
from pascaline.report.numbers import bandwidth, seconds, share, volume

_OPS = ("copy_host_to_device", "copy_device_to_host")
_LEAST_SHARE = 0.1


def check(run: Run) -> Found | None:
    """Copies over the bus that take a good part of the run."""
    copies = [row for row in run.rows if row.row.op in _OPS and row.s > 0]
    whole_s = sum(row.whole_s for row in copies)
    if not copies or whole_s < _LEAST_SHARE * run.total_s:
        return None
    moved = sum(row.whole_bytes or 0.0 for row in copies if row.whole_bytes)
    timed_s = sum(row.whole_s for row in copies if row.whole_bytes)
    calls = sum(row.row.calls for row in copies)
    rate = f", {volume(moved)} at {bandwidth(moved / timed_s)}" if moved and timed_s else ""
    return Found(
        evidence=(
            f"Copies between host and card ({calls}) take {seconds(whole_s)} of {seconds(run.total_s)}"
            f" ({share(whole_s, run.total_s)}){rate}; a tensor that stays on the card is not copied."
        ),
        cause="Weights or caches live in the host's memory and cross the bus at every step.",
        remedy=(
            "Keep them on the card: fewer bits a weight, a shorter context (pascaline plan MODEL --gpu"
            " NAME prices both); without vLLM's --cpu-offload-gb and --swap-space, without accelerate's"
            " CPU offload."
        ),
        savings=tuple(Saving(row.index, None, row.whole_s) for row in copies),
        modules=tuple(dict.fromkeys(row.row.module for row in copies)),
    )


RULE = Rule("PAS009", "host-device-copies", check)
