"""config.json -> `ModelConfig`: every field is validated here, once."""

from __future__ import annotations

from collections.abc import Mapping

from pascaline.checkpoint.model_config import ModelConfig, RopeScaling
from pascaline.core.errors import ConfigError, UnsupportedError

_MAX_LAYERS = 10_000
_MAX_HEADS = 65_536
_MAX_WIDTH = 1 << 24
_MAX_POSITIONS = 1 << 30
_MAX_FACTOR = 1e6
_MAX_THETA = 1e15
# Fields that a rope type reads beside its name and theta; any other one would be silently wrong.
_ROPE_FIELDS: dict[str, frozenset[str]] = {
    "linear": frozenset({"factor", "original_max_position_embeddings"}),
    "llama3": frozenset(
        {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
    ),
    "yarn": frozenset(
        {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"}
    ),
}
# Fields that change nothing: names of the type, theta (read elsewhere), a note of how it was trained.
_ROPE_NEUTRAL_FIELDS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned"})


def parse_model_config(hf_config: Mapping[str, object]) -> ModelConfig:
    """The settings of a causal language model, from config.json's mapping.

    Both spellings of the rotary settings are read: `rope_theta` with `rope_scaling`, and
    `rope_parameters` (transformers 5).

    Raises
    ------
    ConfigError : a field is missing, has the wrong type or an impossible value; names both.
    UnsupportedError : the settings ask for something that we do not do.
    """
    fields = _Fields(hf_config, "")
    _refuse_unsupported(hf_config)
    hidden_size = fields.integer("hidden_size", 1, _MAX_WIDTH)
    heads = fields.integer("num_attention_heads", 1, _MAX_HEADS)
    kv_heads = fields.integer("num_key_value_heads", 1, heads, default=heads)
    if heads % kv_heads:
        raise ConfigError(
            f"num_attention_heads is {heads} and num_key_value_heads is {kv_heads}",
            expected="the first to be a multiple of the second",
        )
    vocab_size = fields.integer("vocab_size", 1, _MAX_WIDTH)
    positions = fields.integer("max_position_embeddings", 1, _MAX_POSITIONS)
    rope_theta, rope_scaling = _parse_rope(fields, positions)
    bos_token_ids = fields.token_ids("bos_token_id", vocab_size)
    return ModelConfig(
        model_type=fields.text("model_type"),
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size", 1, _MAX_WIDTH),
        num_hidden_layers=fields.integer("num_hidden_layers", 1, _MAX_LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=_parse_head_dim(fields, hidden_size, heads),
        rms_norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, default=1e-6),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        max_position_embeddings=positions,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
        attention_bias=fields.boolean("attention_bias", default=False),
        mlp_bias=fields.boolean("mlp_bias", default=False),
        hidden_act=fields.text("hidden_act", default="silu"),
        bos_token_id=bos_token_ids[0] if bos_token_ids else None,
        eos_token_ids=fields.token_ids("eos_token_id", vocab_size),
    )


class _Fields:
    """Typed reading of a mapping; None counts as absent. `prefix` leads to it in error messages."""

    def __init__(self, values: Mapping[str, object], prefix: str) -> None:
        self.values = values
        self.prefix = prefix

    def wrong(self, name: str, expected: str) -> ConfigError:
        field = f"the model configuration's {self.prefix}{name}"
        value = self.values.get(name)
        if value is None:
            return ConfigError(f"{field} is missing", expected=expected)
        shown = repr(value)
        return ConfigError(f"{field} is {shown if len(shown) <= 60 else shown[:60] + '…'}", expected=expected)

    def integer(self, name: str, low: int, high: int, *, default: int | None = None) -> int:
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, *, default: float | None = None) -> float:
        """A finite number above `low`, or equal to it, up to `high`; zero itself is never valid."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not low <= value <= high
            or value == 0
        ):
            above = f"from {low:g}" if low else "above 0"
            raise self.wrong(name, f"a number {above}, up to {high:g}")
        return float(value)

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, *, default: str | None = None) -> str:
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value:
            raise self.wrong(name, "a name")
        return value

    def token_ids(self, name: str, vocab_size: int) -> tuple[int, ...]:
        """One id or a list of ids, each once; empty when absent."""
        value = self.values.get(name)
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        for item in ids:
            if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < vocab_size:
                raise self.wrong(name, f"token ids from 0 to {vocab_size - 1}")
        return tuple(dict.fromkeys(ids))

    def section(self, name: str) -> _Fields | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.wrong(name, "a group of settings")
        return _Fields(value, f"{self.prefix}{name}.")


def _refuse_unsupported(hf_config: Mapping[str, object]) -> None:
    for name in ("num_local_experts", "num_experts"):
        if hf_config.get(name):
            raise UnsupportedError(f"the model is a mixture of experts ({name} is {hf_config[name]!r})")
    if hf_config.get("use_sliding_window"):
        raise UnsupportedError("the model uses sliding-window attention (use_sliding_window is set)")


def _parse_head_dim(fields: _Fields, hidden_size: int, heads: int) -> int:
    if fields.values.get("head_dim") is None and hidden_size % heads:
        raise ConfigError(
            f"hidden_size is {hidden_size} and num_attention_heads is {heads}",
            expected="the first to be a multiple of the second, or head_dim to be given",
        )
    head_dim = fields.integer("head_dim", 2, _MAX_WIDTH, default=hidden_size // heads)
    if head_dim % 2:
        raise ConfigError(f"head_dim is {head_dim}", expected="an even number, for the rotary embedding")
    return head_dim


def _parse_rope(fields: _Fields, positions: int) -> tuple[float, RopeScaling | None]:
    """`rope_theta` and the scaling, from whichever spelling is there."""
    section = fields.section("rope_parameters") or fields.section("rope_scaling")
    theta = fields.number("rope_theta", 1.0, _MAX_THETA, default=10000.0)
    if section is None:
        _refuse_partial_rotary(fields)
        return theta, None
    nested = [name for name, value in section.values.items() if isinstance(value, Mapping)]
    if nested:
        raise UnsupportedError(f"rotary settings that differ between kinds of layers ({', '.join(nested)})")
    theta = section.number("rope_theta", 1.0, _MAX_THETA, default=theta)
    _refuse_partial_rotary(section if "partial_rotary_factor" in section.values else fields)
    return theta, _parse_scaling(section, positions)


def _refuse_partial_rotary(fields: _Fields) -> None:
    if fields.number("partial_rotary_factor", 0.0, 1.0, default=1.0) != 1.0:
        raise UnsupportedError(
            f"a rotary embedding of part of the head ({fields.prefix}partial_rotary_factor "
            f"is {fields.values['partial_rotary_factor']})"
        )


def _parse_scaling(fields: _Fields, positions: int) -> RopeScaling | None:
    kind = fields.text("rope_type", default=fields.text("type", default="default"))
    if kind == "default":
        return None
    if kind not in _ROPE_FIELDS:
        raise UnsupportedError(
            f"rotary scaling of type {kind!r} ({fields.prefix}rope_type)",
            expected="one of default, " + ", ".join(_ROPE_FIELDS),
        )
    present = {name for name, value in fields.values.items() if value is not None}
    unknown = sorted(present - _ROPE_FIELDS[kind] - _ROPE_NEUTRAL_FIELDS)
    if kind == "yarn" and fields.values.get("truncate") is True:
        unknown.remove("truncate")  # the default, said aloud
    if unknown:
        raise UnsupportedError(f"{fields.prefix}{unknown[0]} with rotary scaling of type {kind!r}")
    factor = fields.number("factor", 1.0, _MAX_FACTOR)
    if kind == "linear":
        return RopeScaling("linear", factor)
    original = fields.integer(
        "original_max_position_embeddings", 1, _MAX_POSITIONS, default=positions if kind == "yarn" else None
    )
    if kind == "llama3":
        low = fields.number("low_freq_factor", 0.0, _MAX_FACTOR)
        high = fields.number("high_freq_factor", 0.0, _MAX_FACTOR)
        if low >= high:
            raise ConfigError(
                f"{fields.prefix}low_freq_factor is {low:g} and high_freq_factor is {high:g}",
                expected="the first to be smaller",
            )
        return RopeScaling("llama3", factor, original, low_freq_factor=low, high_freq_factor=high)
    has_factor = fields.values.get("attention_factor") is not None
    return RopeScaling(
        "yarn",
        factor,
        original,
        attention_factor=fields.number("attention_factor", 0.0, _MAX_FACTOR) if has_factor else None,
        beta_fast=fields.number("beta_fast", 0.0, _MAX_FACTOR, default=32.0),
        beta_slow=fields.number("beta_slow", 0.0, _MAX_FACTOR, default=1.0),
    )
