"""Act-order weights that are not put in order

## Pattern
A GPTQ checkpoint with `desc_act` and groups decodes several times slower than one without.

## Evidence
The checkpoint's `desc_act: true` with a `group_size` above 0, and an engine path that looks the group of
every row up (`g_idx`): its word for it ("exllama disabled"), or time in gather kernels.

## Cause
With act-order, neighbouring rows belong to different groups: their scales are fetched by an index, row by
row, unless the engine sorts the rows once at load and permutes the activations instead.

## Remedy
An engine that reorders at load: exllama kernels (AutoGPTQ without `disable_exllama`), vLLM's `gptq_marlin`,
`pascaline serve`. Or the same model quantised with `desc_act: false`, or with `group_size: -1`.

## Saving
The gather kernels' time where it was recorded; else not predicted.

## References
- https://github.com/AutoGPTQ/AutoGPTQ/issues/77 (H100, OPT-30B: 28.6 tokens/s, with act-order and groups 5.5)
- https://github.com/AutoGPTQ/AutoGPTQ/issues/513
"""

from __future__ import annotations

import re

from pascaline.diagnose.finding import Found, Saving
from pascaline.diagnose.kernel_names import is_gather
from pascaline.diagnose.names import listed
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import Run
from pascaline.report.numbers import seconds, share

_UNORDERED = re.compile(
    r"exllama[^.\n]{0,40}(?:disabled|not installed|not support|not used)|disable_exllama['\"]?[=: ]+true"
    r"|\bg_idx\b|act[-_ ]?order|old[- ]cuda|cuda[-_ ]old|qlinear_(?:cuda|old)|AutoGPTQ CUDA",
    re.I,
)


def check(run: Run) -> Found | None:
    """Groups looked up by an index."""
    settings = run.quantization
    group_size = settings.get("group_size")
    if settings.get("desc_act") is not True or not isinstance(group_size, int) or group_size <= 0:
        return None
    gathers = [
        (row, kernel) for row, kernel in run.kernels if kernel.s and row.is_linear and is_gather(kernel.name)
    ]
    decisions = [row.decision for row in run.linears if _UNORDERED.search(row.decision)]
    said = run.note_with(_UNORDERED)
    if not gathers and not decisions and said is None:
        return None
    savings = tuple(Saving(row.index, kernel.name, row.whole_kernel_s(kernel)) for row, kernel in gathers)
    whole_s = sum(saving.saves_s for saving in savings)
    evidence = [f"The checkpoint has desc_act with groups of {group_size}."]
    if decisions or said is not None:
        evidence.append(f"The engine says: “{listed(decisions) if decisions else said[0] if said else ''}”.")
    if gathers:
        names = listed(kernel.name for _, kernel in gathers)
        evidence.append(
            f"{names}: {seconds(whole_s)} of {seconds(run.total_s)} ({share(whole_s, run.total_s)})."
        )
    return Found(
        evidence=" ".join(evidence),
        cause="Scales are fetched by an index for every row: the rows were not sorted by group at load.",
        remedy=(
            "An engine that sorts at load: exllama's kernels, vLLM --quantization gptq_marlin, pascaline"
            " serve MODEL; or a checkpoint with desc_act: false."
        ),
        savings=savings,
        modules=tuple(row.row.module for row in run.linears),
    )


RULE = Rule("PAS013", "act-order-gather", check)
