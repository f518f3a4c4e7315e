"""What a step holds beside weights and KV cache, at most: by our kernels, or by plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.kv.pages import pages_for
from pascaline.workload.arena import arena_bytes
from pascaline.workload.holdings import HeldWeight
from pascaline.workload.limits import (
    ARRIVALS_BYTES,
    BUFFER_ALIGNMENT_BYTES,
    DENSE_ELEMENTS,
    GATHERED_TOKENS,
    ORDERED_ROWS,
    PARTIAL_BYTES,
    SCORED_ELEMENTS,
    SCRATCH_ELEMENTS,
    most_sampled_rows,
)
from pascaline.workload.slab_form import SLAB, TILE_OUTPUTS
from pascaline.workload.weight_form import TILE_COLUMNS, TILE_ROWS, stored_columns

DeviceKind = Literal["cpu", "cuda"]

# The native library's sizes: kernels/cpu/linear.h, tile_product.h, attention_parts.h and choose_tokens.h.
_FIELD_BYTES = 12  # of a piece of a rounded row
_TILES_AT_ONCE = 2
_PART_ROWS = 64
_SPAN = 512
_BLOCK = 64
_CANDIDATE_BYTES = 16
_LOGITS_A_SUM = 512
_LOGITS_A_MAXIMUM = 64

_MOST_HANDED_ON = 3
"""Buffers that launches of a linear hand on."""


def native_bytes(
    config: ModelConfig,
    max_batch_tokens: int,
    max_sequences: int,
    max_model_len: int,
    held: Sequence[HeldWeight],
    threads: int,
) -> int:
    """With native kernels: the recorded program's memory, scratch memory of the library and the rest.

    The rest are the rotary tables, a step's input (twice: as it is made, and where programs read it),
    and fp32 copies of the rows of logits that are sampled from, one where prompt log-probabilities are
    wanted beside, one with penalties.
    """
    tokens, vocabulary = max_batch_tokens, config.vocab_size
    rooms = (_linear_room(tokens, held), _attention_room(config, tokens, max_model_len, threads))
    shared, own = (max(sizes) for sizes in zip(*rooms, strict=True))
    scratch = max(shared + threads * own, threads * _sampling_scratch(vocabulary))
    inputs = 2 * (32 * tokens + 4 * max_sequences * (pages_for(max_model_len) + 2))
    copies = 2 * 4 * most_sampled_rows(tokens, max_sequences) * vocabulary
    arena = arena_bytes(config, tokens, tokens, held)
    tables = rotary_bytes(config, max_model_len)
    return arena + scratch + tables + inputs + copies


def torch_bytes(
    config: ModelConfig,
    max_batch_tokens: int,
    max_sequences: int,
    max_model_len: int,
    device_kind: DeviceKind,
) -> int:
    """With plain torch: the largest sum of what a step holds at once, in fp32.

    The residual stream and what attention and the feed-forward block make of it; the keys and
    values laid out densely for a group of sequences and their scores; a prompt's mask, or its scores
    where they are capped; the logits (of every token, where prompt log-probabilities are wanted), a
    copy of those that are sampled from and sampling's fp64 rows; the tile of dequantised weights;
    the rotary tables.
    """
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    gathered = max(min(GATHERED_TOKENS, max_sequences * max_model_len), max_model_len)
    context = 4 * gathered * (2 * kv_heads * size + 2 * heads)
    scored_heads = heads if config.attn_logit_softcapping else 1
    one_row = max_model_len * scored_heads
    # Mask and its fp32 form, or scores and their softmax; rows are as many as fit, but at least one.
    scored = 8 * min(max_batch_tokens * one_row, max(SCORED_ELEMENTS, one_row))
    rows = most_sampled_rows(max_batch_tokens, max_sequences)
    logits = config.vocab_size * (4 * max_batch_tokens + rows * (4 + 5 * 8))
    tables = rotary_bytes(config, max_model_len)
    tokens = _tokens_bytes(config, max_batch_tokens)
    return tokens + context + scored + tables + logits + 4 * SCRATCH_ELEMENTS[device_kind]


def _tokens_bytes(config: ModelConfig, max_batch_tokens: int) -> int:
    """The residual stream and what attention or the feed-forward block makes of it, in fp32, op by op."""
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    attention = 3 * config.hidden_size + 4 * heads * size + 4 * kv_heads * size
    feed_forward = 3 * config.hidden_size + 3 * config.intermediate_size
    return 4 * max_batch_tokens * max(attention, feed_forward)


def card_bytes(
    config: ModelConfig,
    max_batch_tokens: int,
    max_sequences: int,
    max_model_len: int,
    held: Sequence[HeldWeight],
) -> int:
    """With the kernels of cards: a step launched op by op, the memory that all graphs share, and the rest.

    The rest are the logits (of every token, where prompt log-probabilities are wanted), copies of those that
    penalties change, a step's input (of which the page table is the most), the rotary tables, and what
    linears hand on and blocks leave for the last of them.
    """
    rows = most_sampled_rows(max_batch_tokens, max_sequences)
    logits = 4 * config.vocab_size * (max_batch_tokens + 2 * rows)
    graphs = arena_bytes(config, rows, rows, held)
    inputs = 32 * max_batch_tokens + 4 * max_sequences * (pages_for(max_model_len) + 2)
    tables = rotary_bytes(config, max_model_len)
    tokens = _tokens_bytes(config, max_batch_tokens)
    return tokens + logits + graphs + inputs + tables + card_linears_bytes(max_batch_tokens, held)


def card_linears_bytes(max_batch_tokens: int, held: Sequence[HeldWeight]) -> int:
    """What the linears of cards hand from launch to launch, beside what plain torch holds.

    The input in two planes of bytes, with a scale a quarter and sums a half of it, or in fp16, of which
    products of warpgroups want another copy in their order; of a bf16 weight, x as two bf16 numbers and both
    of their products in fp32; a piece of a weight in fp16; and sums of parts of K, with counts of who left
    them, where the rows alone are too few to fill a card.
    """
    handed_on = piece = 0
    ordered_rows = -(-min(max_batch_tokens, ORDERED_ROWS) // 8) * 8
    for item in held:
        if len(item.parts[0].shape) != 2:
            continue
        columns = -(-item.columns // SLAB) * SLAB
        row = 2 * columns + columns // SLAB * (4 * 4 + 8 * 4) + 4
        if item.form.kind == "dense":
            row = max(2 * item.columns + 4, 4 * item.columns + 8 * item.rows)
        else:
            # Pieces of outputs are of whole tiles.
            piece = max(
                piece, 2 * (min(item.rows * item.columns, DENSE_ELEMENTS) + TILE_OUTPUTS * item.columns)
            )
            handed_on = max(handed_on, ordered_rows * (4 * columns + 4))
        handed_on = max(handed_on, max_batch_tokens * row)
    aligned = _MOST_HANDED_ON * BUFFER_ALIGNMENT_BYTES
    return handed_on + piece + aligned + PARTIAL_BYTES + ARRIVALS_BYTES


def rotary_bytes(config: ModelConfig, positions: int) -> int:
    """Cosines and sines of every position; a second table where layers with a window have their own theta."""
    tables = 2 if config.rope_local_base_freq is not None else 1
    return 4 * positions * config.rotary_dimensions * tables


def _linear_room(tokens: int, held: Sequence[HeldWeight]) -> tuple[int, int]:
    """Of all threads, the input as bytes with its pieces' fields; of each, a row and tiles' numbers."""
    shared = own = 0
    for item in held:
        if len(item.parts[0].shape) != 2:
            continue
        if item.form.kind == "dense":
            shared = max(shared, 4 * tokens * item.columns)
            continue
        columns = stored_columns(item.columns, item.form.group_size)
        pieces = columns // (TILE_COLUMNS if item.form.group_size % TILE_COLUMNS == 0 else TILE_ROWS)
        shared = max(shared, tokens * (columns + _FIELD_BYTES * pieces))
        own = max(own, 4 * item.columns + _TILES_AT_ONCE * 8 * TILE_ROWS * pieces)
    return shared, own


def _attention_room(config: ModelConfig, tokens: int, context: int, threads: int) -> tuple[int, int]:
    """Of all threads, the states of spans, at most; of each, a block of the cache and a part's states.

    Spans are shared only where one part is more than 1 / (2 · threads) of the work: see `Sharing`.
    """
    heads, size = config.num_attention_heads, config.head_dim
    group = heads // config.num_key_value_heads
    rows = max(_PART_ROWS // group, 1) * group
    width = -(-size // 16) * 16
    state = width + 32
    own = rows * size + _BLOCK * (size + width) + 2 * rows * state
    states = 0
    if threads > 1 and config.num_key_value_heads < 2 * threads and context > _SPAN:
        states = 2 * threads * rows * -(-context // _SPAN) + heads * min(tokens, rows)
    return 4 * states * state, 4 * own


def _sampling_scratch(vocabulary: int) -> int:
    """A candidate for each token, sums and maxima of sections."""
    return (
        vocabulary * _CANDIDATE_BYTES
        + 8 * (vocabulary // _LOGITS_A_SUM + 1)
        + 4 * (vocabulary // _LOGITS_A_MAXIMUM + 1)
    )
