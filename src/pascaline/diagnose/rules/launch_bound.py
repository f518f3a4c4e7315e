"""The card waits for launches

## Pattern
Decoding (or a small model) in which the card is idle most of the time: many short kernels, launched one
by one.

## Evidence
Wall time against the time in which kernels ran, and the number of launches: the card is idle for a large
part of the time, in gaps as short as those between the launches of a program in Python.

## Cause
Every launch from Python costs several microseconds on the processor; a kernel of a decoding step runs for
as long or shorter. The card does its work and waits.

## Remedy
Record the step once and replay it: CUDA graphs (vLLM: leave out `--enforce-eager`; transformers: a static
cache with `torch.compile(mode="reduce-overhead")`, from compute capability 7.0; `pascaline serve`, on
every card). Larger batches, fewer and fused kernels, a faster processor core.

## Saving
The idle time, less what stays between a graph's kernels: assumed a fifth of a launch from the processor.

## References
- https://github.com/facebookresearch/sam2/issues/768 (A6000: 53.7 ms with 7.3 ms of work; 12.0 ms as a graph)
- NVIDIA, Getting Started with CUDA Graphs (2019), https://developer.nvidia.com/blog/cuda-graphs/
"""

from __future__ import annotations

from pascaline.diagnose.finding import BETWEEN_ROWS, Found, Saving
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import Run
from pascaline.report.numbers import seconds, share

_LAUNCH_S = 5e-6
"""On a card that is not known."""
_IN_A_GRAPH = 0.2
_MOST_CALLS = 1 << 40
_IDLE_SHARE = 0.3
_MOST_BETWEEN_S = 2e-4
"""The most that eager Python takes from one launch to the next, under a profiler that records its stacks: the
card waits longer for something else (loading, requests, the host's own work)."""
_SLOWED_BY_PROFILER = 3.0
"""Times what a launch takes: beyond, the profiler or slow Python has a part in it."""
_SLOWED = (
    " The processor took several times as long as its launches: Python's part, and that of a profiler, which"
    " slows it down (with_stack most); without it less can be saved."
)


def check(run: Run) -> Found | None:
    """More waiting than launches of a graph would cause."""
    busy_s = _busy_s(run)
    launches = sum(min(kernel.calls, _MOST_CALLS) for _, kernel in run.kernels)
    is_processor = run.record.gpu is None and run.record.cpu is not None
    if is_processor or run.between_rows_taken or busy_s is None or run.total_s <= 0 or not launches:
        return None
    busy_s = max(busy_s, run.rows_s)  # what rows account for is their causes' to save
    idle_s = run.total_s - busy_s
    launch_s = run.chip.launch_s if run.chip else _LAUNCH_S
    if idle_s < _IDLE_SHARE * run.total_s or idle_s > launches * _MOST_BETWEEN_S:
        return None
    saves_s = idle_s - launches * launch_s * _IN_A_GRAPH
    if saves_s <= 0:
        return None
    return Found(
        evidence=(
            f"The card ran kernels for {seconds(busy_s)} of {seconds(run.total_s)}"
            f" ({share(busy_s, run.total_s)}), in {launches} launches of {seconds(busy_s / launches)} on"
            f" average. A launch from the processor takes about {seconds(launch_s)}: {launches} ×"
            f" {seconds(launch_s)} = {seconds(launches * launch_s)}. Saved: {seconds(idle_s)} idle −"
            f" {launches} × {seconds(launch_s * _IN_A_GRAPH)} = {seconds(saves_s)}."
            + (_SLOWED if idle_s > _SLOWED_BY_PROFILER * launches * launch_s else "")
        ),
        cause="Launches take longer than the kernels: the card waits for the processor between them.",
        remedy=(
            "Record the step and replay it as a CUDA graph (vLLM: without --enforce-eager; transformers:"
            ' torch.compile(mode="reduce-overhead") with a static cache; pascaline serve MODEL), or batch'
            " more."
        ),
        savings=(Saving(BETWEEN_ROWS, None, saves_s),),
    )


def _busy_s(run: Run) -> float | None:
    """Time in which the card ran something: as recorded, or the kernels' times where all were timed."""
    if run.record.gpu_busy_s is not None:
        return run.record.gpu_busy_s
    kernels = [kernel.s for row in run.record.rows for kernel in row.kernels]
    if not kernels or any(not row.row.kernels and row.s > 0 for row in run.rows):
        return None
    known = [s for s in kernels if s is not None]
    return sum(known) if len(known) == len(kernels) else None


RULE = Rule("PAS007", "launch-bound", check)
