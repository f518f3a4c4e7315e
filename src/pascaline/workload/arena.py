"""Memory for a step's intermediate results: places that are shared by those not needed at one time.

The native library's programs place what their recordings compute by `places`, and the planner what it knows
that a decoder computes, by the same.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.models import family_of
from pascaline.models.style import DecoderStyle
from pascaline.workload.holdings import HeldWeight

ALIGNMENT = 64
_MERGED = ("qkv_proj", "gate_up_proj")


@dataclass(frozen=True)
class Life:
    """Bytes that are needed from launch `first`, which writes them, to launch `last`."""

    nbytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Span:
    """Bytes `start` to before `stop` of memory."""

    start: int
    stop: int

    def overlaps(self, other: Span) -> bool:
        return self.start < other.stop and other.start < self.stop


def places(lives: Sequence[Life]) -> list[Span]:
    """A place for each, given in the order of their first launches: the lowest that is free."""
    placed: list[Span] = []
    live: list[tuple[Life, Span]] = []
    for life in lives:
        live = [(other, place) for other, place in live if other.last >= life.first]
        nbytes = -(-life.nbytes // ALIGNMENT) * ALIGNMENT
        taken = [place for _, place in live]
        # At the start of memory, or behind something that is in use.
        starts = sorted({0, *(place.stop for place in taken)})
        candidates = (Span(start, start + nbytes) for start in starts)
        place = next(each for each in candidates if not any(each.overlaps(other) for other in taken))
        placed.append(place)
        live.append((life, place))
    return placed


def arena_bytes(config: ModelConfig, tokens: int, logit_rows: int, held: Iterable[HeldWeight] = ()) -> int:
    """What the native library's program takes for steps of at most so many tokens and rows of logits.

    Of fused launches (`kernels.cpu.fusion`): norms and gates before linears, and sums with a linear's
    output, are computed on the way. A test holds it to the programs of recorded models.
    """
    return _arena_bytes(config, tokens, logit_rows, _merged_rows(held))


_Buffer = int
_Pieces = tuple[tuple[str, tuple[int, ...]], ...]
"""The pieces of merged linears that are several: their module's path, and the rows of each part."""


@functools.lru_cache(maxsize=16)  # a plan asks for many contexts, which it does not depend on
def _arena_bytes(config: ModelConfig, tokens: int, logit_rows: int, pieces: _Pieces) -> int:
    timeline = _Timeline()
    _decoder(timeline, config, family_of(config).style(config), tokens, logit_rows, pieces)
    return max(place.stop for place in places(timeline.lives()))


class _Timeline:
    """Launches in order, each with what it reads and the bytes that it writes."""

    def __init__(self) -> None:
        self._index = -1
        self._nbytes: list[int] = []
        self._first: list[int] = []
        self._last: list[int] = []

    def launch(self, reads: Iterable[_Buffer], elements: int) -> _Buffer:
        """A launch that writes so many fp32 numbers."""
        self.in_place(reads)
        self._nbytes.append(4 * elements)
        self._first.append(self._index)
        self._last.append(self._index)
        return len(self._nbytes) - 1

    def in_place(self, reads: Iterable[_Buffer]) -> None:
        """A launch that writes nothing new."""
        self._index += 1
        for buffer in reads:
            self._last[buffer] = self._index

    def keep(self, buffer: _Buffer) -> None:
        """Needed after the last launch."""
        self._last[buffer] = self._index + 1

    def lives(self) -> list[Life]:
        return list(map(Life, self._nbytes, self._first, self._last))


def _merged_rows(held: Iterable[HeldWeight]) -> _Pieces:
    pieces: dict[str, list[tuple[int, ...]]] = {}
    for item in held:
        if item.module.endswith(_MERGED):
            pieces.setdefault(item.module, [])
            if len(item.parts[0].shape) == 2:
                pieces[item.module].append(tuple(part.shape[0] for part in item.parts))
    return tuple((path, rows) for path, several in pieces.items() if len(several) > 1 for rows in several)


def _linears(
    timeline: _Timeline, pieces: _Pieces, path: str, parts: tuple[int, ...], tokens: int, reads: _Buffer
) -> list[_Buffer]:
    """The outputs of a merged linear: where each of `parts` (rows) is."""
    written: list[_Buffer] = []
    for rows in [rows for module, rows in pieces if module == path] or [parts]:
        written += [timeline.launch([reads], tokens * sum(rows))] * len(rows)
    return written


def _decoder(
    timeline: _Timeline,
    config: ModelConfig,
    style: DecoderStyle,
    tokens: int,
    logit_rows: int,
    pieces: _Pieces,
) -> None:
    x = timeline.launch([], tokens * config.hidden_size)
    if style.embedding_scale != 1.0:
        timeline.in_place([x])
    for layer in range(config.num_hidden_layers):
        x = _layer(timeline, config, style, tokens, pieces, f"model.layers.{layer}", x)
    wanted = timeline.launch([x], logit_rows * config.hidden_size)
    logits = timeline.launch([wanted], logit_rows * config.vocab_size)
    if config.final_logit_softcapping is not None:
        timeline.in_place([logits])
    timeline.keep(logits)


def _layer(
    timeline: _Timeline,
    config: ModelConfig,
    style: DecoderStyle,
    tokens: int,
    pieces: _Pieces,
    path: str,
    x: _Buffer,
) -> _Buffer:
    query_size, key_size = (
        heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads)
    )
    parts: tuple[int, ...] = (query_size, key_size, key_size)
    query, key, value = _linears(timeline, pieces, f"{path}.self_attn.qkv_proj", parts, tokens, x)
    if style.query_key_norm:
        query = timeline.launch([query], tokens * query_size)
        key = timeline.launch([key], tokens * key_size)
    query = timeline.launch([query], tokens * query_size)
    key = timeline.launch([key], tokens * key_size)
    for stored in (key, value):
        timeline.in_place([stored])
    attended = timeline.launch([query], tokens * query_size)
    x = _added(timeline, style, tokens * config.hidden_size, [attended], x)
    parts = (config.intermediate_size,) * 2
    inner = _linears(timeline, pieces, f"{path}.mlp.gate_up_proj", parts, tokens, x)
    return _added(timeline, style, tokens * config.hidden_size, inner, x)


def _added(
    timeline: _Timeline, style: DecoderStyle, elements: int, reads: list[_Buffer], x: _Buffer
) -> _Buffer:
    """A linear whose output is added to x: by itself, or after a norm."""
    if not style.norms_around:
        return timeline.launch([*reads, x], elements)
    normed = timeline.launch([timeline.launch(reads, elements)], elements)
    return timeline.launch([normed, x], elements)
