"""How memory is divided: weights, KV pages, activations, runtime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from pascaline.checkpoint.model_config import ModelConfig, RopeScaling
from pascaline.core.errors import ConfigError, OutOfMemoryError
from pascaline.core.units import format_bytes
from pascaline.kv.pages import PAGE_SIZE, page_bytes, pages_for
from pascaline.plan.activations import DeviceKind, card_bytes, card_linears_bytes, native_bytes, torch_bytes
from pascaline.workload.holdings import HeldWeight

RUNTIME_BYTES = {"cpu": 240 << 20, "cuda": 876 << 20}
"""What the process takes beside: interpreter, torch and its libraries on the CPU, context and graphs on CUDA.

Measured on the CPU by benchmarks/plan_vs_engine.py: 237 to 242 MiB; on an H200 by plan_on_card.py: 773 MiB,
of which 20 graphs and all kernels' code were 154. The 12 of steps with drafts are taken for 8 MiB each.
"""

_WEIGHTS_AN_UNUSED_BYTE = 64
"""On the CPU weights are cut from chunks of 64 MiB, of whose last large page half is unused: 1 of 64 MiB."""

MAX_CPU_CONTEXTS = 8
"""On the CPU the pool is no larger than this many full contexts: memory is shared with others."""

MIN_USEFUL_CONTEXT = 256


@dataclass(frozen=True)
class MemoryPlan:
    """The division, in bytes; `notes` say what was settled for the user and why."""

    weights_bytes: int
    activation_bytes: int
    runtime_bytes: int
    page_bytes: int
    pages: int
    max_model_len: int
    notes: tuple[str, ...]

    @property
    def kv_bytes(self) -> int:
        return self.pages * self.page_bytes

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.activation_bytes + self.runtime_bytes + self.kv_bytes

    def with_pages(self, pages: int) -> MemoryPlan:
        """The same with a smaller cache, and a shorter context where it holds no more."""
        return replace(self, pages=pages, max_model_len=min(self.max_model_len, pages * PAGE_SIZE))


@dataclass(frozen=True)
class MemoryRequest:
    """What the division starts from.

    `held` are the weights, `native_threads` those of the CPU's native kernels: 0 where plain torch computes.
    `has_card_kernels` says that a card's attention and all else are kernels of ours.
    """

    device_kind: DeviceKind
    available_bytes: int
    utilization: float
    weights_bytes: int
    max_batch_tokens: int
    max_sequences: int
    max_model_len: int | None
    pages: int | None
    key_value_element_bytes: int
    held: Sequence[HeldWeight] = ()
    native_threads: int = 0
    has_card_kernels: bool = False


def runtime_bytes(device_kind: DeviceKind, weights_bytes: int) -> int:
    """What the process takes beside weights, pages and activations."""
    unused = weights_bytes // _WEIGHTS_AN_UNUSED_BYTE if device_kind == "cpu" else 0
    return RUNTIME_BYTES[device_kind] + unused


def available_bytes() -> int:
    """Memory that can still be taken of the machine, within its control group."""
    return min([int(psutil.virtual_memory().available), *_control_group_headroom()])


def _control_group_headroom() -> Iterable[int]:
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except OSError:
        return
    if limit != "max":
        yield max(int(limit) - used, 0)


def _activation_bytes(config: ModelConfig, request: MemoryRequest, context: int) -> int:
    sizes = (request.max_batch_tokens, request.max_sequences, context)
    if request.native_threads:
        return native_bytes(config, *sizes, request.held, request.native_threads)
    if request.has_card_kernels:
        return card_bytes(config, *sizes, request.held)
    plain = torch_bytes(config, *sizes, request.device_kind)
    if request.device_kind == "cpu":
        return plain
    return plain + card_linears_bytes(request.max_batch_tokens, request.held)


def _longrope_note(scaling: RopeScaling | None, context: int) -> list[str]:
    """Which of two lists of rotary factors the context makes the model use."""
    if scaling is None or scaling.rope_type != "longrope":
        return []
    original = scaling.original_max_position_embeddings
    if scaling.is_long(context):
        return [
            f"the model's rotary factors for long contexts are used, for short prompts, too: the context of "
            f"{context} tokens is longer than the original {original} (--max-model-len {original} changes it)"
        ]
    return [f"the model's rotary factors for contexts of up to {original} tokens are used"]


def refuse_long_context(config: ModelConfig, context: int) -> None:
    """Raise ConfigError for a context that the model was not made for."""
    if context > config.context_length:
        raise ConfigError(
            f"a context of {context} tokens was asked for",
            expected=f"at most the {config.context_length} that the model was trained for",
        )


def divide(config: ModelConfig, request: MemoryRequest) -> MemoryPlan:
    """Settle the context length and the number of pages.

    Raises
    ------
    ConfigError : a context longer than the model's own, or `pages` that hold too little.
    OutOfMemoryError : the weights alone, or the context that was asked for, do not fit; says
        what would.
    """
    kind = request.device_kind
    one_page = page_bytes(config, request.key_value_element_bytes)
    wanted = request.max_model_len or config.context_length
    if request.max_model_len is not None:
        refuse_long_context(config, request.max_model_len)
    runtime = runtime_bytes(kind, request.weights_bytes)
    reach = wanted
    while True:
        activations = _activation_bytes(config, request, reach)
        fixed = request.weights_bytes + activations + runtime
        budget = int(request.available_bytes * request.utilization) - fixed
        affordable = max(budget, 0) // one_page if request.pages is None else request.pages
        context = min(reach, affordable * PAGE_SIZE)
        useful = min(wanted, MIN_USEFUL_CONTEXT)
        if context >= useful or reach == useful or request.max_model_len is not None:
            break
        # Activations grow with the context: a shorter one may fit where the model's own does not.
        reach = max(reach // 2, useful)
    where = "on the card" if kind == "cuda" else "in this machine's memory"
    if request.pages is not None and context < useful:
        raise ConfigError(
            f"{request.pages} KV pages were asked for, which hold {max(request.pages, 0) * PAGE_SIZE} tokens",
            expected=f"at least {pages_for(useful)} pages",
        )
    if context < useful:
        needed = fixed + pages_for(useful) * one_page
        raise OutOfMemoryError(
            f"the model does not fit {where}: weights {format_bytes(request.weights_bytes)}, "
            f"activations {format_bytes(activations)}, runtime {format_bytes(runtime)}, and "
            f"{format_bytes(request.available_bytes)} are available, of which "
            f"{request.utilization:.0%} may be used",
            expected=f"at least {format_bytes(needed / request.utilization, round_up=True)} available",
            remedy="Free memory, raise --gpu-memory-utilization, or take a smaller or more quantised model: "
            "`pascaline plan MODEL` says which changes would make it fit",
        )
    if request.max_model_len is not None and context < wanted:
        raise OutOfMemoryError(
            f"a context of {wanted} tokens needs {format_bytes(pages_for(wanted) * one_page)} of "
            f"KV cache, and {format_bytes(affordable * one_page)} are left for it",
            remedy=f"--max-model-len {context} fits; `pascaline plan MODEL` prices other changes",
        )
    notes = []
    if context < wanted:
        notes.append(f"the context is limited to {context} of {wanted} tokens by memory")
    notes += _longrope_note(config.rope_scaling, context)
    pages = affordable
    if request.pages is None:
        most = pages_for(context) * request.max_sequences
        if kind == "cpu":
            most = min(most, pages_for(context) * MAX_CPU_CONTEXTS)
        pages = min(affordable, most)
    return MemoryPlan(
        request.weights_bytes,
        activations,
        runtime,
        one_page,
        pages,
        context,
        tuple(notes),
    )
