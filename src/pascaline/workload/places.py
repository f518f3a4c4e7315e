"""The places for weights that a model of some configuration has, in the order of its modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.models import family_of
from pascaline.models.style import DecoderStyle


@dataclass(frozen=True)
class WeightPart:
    """A tensor that checkpoints hold: `name` as in Hugging Face's, `shape` in elements."""

    name: str
    shape: tuple[int, ...]

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Place:
    """What one module multiplies or adds by: one tensor, or several below each other.

    Parameters
    ----------
    module : its path, "model.layers.0.self_attn.qkv_proj".
    attribute : "weight" or "bias".
    is_gain : of a norm.
    """

    module: str
    attribute: str
    parts: tuple[WeightPart, ...]
    is_gain: bool = False

    @property
    def is_vector(self) -> bool:
        return len(self.parts[0].shape) == 1


def weight_places(config: ModelConfig) -> list[Place]:
    """All places of a model. Those of `layers.decoder`, which a test holds it to."""
    return list(_decoder(config, family_of(config).style(config)))


def _decoder(config: ModelConfig, style: DecoderStyle) -> Iterator[Place]:
    hidden = config.hidden_size
    yield _place("model.embed_tokens", "weight", (config.vocab_size, hidden))
    for layer in range(config.num_hidden_layers):
        yield from _layer(f"model.layers.{layer}", config, style)
    yield _gain("model.norm", hidden)
    if not config.tie_word_embeddings:
        yield _place("lm_head", "weight", (config.vocab_size, hidden))


def _layer(path: str, config: ModelConfig, style: DecoderStyle) -> Iterator[Place]:
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = (
        heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads)
    )
    attention, mlp = f"{path}.self_attn", f"{path}.mlp"
    yield _gain(f"{path}.input_layernorm", hidden)
    parts = {"q_proj": query, "k_proj": key, "v_proj": key}
    yield from _merged(attention, "qkv_proj", parts, hidden, style, bias=style.attention_bias)
    if style.query_key_norm:
        yield _gain(f"{attention}.q_norm", config.head_dim)
        yield _gain(f"{attention}.k_norm", config.head_dim)
    yield from _linear(f"{attention}.o_proj", hidden, query, bias=style.attention_output_bias)
    yield _gain(f"{path}.post_attention_layernorm", hidden)
    if style.norms_around:
        yield _gain(f"{path}.pre_feedforward_layernorm", hidden)
        yield _gain(f"{path}.post_feedforward_layernorm", hidden)
    parts = {"gate_proj": inner, "up_proj": inner}
    yield from _merged(mlp, "gate_up_proj", parts, hidden, style, bias=config.mlp_bias)
    yield from _linear(f"{mlp}.down_proj", hidden, inner, bias=config.mlp_bias)


def _place(module: str, attribute: str, shape: tuple[int, ...]) -> Place:
    return Place(module, attribute, (WeightPart(f"{module}.{attribute}", shape),))


def _gain(module: str, size: int) -> Place:
    return Place(module, "weight", (WeightPart(f"{module}.weight", (size,)),), is_gain=True)


def _linear(module: str, rows: int, columns: int, *, bias: bool) -> Iterator[Place]:
    yield _place(module, "weight", (rows, columns))
    if bias:
        yield _place(module, "bias", (rows,))


def _merged(
    parent: str, name: str, parts: Mapping[str, int], columns: int, style: DecoderStyle, *, bias: bool
) -> Iterator[Place]:
    """A linear that is several in most checkpoints, and one in those of some families."""
    rows = {name: sum(parts.values())} if style.stored_as_one else parts
    for attribute, shape in [("weight", (columns,)), *([("bias", ())] if bias else [])]:
        tensors = (WeightPart(f"{parent}.{part}.{attribute}", (n, *shape)) for part, n in rows.items())
        yield Place(f"{parent}.{name}", attribute, tuple(tensors))
