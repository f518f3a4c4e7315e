"""config.json -> `ModelConfig`: every field is validated here, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from pascaline.checkpoint.config_fields import ConfigFields
from pascaline.checkpoint.model_config import LayerType, ModelConfig
from pascaline.checkpoint.rope_config import MAX_POSITIONS, parse_rope
from pascaline.core.errors import ConfigError, UnsupportedError

# A model is built, without memory for its weights, before it is known whether the file has all of its layers.
_MAX_LAYERS = 1024
_MAX_HEADS = 65_536
_MAX_WIDTH = 1 << 24
_MAX_HEAD_DIM = 1 << 16
_LAYER_TYPES: tuple[LayerType, ...] = ("full_attention", "sliding_attention")
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
# Settings of some families; any other family that has one would be silently wrong.
_OWN_SETTINGS = ("query_pre_attn_scalar", "rope_local_base_freq", *_CAPS)


@dataclass(frozen=True)
class ConfigRules:
    """How a family reads config.json.

    Parameters
    ----------
    defaults : what transformers' class for it assumes where a field is absent (null is not absent).
    settings : those of "query_pre_attn_scalar", "rope_local_base_freq", "partial_rotary_factor",
        "attn_logit_softcapping" and "final_logit_softcapping" that the family has.
    activation_field : where the name of the feed-forward block's activation is.
    windows : the layers that see `sliding_window` tokens only, where `layer_types` does not say so:
        none; all; all but every `sliding_window_pattern`-th; with `use_sliding_window`, those from
        `max_window_layers` on.
    """

    defaults: Mapping[str, object] = field(default_factory=dict)
    settings: frozenset[str] = frozenset()
    activation_field: Literal["hidden_act", "hidden_activation"] = "hidden_act"
    windows: Literal["none", "all", "pattern", "upper"] = "none"


PLAIN = ConfigRules()


def parse_model_config(hf_config: Mapping[str, object], rules: ConfigRules = PLAIN) -> ModelConfig:
    """The settings of a causal language model, from config.json's mapping.

    Raises
    ------
    ConfigError : a field is missing, has the wrong type or an impossible value; names both.
    UnsupportedError : the settings ask for something that we do not do.
    """
    fields = ConfigFields({**rules.defaults, **hf_config}, "")
    _refuse_unsupported(fields.values, rules)
    hidden_size = fields.integer("hidden_size", 1, _MAX_WIDTH)
    heads = fields.integer("num_attention_heads", 1, _MAX_HEADS)
    kv_heads = fields.integer("num_key_value_heads", 1, heads, default=heads)
    if heads % kv_heads:
        raise ConfigError(
            f"num_attention_heads is {heads} and num_key_value_heads is {kv_heads}",
            expected="the first to be a multiple of the second",
        )
    vocab_size = fields.integer("vocab_size", 1, _MAX_WIDTH)
    positions = fields.integer("max_position_embeddings", 1, MAX_POSITIONS)
    head_dim = _parse_head_dim(fields, hidden_size, heads)
    rope = parse_rope(
        fields,
        head_dim,
        positions,
        partial="partial_rotary_factor" in rules.settings,
        local="rope_local_base_freq" in rules.settings,
    )
    bos_token_ids = fields.token_ids("bos_token_id", vocab_size)
    layers = fields.integer("num_hidden_layers", 1, _MAX_LAYERS)
    window, layer_types = _parse_windows(fields, rules, layers)
    attention_cap, final_cap = (fields.optional_number(name, 1e-3, 1e6) for name in _CAPS)
    return ModelConfig(
        model_type=fields.text("model_type"),
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size", 1, _MAX_WIDTH),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, default=1e-6),
        rope_theta=rope.rope_theta,
        rope_scaling=rope.rope_scaling,
        max_position_embeddings=positions,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
        attention_bias=fields.boolean("attention_bias", default=False),
        mlp_bias=fields.boolean("mlp_bias", default=False),
        hidden_act=fields.text(
            rules.activation_field, default=str(rules.defaults.get(rules.activation_field, "silu"))
        ),
        bos_token_id=bos_token_ids[0] if bos_token_ids else None,
        eos_token_ids=fields.token_ids("eos_token_id", vocab_size),
        partial_rotary_factor=rope.partial_rotary_factor,
        # Without a window there is no layer that it is for.
        rope_local_base_freq=rope.rope_local_base_freq if window is not None else None,
        sliding_window=window,
        layer_types=layer_types,
        query_pre_attn_scalar=fields.optional_number("query_pre_attn_scalar", 1e-3, 1e6),
        attn_logit_softcapping=attention_cap,
        final_logit_softcapping=final_cap,
    )


def _refuse_unsupported(values: Mapping[str, object], rules: ConfigRules) -> None:
    for name in ("num_local_experts", "num_experts"):
        if values.get(name):
            raise UnsupportedError(f"the model is a mixture of experts ({name} is {values[name]!r})")
    if values.get("use_sliding_window") and rules.windows == "none":
        raise UnsupportedError("the model uses sliding-window attention (use_sliding_window is set)")
    if values.get("use_bidirectional_attention"):
        raise UnsupportedError(
            "the model's tokens see those after them (use_bidirectional_attention is set)",
            expected="causal attention",
        )
    if values.get("lm_head_bias"):
        raise UnsupportedError("the model's head has a bias (lm_head_bias is set)")
    for name in _OWN_SETTINGS:
        if values.get(name) is not None and name not in rules.settings:
            raise UnsupportedError(
                f"the model configuration's {name} is {repr(values[name])[:60]}",
                expected=f"no such setting for {values.get('model_type')!r}",
            )


def _parse_head_dim(fields: ConfigFields, hidden_size: int, heads: int) -> int:
    if fields.values.get("head_dim") is None and hidden_size % heads:
        raise ConfigError(
            f"hidden_size is {hidden_size} and num_attention_heads is {heads}",
            expected="the first to be a multiple of the second, or head_dim to be given",
        )
    head_dim = fields.integer("head_dim", 2, _MAX_HEAD_DIM, default=hidden_size // heads)
    if head_dim % 2:
        raise ConfigError(f"head_dim is {head_dim}", expected="an even number, for the rotary embedding")
    if head_dim > _MAX_HEAD_DIM or heads * head_dim > _MAX_WIDTH:
        raise ConfigError(
            f"the model has {heads} attention heads of {head_dim} elements",
            expected=f"heads of 2 to {_MAX_HEAD_DIM} elements, {_MAX_WIDTH} in all",
        )
    return head_dim


def _parse_windows(
    fields: ConfigFields, rules: ConfigRules, layers: int
) -> tuple[int | None, tuple[LayerType, ...]]:
    """`sliding_window` and `layer_types`; None and nothing where no layer has a window."""
    window = None
    if rules.windows != "none":
        window = fields.optional_integer("sliding_window", 1, MAX_POSITIONS)
    if rules.windows == "upper" and not fields.boolean("use_sliding_window", default=False):
        window = None
    given = fields.values.get("layer_types")
    if given is not None:
        types = _listed_layer_types(fields, layers)
    elif window is None:
        types = ()
    else:
        types = _layer_types_by_rule(fields, rules, layers)
    if "sliding_attention" not in types:
        return None, ()
    if rules.windows == "none":
        raise UnsupportedError(
            "the model uses sliding-window attention (layer_types)",
            expected=f"full attention for {fields.values.get('model_type')!r}",
        )
    if window is None:
        raise fields.wrong("sliding_window", "a number of tokens, because layer_types has sliding_attention")
    return window, types


def _listed_layer_types(fields: ConfigFields, layers: int) -> tuple[LayerType, ...]:
    given = fields.values["layer_types"]
    if not isinstance(given, list) or len(given) != layers:
        raise fields.wrong("layer_types", f"a list with the types of {layers} layers")
    for name in given:
        if name not in _LAYER_TYPES:
            raise UnsupportedError(
                f"a layer of type {repr(name)[:60]} (layer_types)",
                expected="one of " + ", ".join(_LAYER_TYPES),
            )
    return cast(tuple[LayerType, ...], tuple(given))


def _layer_types_by_rule(fields: ConfigFields, rules: ConfigRules, layers: int) -> tuple[LayerType, ...]:
    full, sliding = _LAYER_TYPES
    if rules.windows == "upper":
        first = fields.integer("max_window_layers", 0, _MAX_LAYERS)
        return tuple(sliding if layer >= first else full for layer in range(layers))
    if rules.windows == "pattern":
        period = fields.integer("sliding_window_pattern", 1, _MAX_LAYERS)
        return tuple(sliding if (layer + 1) % period else full for layer in range(layers))
    return (sliding,) * layers
