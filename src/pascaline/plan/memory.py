"""How memory is divided: weights, KV pages, activations, runtime."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from pascaline.checkpoint.model_config import ModelConfig, RopeScaling
from pascaline.core.errors import ConfigError, OutOfMemoryError
from pascaline.core.units import format_bytes
from pascaline.kv.pages import PAGE_SIZE, page_bytes, pages_for
from pascaline.workload.limits import GATHERED_TOKENS, SCORED_ELEMENTS, SCRATCH_ELEMENTS

RUNTIME_BYTES = {"cpu": 300 << 20, "cuda": 600 << 20}
"""What torch itself takes: libraries and allocator on the CPU (measured: 240 MiB), context on CUDA."""

MAX_CPU_CONTEXTS = 8
"""On the CPU the pool is no larger than this many full contexts: memory is shared with others."""

MIN_USEFUL_CONTEXT = 256


DeviceKind = Literal["cpu", "cuda"]


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


@dataclass(frozen=True)
class MemoryRequest:
    """What the division starts from."""

    device_kind: DeviceKind
    available_bytes: int
    utilization: float
    weights_bytes: int
    max_batch_tokens: int
    max_sequences: int
    max_model_len: int | None
    pages: int | None
    key_value_element_bytes: int


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


def activation_bytes(
    config: ModelConfig,
    max_batch_tokens: int,
    max_sequences: int,
    max_model_len: int,
    device_kind: DeviceKind,
) -> int:
    """Largest sum of what a step holds at once, in fp32.

    The residual stream and what attention and the feed-forward block make of it; the keys and
    values laid out densely for a group of sequences and their scores; a prompt's mask, or its scores
    where they are capped; the logits (of every token, where prompt log-probabilities are wanted), a
    copy of those that are sampled from and sampling's fp64 rows; the tile of dequantised weights;
    the rotary tables.
    """
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    attention = 3 * config.hidden_size + 4 * heads * size + 4 * kv_heads * size
    feed_forward = 3 * config.hidden_size + 3 * config.intermediate_size
    tokens = 4 * max_batch_tokens * max(attention, feed_forward)
    gathered = max(GATHERED_TOKENS, max_model_len)
    context = 4 * gathered * (2 * kv_heads * size + 2 * heads)
    scored_heads = heads if config.attn_logit_softcapping else 1
    one_row = max_model_len * scored_heads
    # Mask and its fp32 form, or scores and their softmax; rows are as many as fit, but at least one.
    scored = 8 * min(max_batch_tokens * one_row, max(SCORED_ELEMENTS, one_row))
    tables = 2 if config.rope_local_base_freq is not None else 1
    rotary_tables = 4 * max_model_len * config.rotary_dimensions * tables
    rows = min(max_batch_tokens, max_sequences)
    logits = config.vocab_size * (4 * max_batch_tokens + rows * (4 + 5 * 8))
    return tokens + context + scored + rotary_tables + logits + 4 * SCRATCH_ELEMENTS[device_kind]


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
    if request.max_model_len is not None and request.max_model_len > config.context_length:
        raise ConfigError(
            f"a context of {request.max_model_len} tokens was asked for",
            expected=f"at most the {config.context_length} that the model was trained for",
        )
    reach = wanted
    while True:
        activations = activation_bytes(config, request.max_batch_tokens, request.max_sequences, reach, kind)
        fixed = request.weights_bytes + activations + RUNTIME_BYTES[kind]
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
            f"activations {format_bytes(activations)}, runtime {format_bytes(RUNTIME_BYTES[kind])}, and "
            f"{format_bytes(request.available_bytes)} are available, of which "
            f"{request.utilization:.0%} may be used",
            expected=f"at least {format_bytes(needed / request.utilization, round_up=True)} available",
            remedy="Free memory, raise --gpu-memory-utilization, or take a smaller or more quantised model",
        )
    if request.max_model_len is not None and context < wanted:
        raise OutOfMemoryError(
            f"a context of {wanted} tokens needs {format_bytes(pages_for(wanted) * one_page)} of "
            f"KV cache, and {format_bytes(affordable * one_page)} are left for it",
            remedy=f"--max-model-len {context} fits",
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
        RUNTIME_BYTES[kind],
        one_page,
        pages,
        context,
        tuple(notes),
    )
