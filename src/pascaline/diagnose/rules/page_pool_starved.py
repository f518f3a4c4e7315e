"""The KV cache is too small for the batch

## Pattern
Throughput is far below what the batch size should give: sequences are preempted and computed again, or
wait.

## Evidence
The engine's preemption count ("Sequence group … is preempted …, total_num_cumulative_preemption=101",
`num_preemptions_total`), or a KV cache above 95 % while requests wait ("Pending: 12 reqs").

## Cause
Pages of the KV cache run out: weights and activations leave too little memory for the contexts that run
at once.

## Remedy
More pages: `--gpu-memory-utilization 0.95`, an 8-bit KV cache (`--kv-cache-dtype fp8`, from capability
8.9), fewer bits a weight; or fewer sequences at once (`--max-num-seqs`) and shorter contexts
(`--max-model-len`). `pascaline plan MODEL --concurrency N --context N` says how many fit.

## Saving
Not predicted: how long the preempted prompts were is not in the record.

## References
- https://github.com/GAIR-NLP/LIMO/issues/29
- Kwon et al. 2023, Efficient Memory Management for Large Language Model Serving, arXiv:2309.06180
"""

from __future__ import annotations

import re

from pascaline.diagnose.finding import Found
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import Run

_PREEMPTIONS = re.compile(
    r"(?:total_num_cumulative_preemption|num_preemptions(?:_total)?)"
    r"(?:\{[^}\n]{0,400}\})?[ =:]{1,3}(\d{1,12})",
    re.I,
)
_CACHE = re.compile(r"KV cache usage:? (\d{1,3}(?:\.\d+)?) ?%", re.I)
_WAITING = re.compile(r"(?:Pending|Waiting):? (\d{1,9}) req", re.I)
_PREEMPTIONS_OF_NOTE = 5
_FULL_PERCENT = 95.0


def check(run: Run) -> Found | None:
    """Preemptions, or a full cache with requests that wait."""
    preemptions = max((int(match[1]) for match in _matches(run, _PREEMPTIONS)), default=0)
    starved = next((note for note in run.record.notes if _is_starved(note)), None)
    if preemptions < _PREEMPTIONS_OF_NOTE and starved is None:
        return None
    evidence = [f"{preemptions} preemptions."] if preemptions else []
    if starved is not None:
        cache, waiting = _CACHE.search(starved), _WAITING.search(starved)
        if cache and waiting:
            evidence.append(f"The KV cache is {cache[1]} % full while {waiting[1]} requests wait.")
    return Found(
        evidence=" ".join(evidence),
        cause="The KV cache has fewer pages than its sequences need: they are dropped and computed again.",
        remedy=(
            "--gpu-memory-utilization 0.95, fewer --max-num-seqs, a shorter --max-model-len, or fewer bits"
            " a weight; pascaline plan MODEL --context N --concurrency N says what fits."
        ),
    )


def _matches(run: Run, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    return [match for note in run.record.notes for match in pattern.finditer(note)]


def _is_starved(note: str) -> bool:
    cache, waiting = _CACHE.search(note), _WAITING.search(note)
    return bool(cache and waiting and float(cache[1]) >= _FULL_PERCENT and int(waiting[1]) > 0)


RULE = Rule("PAS014", "page-pool-starved", check)
