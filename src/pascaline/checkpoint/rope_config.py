"""The rotary settings of config.json, in the spellings of transformers 4 and 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pascaline.checkpoint.config_fields import ConfigFields
from pascaline.checkpoint.model_config import RopeScaling, rotary_dimensions
from pascaline.core.errors import ConfigError, UnsupportedError

MAX_POSITIONS = 1 << 30
MAX_FACTOR = 1e6
MAX_THETA = 1e15
_MIN_BETA = 1e-3
# Fields that a rope type reads beside its name and theta; any other one would be silently wrong.
_FIELDS: dict[str, frozenset[str]] = {
    "linear": frozenset({"factor", "original_max_position_embeddings"}),
    "llama3": frozenset(
        {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
    ),
    "yarn": frozenset(
        {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"}
    ),
    "longrope": frozenset(
        {"factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"}
    ),
}
# Fields that change nothing: names of the type, theta (read elsewhere), a note of how it was trained.
_NEUTRAL_FIELDS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned"})
_OLD_NAMES = {"su": "longrope"}
_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class RopeSettings:
    """See `ModelConfig` for the fields."""

    rope_theta: float
    rope_scaling: RopeScaling | None
    partial_rotary_factor: float
    rope_local_base_freq: float | None


def parse_rope(
    fields: ConfigFields, head_dim: int, positions: int, *, partial: bool, local: bool
) -> RopeSettings:
    """The rotary settings, from whichever spelling is there.

    `rope_theta` and `rope_scaling`, with `rope_local_base_freq` for layers with a window, or
    `rope_parameters` (transformers 5), with a group for each type of layer where these differ.

    Parameters
    ----------
    head_dim, positions : of the model, `max_position_embeddings` being the latter.
    partial : the family may rotate a part of each head.
    local : the family has a theta of its own in layers with a window.
    """
    theta = fields.number("rope_theta", 1.0, MAX_THETA, default=10000.0)
    local_theta = fields.number("rope_local_base_freq", 1.0, MAX_THETA, default=10000.0) if local else None
    section = _only_section(fields)
    if section is not None:
        nested = [name for name, value in section.values.items() if isinstance(value, Mapping)]
        if nested and (not local or not {_GLOBAL, _LOCAL}.issuperset(nested)):
            raise UnsupportedError(
                f"rotary settings that differ between kinds of layers ({', '.join(nested)})"
            )
        if nested:
            local_theta = _parse_local(section.section(_LOCAL), local_theta)
            section = section.section(_GLOBAL)
    scaling = None
    holder = section if section is not None and "partial_rotary_factor" in section.values else fields
    factor = holder.number("partial_rotary_factor", 0.0, 1.0, default=1.0)
    if factor != 1.0 and not partial:
        raise UnsupportedError(
            f"a rotary embedding of part of the head ({holder.prefix}partial_rotary_factor "
            f"is {holder.values['partial_rotary_factor']})"
        )
    dimensions = rotary_dimensions(head_dim, factor)
    if dimensions < 2 or dimensions % 2:
        raise ConfigError(
            f"{holder.prefix}partial_rotary_factor is {factor:g} with {head_dim} elements a head",
            expected="an even number of elements to rotate",
        )
    if section is not None:
        theta = section.number("rope_theta", 1.0, MAX_THETA, default=theta)
        scaling = _parse_scaling(section, fields, dimensions, positions)
    return RopeSettings(theta, scaling, factor, local_theta)


def _only_section(fields: ConfigFields) -> ConfigFields | None:
    """`rope_parameters` or `rope_scaling`, of which transformers 5 would take the second for the whole."""
    new, old = (fields.section(name) for name in ("rope_parameters", "rope_scaling"))
    if new is None or not new.values:
        return old
    if old is not None and old.values and dict(old.values) != dict(new.values):
        raise ConfigError(
            "the model configuration has both rope_parameters and rope_scaling, and they differ",
            expected="one of them",
            remedy="Take the one that is not meant out of config.json",
        )
    return new


def _parse_local(section: ConfigFields | None, default: float | None) -> float | None:
    """Theta in layers with a window: these are not scaled by any published model."""
    if section is None:
        return default
    kind = section.text("rope_type", default=section.text("type", default="default"))
    if kind != "default":
        raise UnsupportedError(
            f"rotary scaling of layers with a window ({section.prefix}rope_type is {kind!r})"
        )
    if section.number("partial_rotary_factor", 0.0, 1.0, default=1.0) != 1.0:
        raise UnsupportedError(
            f"a rotary embedding of part of the head ({section.prefix}partial_rotary_factor)"
        )
    return section.number("rope_theta", 1.0, MAX_THETA, default=default)


def _parse_scaling(
    section: ConfigFields, fields: ConfigFields, dimensions: int, positions: int
) -> RopeScaling | None:
    kind = section.text("rope_type", default=section.text("type", default="default"))
    kind = _OLD_NAMES.get(kind, kind)
    if kind == "default":
        return None
    if kind not in _FIELDS:
        raise UnsupportedError(
            f"rotary scaling of type {kind!r} ({section.prefix}rope_type)",
            expected="one of default, " + ", ".join(_FIELDS),
        )
    present = {name for name, value in section.values.items() if value is not None}
    unknown = sorted(present - _FIELDS[kind] - _NEUTRAL_FIELDS)
    if kind == "yarn" and section.values.get("truncate") is True:
        unknown.remove("truncate")  # the default, said aloud
    if unknown:
        raise UnsupportedError(f"{section.prefix}{unknown[0]} with rotary scaling of type {kind!r}")
    if kind == "linear":
        return RopeScaling("linear", section.number("factor", 1.0, MAX_FACTOR))
    # Beside the group, where Phi-3 has it, it goes before what is in the group.
    beside = fields.values.get("original_max_position_embeddings") is not None
    default = None if kind == "llama3" else max(positions, 2)
    original = (fields if beside else section).integer(
        "original_max_position_embeddings", 2, MAX_POSITIONS, default=default
    )
    if kind == "llama3":
        return _parse_llama3(section, original)
    attention_factor = section.optional_number("attention_factor", 0.0, MAX_FACTOR)
    if kind == "longrope":
        return RopeScaling(
            "longrope",
            section.number("factor", 1.0, MAX_FACTOR, default=positions / original),
            original,
            attention_factor=attention_factor,
            short_factor=section.numbers("short_factor", dimensions // 2, 1e-3, MAX_FACTOR),
            long_factor=section.numbers("long_factor", dimensions // 2, 1e-3, MAX_FACTOR),
        )
    return RopeScaling(
        "yarn",
        section.number("factor", 1.0, MAX_FACTOR),
        original,
        attention_factor=attention_factor,
        beta_fast=section.number("beta_fast", _MIN_BETA, MAX_FACTOR, default=32.0),
        beta_slow=section.number("beta_slow", _MIN_BETA, MAX_FACTOR, default=1.0),
    )


def _parse_llama3(section: ConfigFields, original: int) -> RopeScaling:
    factor = section.number("factor", 1.0, MAX_FACTOR)
    low = section.number("low_freq_factor", 0.0, MAX_FACTOR)
    high = section.number("high_freq_factor", 0.0, MAX_FACTOR)
    if low >= high:
        raise ConfigError(
            f"{section.prefix}low_freq_factor is {low:g} and high_freq_factor is {high:g}",
            expected="the first to be smaller",
        )
    return RopeScaling("llama3", factor, original, low_freq_factor=low, high_freq_factor=high)
