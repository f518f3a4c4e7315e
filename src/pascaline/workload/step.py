"""The launches of a step of a decoder, module by module, from its configuration alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.core.errors import ShapeError
from pascaline.models import family_of
from pascaline.models.style import DecoderStyle
from pascaline.workload.holdings import HeldWeight
from pascaline.workload.op_costs import OP_COSTS
from pascaline.workload.places import weight_places

GATE_OPS: Mapping[str, str] = {"silu": "silu_and_mul", "gelu_pytorch_tanh": "gelu_and_mul"}
"""The op of a gated feed-forward block by its activation's name in config.json."""


@dataclass(frozen=True)
class StepShape:
    """A step: `new_tokens` of each sequence, whose `context_tokens` include them; `logit_rows` in all."""

    new_tokens: tuple[int, ...]
    context_tokens: tuple[int, ...]
    logit_rows: int

    def __post_init__(self) -> None:
        pairs = list(zip(self.new_tokens, self.context_tokens, strict=False))
        if len(self.new_tokens) != len(self.context_tokens) or any(
            not 0 < new <= all_ for new, all_ in pairs
        ):
            raise ShapeError(
                f"a step of {self.new_tokens} new tokens in contexts of {self.context_tokens}",
                expected="at least one new token of each sequence, and contexts that include them",
            )
        if not 0 <= self.logit_rows <= self.tokens:
            raise ShapeError(f"{self.logit_rows} logit rows of {self.tokens} tokens")

    @property
    def tokens(self) -> int:
        """New tokens of all sequences."""
        return sum(self.new_tokens)

    def visible_pairs(self, window: int | None) -> int:
        """Pairs of a new token and a token that it sees, itself included, exactly."""
        return sum(
            _visible(context - new + 1, context, window or context)
            for new, context in zip(self.new_tokens, self.context_tokens, strict=True)
        )

    def visible_tokens(self, window: int | None) -> int:
        """Tokens that any new token of their sequence sees, of all sequences."""
        return sum(
            context if window is None else min(context, new + window - 1)
            for new, context in zip(self.new_tokens, self.context_tokens, strict=True)
        )


def _visible(first: int, last: int, window: int) -> int:
    """Σ min(v, window) over v = first … last: what tokens see that have so many up to themselves."""
    growing = range(first, min(last, window) + 1)
    full = last - first + 1 - len(growing)
    return (first + min(last, window)) * len(growing) // 2 + window * full


@dataclass(frozen=True)
class StepLaunch:
    """One op of one module, as the launcher sees it.

    Parameters
    ----------
    module, op : "model.layers.0.mlp.down_proj", "linear".
    axes : the op's sizes, without those of pools and tables that do not change what it costs: P, B and W
        of the cache, for which attention has J, L and E (see `op_costs`), and P of the rotary tables.
    weights : names of the weight parts that it reads, as in Hugging Face's checkpoints.
    flop_by_type, moved_bytes : by the op's own formulas; weights are not counted in.
    held : the matrix that it reads, where holdings are known.
    """

    module: str
    op: str
    axes: Mapping[str, int]
    weights: tuple[str, ...]
    flop_by_type: Mapping[str, float]
    moved_bytes: int
    held: HeldWeight | None = None

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of the matrix that are read, as checkpoints pack it; None where holdings are not known.

        An embedding reads a row a token.
        """
        if self.held is None:
            return None if self.op in ("linear", "embedding") else 0
        if self.op == "embedding":
            return self.axes["T"] * (self.held.packed_bytes // self.held.rows)
        return self.held.packed_bytes


def launches(
    config: ModelConfig,
    shape: StepShape,
    *,
    held: Sequence[HeldWeight] = (),
    key_value_element_bytes: int = 4,
) -> list[StepLaunch]:
    """All launches of a step, in order. What `layers.Decoder` launches, which a test holds it to.

    `held` says which merged linears are several launches, because their parts are packed differently;
    without it each is one.
    """
    step = _Step(config, shape, _pieces(config, held), key_value_element_bytes)
    return list(step.launches(family_of(config).style(config)))


@dataclass(frozen=True)
class _Piece:
    """One launch's share of a linear: rows, names of its parts and their biases, the matrix if known."""

    rows: int
    columns: int
    names: tuple[str, ...]
    held: HeldWeight | None


def _pieces(config: ModelConfig, held: Sequence[HeldWeight]) -> dict[str, list[_Piece]]:
    """The matrices of each module, and the gains of norms, by its path."""
    pieces: dict[str, list[_Piece]] = {}
    for item in held:
        if len(item.parts[0].shape) == 2:
            names = tuple(part.name for part in item.parts)
            pieces.setdefault(item.module, []).append(_Piece(item.rows, item.columns, names, item))
    for place in weight_places(config):
        names = tuple(part.name for part in place.parts)
        if place.attribute == "bias":
            pieces[place.module] = [_with_bias(piece, names) for piece in pieces[place.module]]
        elif place.module not in pieces:
            rows = sum(part.shape[0] for part in place.parts)
            pieces[place.module] = [_Piece(rows, place.parts[0].shape[-1], names, None)]
    return pieces


def _with_bias(piece: _Piece, biases: Iterable[str]) -> _Piece:
    modules = {name.rpartition(".")[0] for name in piece.names}
    own = tuple(name for name in biases if name.rpartition(".")[0] in modules)
    return _Piece(piece.rows, piece.columns, piece.names + own, piece.held)


@dataclass(frozen=True)
class _Step:
    config: ModelConfig
    shape: StepShape
    pieces: Mapping[str, list[_Piece]]
    key_value_element_bytes: int

    def launches(self, style: DecoderStyle) -> Iterator[StepLaunch]:
        config, tokens, hidden = self.config, self.shape.tokens, self.config.hidden_size
        [table] = self.pieces["model.embed_tokens"]
        axes = {"T": tokens, "V": config.vocab_size, "C": hidden}
        yield _launch("model.embed_tokens", "embedding", axes, table)
        if style.embedding_scale != 1.0:
            yield _launch("model.embed_tokens", "scale", {"T": tokens, "C": hidden})
        for layer in range(config.num_hidden_layers):
            yield from self._layer(f"model.layers.{layer}", layer, style)
        rows = self.shape.logit_rows
        yield _launch("model", "select_rows", {"T": tokens, "C": hidden, "R": rows})
        yield self._norm("model.norm", rows)
        if config.tie_word_embeddings:
            yield _linear("lm_head", rows, table)
        else:
            yield from self._linears("lm_head", rows)
        if config.final_logit_softcapping is not None:
            yield _launch("lm_head", "soft_cap", {"T": rows, "V": config.vocab_size})

    def _layer(self, path: str, layer: int, style: DecoderStyle) -> Iterator[StepLaunch]:
        tokens, hidden = self.shape.tokens, self.config.hidden_size
        residual = _launch(path, "add", {"T": tokens, "C": hidden})
        gate = GATE_OPS[self.config.hidden_act]
        yield self._norm(f"{path}.input_layernorm", tokens)
        yield from self._attention(f"{path}.self_attn", layer, style)
        if style.norms_around:
            yield self._norm(f"{path}.post_attention_layernorm", tokens)
        yield residual
        yield self._norm(f"{path}.{_norm_before_mlp(style)}", tokens)
        yield from self._linears(f"{path}.mlp.gate_up_proj", tokens)
        yield _launch(f"{path}.mlp", gate, {"T": tokens, "C": self.config.intermediate_size})
        yield from self._linears(f"{path}.mlp.down_proj", tokens)
        if style.norms_around:
            yield self._norm(f"{path}.post_feedforward_layernorm", tokens)
        yield residual

    def _attention(self, path: str, layer: int, style: DecoderStyle) -> Iterator[StepLaunch]:
        config, shape, tokens = self.config, self.shape, self.shape.tokens
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        size, window = config.head_dim, config.window_of(layer)
        yield from self._linears(f"{path}.qkv_proj", tokens)
        of_each = ((heads, "q_norm"), (kv_heads, "k_norm"))
        if style.query_key_norm:
            for count, name in of_each:
                [gain] = self.pieces[f"{path}.{name}"]
                yield _launch(f"{path}.{name}", "head_norm", {"T": tokens, "H": count, "D": size}, gain)
        for count, _ in of_each:
            axes = {"T": tokens, "H": count, "D": size, "R": config.rotary_dimensions // 2}
            yield _launch(path, "rotary", axes)
        element = {"E": self.key_value_element_bytes}
        for _ in ("keys", "values"):
            yield _launch(path, "store_rows", {"T": tokens, "KV": kv_heads, "D": size, **element})
        axes = {"T": tokens, "H": heads, "D": size, "KV": kv_heads, "S": len(shape.new_tokens), **element}
        seen = {"J": shape.visible_pairs(window), "L": shape.visible_tokens(window)}
        yield _launch(path, "paged_attention", axes | seen)
        yield from self._linears(f"{path}.o_proj", tokens)

    def _norm(self, path: str, rows: int) -> StepLaunch:
        [gain] = self.pieces[path]
        return _launch(path, "rms_norm", {"T": rows, "C": gain.columns}, gain)

    def _linears(self, path: str, rows: int) -> Iterator[StepLaunch]:
        return (_linear(path, rows, piece) for piece in self.pieces[path])


def _norm_before_mlp(style: DecoderStyle) -> str:
    """Hugging Face's "post attention" is before the feed-forward block, unless it has one of its own."""
    return "pre_feedforward_layernorm" if style.norms_around else "post_attention_layernorm"


def _linear(path: str, rows: int, piece: _Piece) -> StepLaunch:
    return _launch(path, "linear", {"M": rows, "K": piece.columns, "N": piece.rows}, piece)


def _launch(module: str, op: str, axes: Mapping[str, int], piece: _Piece | None = None) -> StepLaunch:
    cost = OP_COSTS[op]
    names, held = ((), None) if piece is None else (piece.names, piece.held)
    return StepLaunch(module, op, axes, names, cost.flop(axes), cost.bytes_moved(axes), held)
