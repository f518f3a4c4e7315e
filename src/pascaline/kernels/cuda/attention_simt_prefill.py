"""Launches of attention_simt_prefill.cu: attention of several new tokens a sequence, without tensor cores."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.attention_call import AttentionCall
from pascaline.kernels.cuda.attention_simt_decode import refuse_head_dim
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan, Specialisation

_THREADS = 128
_ROW_GROUPS = 8
_ALIGNED = 4
"""Elements that rows of queries are a multiple of apart."""


@dataclass(frozen=True)
class SimtPrefillGeometry:
    """What may be chosen freely.

    Parameters
    ----------
    thread_rows : pairs of a token and a head that are a thread's, 4 or 8.
    blocks : that a multiprocessor's registers have to do for.
    """

    thread_rows: int
    blocks: int


def plan_attention_simt_prefill(
    call: AttentionCall, chip: ChipLimits, geometry: SimtPrefillGeometry | None = None
) -> LaunchPlan:
    """A launch for those sequences that have more than one new token; it leaves others alone.

    Buffers: `AttentionCall`'s. Runs on every chip.

    Raises
    ------
    UnsupportedError : heads are no multiple of 8 numbers, or of more than 256; queries of tokens are not a
        multiple of 4 elements apart.
    """
    refuse_head_dim(call)
    if call.query_stride % _ALIGNED:
        raise UnsupportedError(
            f"attention of queries {call.query_stride} elements apart", expected=f"a multiple of {_ALIGNED}"
        )
    geometry = geometry or _default_geometry(call, chip)
    rows = geometry.thread_rows * _ROW_GROUPS
    several = min(call.sequences, call.tokens // 2)
    blocks = max(1, (call.tokens * call.group + (rows - 1) * several) // rows)
    return LaunchPlan(
        Specialisation(
            "attention_simt_prefill.cu",
            "attention_simt_prefill",
            (*call.definitions, ("THREAD_ROWS", geometry.thread_rows), ("MIN_BLOCKS", geometry.blocks)),
        ),
        grid=(call.key_value_heads, blocks, 1),
        block=(_THREADS, 1, 1),
        arguments=call.arguments,
        geometry=geometry,
        begins_early=True,
    )


def _default_geometry(call: AttentionCall, chip: ChipLimits) -> SimtPrefillGeometry:
    """As many rows as registers have sums of weighted values for, and as many blocks as do without spills."""
    blocks = 2 if call.cache_dtype == torch.float32 or chip.compute_capability >= (9, 0) else 3
    return SimtPrefillGeometry(8 if call.head_dim <= 128 else 4, blocks)
