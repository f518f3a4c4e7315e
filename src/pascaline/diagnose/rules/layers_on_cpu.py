"""Layers that run on the processor

## Pattern
Part of a model was put into the host's memory, because it did not fit the card or nobody asked for the
card.

## Evidence
llama.cpp's "offloaded 30/41 layers to GPU", accelerate's "parameters are … offloaded to the cpu",
ollama's split between CPU and GPU; or rows whose decision is the CPU, or whose kernels are processor
operators (`aten::…`), in a run with a GPU.

## Cause
A layer on the processor reads its weights at the host memory's bandwidth, some ten times below the
card's, and every step waits for it.

## Remedy
Make it fit: fewer bits a weight, a shorter context or an 8-bit KV cache (`pascaline plan MODEL --gpu
NAME` prices both); then `-ngl 99` in llama.cpp, `device_map={"": 0}` in transformers.

## Saving
For rows timed on the processor: their time, less their bytes at the share of the card's bandwidth that
engines reach. Else not predicted.

## References
- https://github.com/ggml-org/llama.cpp/issues/12237 (RTX 3060: 30 layers on the GPU, processor at its limit)
- https://github.com/hiyouga/LlamaFactory/issues/4697
"""

from __future__ import annotations

import re

from pascaline.diagnose.finding import Found, Saving
from pascaline.diagnose.names import last_names
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import MeasuredRow, Run
from pascaline.report.numbers import bandwidth, seconds, share, volume

_PARTLY = re.compile(r"offloaded (\d{1,5})/(\d{1,5}) layers to GPU", re.I)
_OFFLOADED = re.compile(
    r"offloaded to the (?:cpu|disk)(?: and disk)?|modules are dispatched on the CPU"
    r"|(\d{1,3})%/(\d{1,3})% CPU/GPU",
    re.I,
)
_ON_CPU = re.compile(r"(?:^|\b)cpu\b", re.I)


def check(run: Run) -> Found | None:
    """Rows or notes that say the processor computes, though there is a card."""
    rows = [row for row in run.rows if row.s > 0 and _is_on_cpu(row)] if _has_gpu(run) else []
    said = _said(run)
    if not rows and said is None:
        return None
    speed = run.chip.reached_bytes_per_s if run.chip else None
    savings = tuple(
        Saving(row.index, None, row.whole_s - row.whole_bytes / speed)
        for row in rows
        if speed and row.whole_bytes and row.whole_bytes / speed < row.whole_s
    )
    whole_s = sum(row.whole_s for row in rows)
    evidence = [f"The engine says: “{said}”."] if said else []
    if rows:
        evidence.append(
            f"{last_names(rows)} took {seconds(whole_s)} of {seconds(run.total_s)}"
            f" ({share(whole_s, run.total_s)}) on the processor."
        )
    if savings and speed:
        moved = sum(row.whole_bytes or 0.0 for row in rows)
        evidence.append(
            f"On the card their {volume(moved)} take {seconds(moved / speed)}, at {bandwidth(speed)}."
        )
    return Found(
        evidence=" ".join(evidence),
        cause="Layers run on the processor, which reads their weights from the host's memory at every step.",
        remedy=(
            "Make the model fit: pascaline plan MODEL --gpu NAME prices fewer bits, a shorter context and"
            " an 8-bit KV"
            ' cache. Then put all layers on the card: llama.cpp -ngl 99, transformers device_map={"": 0},'
            " without vLLM's --cpu-offload-gb."
        ),
        savings=savings,
        modules=tuple(row.row.module for row in rows),
    )


def _has_gpu(run: Run) -> bool:
    return run.record.gpu is not None or run.chip is not None


def _is_on_cpu(row: MeasuredRow) -> bool:
    if row.row.decision is not None and _ON_CPU.match(row.row.decision.choice):
        return True
    kernels = row.row.kernels
    return bool(kernels) and all(kernel.name.startswith("aten::") for kernel in kernels)


def _said(run: Run) -> str | None:
    partly = run.note_with(_PARTLY)
    if partly is not None and int(partly[1]) < int(partly[2]):
        return partly[0]
    offloaded = run.note_with(_OFFLOADED)
    if offloaded is None or offloaded[1] == "0":
        return None
    return offloaded[0]


RULE = Rule("PAS008", "layers-on-cpu", check)
