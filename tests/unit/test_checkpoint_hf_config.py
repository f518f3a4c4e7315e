"""config.json's validation."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config

from pascaline.checkpoint.hf_config import ConfigRules, parse_model_config
from pascaline.checkpoint.model_config import RopeScaling
from pascaline.core.errors import ConfigError, PascalineError, UnsupportedError

LLAMA_32_1B: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
LLAMA3_SCALING = RopeScaling("llama3", 32.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)


def _with(**changes: object) -> dict[str, object]:
    return LLAMA_32_1B | changes


def _without(*names: str) -> dict[str, object]:
    return {name: value for name, value in LLAMA_32_1B.items() if name not in names}


def test_a_published_config() -> None:
    config = parse_model_config(LLAMA_32_1B)
    assert config.model_type == "llama"
    assert config.head_dim == 64
    assert config.num_key_value_heads == 8
    assert config.rope_theta == 500000.0
    assert config.rope_scaling == LLAMA3_SCALING
    assert config.bos_token_id == 128000
    assert config.eos_token_ids == (128001, 128008, 128009)
    assert config.tie_word_embeddings is True


def test_both_spellings_mean_the_same() -> None:
    scaling = LLAMA_32_1B["rope_scaling"]
    assert isinstance(scaling, dict)
    new = _without("rope_scaling", "rope_theta") | {"rope_parameters": scaling | {"rope_theta": 500000.0}}
    assert parse_model_config(new) == parse_model_config(LLAMA_32_1B)
    old_name = {("type" if name == "rope_type" else name): value for name, value in scaling.items()}
    assert parse_model_config(_with(rope_scaling=old_name)) == parse_model_config(LLAMA_32_1B)


@pytest.mark.parametrize(
    "written",
    [
        LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, vocab_size=100),
        LlamaConfig(
            hidden_size=64,
            num_attention_heads=4,
            vocab_size=100,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 4.0,
                "original_max_position_embeddings": 512,
            },
        ),
        Qwen2Config(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, vocab_size=100),
    ],
    ids=["llama", "llama-yarn", "qwen2"],
)
def test_what_transformers_writes(tmp_path: Path, written: PreTrainedConfig) -> None:
    written.save_pretrained(tmp_path)
    config = parse_model_config(json.loads((tmp_path / "config.json").read_text()))
    for name in (
        "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings",
        "tie_word_embeddings", "hidden_act", "bos_token_id",
    ):  # fmt: skip
        assert getattr(config, name) == getattr(written, name), name
    assert config.head_dim == 16
    assert config.rope_theta == written.rope_parameters["rope_theta"]
    kind = written.rope_parameters["rope_type"]
    assert (config.rope_scaling.rope_type if config.rope_scaling else "default") == kind


def test_defaults() -> None:
    config = parse_model_config(
        _without(
            "num_key_value_heads", "head_dim", "rope_scaling", "rope_theta", "tie_word_embeddings",
            "attention_bias", "mlp_bias", "hidden_act", "eos_token_id", "bos_token_id", "rms_norm_eps",
        )
    )  # fmt: skip
    assert config.num_key_value_heads == 32
    assert config.head_dim == 64
    assert config.rope_theta == 10000.0
    assert config.rope_scaling is None
    assert config.rms_norm_eps == 1e-6
    assert (config.tie_word_embeddings, config.attention_bias, config.mlp_bias) == (False, False, False)
    assert config.hidden_act == "silu"
    assert config.bos_token_id is None
    assert config.eos_token_ids == ()


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "vocab_size", "model_type"])
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is missing"):
        parse_model_config(_without(name))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", -2048),
        ("hidden_size", 0),
        ("hidden_size", "2048"),
        ("hidden_size", True),
        ("hidden_size", 2048.0),
        ("vocab_size", 2**40),
        ("num_hidden_layers", 10**9),
        ("num_attention_heads", [32]),
        ("num_key_value_heads", 64),
        ("head_dim", 63),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", -1e-5),
        ("rms_norm_eps", float("nan")),
        ("rope_theta", float("inf")),
        ("rope_theta", "500000"),
        ("max_position_embeddings", 10**12),
        ("tie_word_embeddings", "true"),
        ("hidden_act", 3),
        ("eos_token_id", -1),
        ("eos_token_id", [1, 128256]),
        ("eos_token_id", ["</s>"]),
        ("bos_token_id", 1.5),
        ("rope_scaling", 3),
    ],
)
def test_wrong_values_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        parse_model_config(_with(**{name: value}))


def test_heads_that_do_not_divide() -> None:
    with pytest.raises(ConfigError, match="num_attention_heads is 32 and num_key_value_heads is 5"):
        parse_model_config(_with(num_key_value_heads=5))
    with pytest.raises(ConfigError, match="hidden_size is 2050"):
        parse_model_config(_without("head_dim") | {"hidden_size": 2050})


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "llama3", "factor": 8.0}, "original_max_position_embeddings is missing"),
        ({"rope_type": "linear"}, "factor is missing"),
        ({"rope_type": "linear", "factor": 0.5}, "factor is 0.5"),
        ({"rope_type": "yarn", "factor": "4"}, "factor is '4'"),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            "expected the first to be smaller",
        ),
    ],
)
def test_wrong_rope_scaling(scaling: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_model_config(_with(rope_scaling=scaling))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_scaling": {"rope_type": "longrope", "short_mscale": 1.1}}, "short_mscale"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7}}, "mscale"),
        (
            {"rope_scaling": None, "rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "full_attention",
        ),
        ({"partial_rotary_factor": 0.5}, "part of the head"),
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"layer_types": ["sliding_attention"] * 16}, "layer_types"),
        ({"layer_types": ["linear_attention"] * 16}, "'linear_attention'"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"lm_head_bias": True}, "lm_head_bias"),
        ({"query_pre_attn_scalar": 256}, "query_pre_attn_scalar is 256"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30"),
        ({"rope_local_base_freq": 1e4}, "rope_local_base_freq is 10000"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        parse_model_config(LLAMA_32_1B | changes)


def test_two_groups_of_rotary_settings_must_agree() -> None:
    scaling = LLAMA_32_1B["rope_scaling"]
    for parameters in ({}, scaling):
        assert parse_model_config(_with(rope_parameters=parameters)).rope_scaling == LLAMA3_SCALING
    with pytest.raises(ConfigError, match="both rope_parameters and rope_scaling, and they differ"):
        parse_model_config(_with(rope_parameters={"rope_type": "default", "rope_theta": 500000.0}))


def test_yarn() -> None:
    scaling = {"type": "yarn", "factor": 4.0, "attention_factor": 1.2, "beta_fast": 16, "truncate": True}
    parsed = parse_model_config(_with(rope_scaling=scaling)).rope_scaling
    assert parsed == RopeScaling("yarn", 4.0, 131072, attention_factor=1.2, beta_fast=16.0)


def test_longrope() -> None:
    factors = {"short_factor": [1.0] * 32, "long_factor": [2.0, *[3] * 31]}
    scaling = {"type": "su", "original_max_position_embeddings": 8192} | factors
    expected = RopeScaling("longrope", 16.0, 8192, short_factor=(1.0,) * 32, long_factor=(2.0, *(3.0,) * 31))
    assert parse_model_config(_with(rope_scaling=scaling)).rope_scaling == expected
    # Beside the group it goes before what is in it.
    beside = _with(rope_scaling=scaling, original_max_position_embeddings=4096)
    parsed = parse_model_config(beside).rope_scaling
    assert parsed is not None
    assert (parsed.factor, parsed.original_max_position_embeddings) == (32.0, 4096)
    assert not parsed.is_long(4096)
    assert parsed.is_long(4097)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"long_factor": [1.0] * 32}, "short_factor is missing"),
        ({"short_factor": [1.0] * 31}, r"short_factor is \[1.0, .* a list of 32 numbers"),
        ({"short_factor": [1.0] * 31 + [0]}, r"short_factor\.31 is 0"),
        ({"short_factor": [1.0] * 31 + [float("nan")]}, r"short_factor\.31 is nan"),
        ({"short_factor": "1.0"}, "short_factor is '1.0'"),
        ({"short_factor": [1.0] * 32, "original_max_position_embeddings": 1}, "embeddings is 1 "),
    ],
)
def test_wrong_longrope(factors: dict[str, object], message: str) -> None:
    scaling = {"rope_type": "longrope", "long_factor": [1.0] * 32} | factors
    with pytest.raises(ConfigError, match=message):
        parse_model_config(_with(rope_scaling=scaling))


WINDOWS = {windows: ConfigRules(windows=windows) for windows in ("none", "all", "pattern", "upper")}
FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("windows", "settings", "expected"),
    [
        ("none", {"sliding_window": 9}, None),
        ("all", {}, None),
        ("all", {"sliding_window": 9}, [SLIDING] * 4),
        ("all", {"sliding_window": None}, None),
        ("all", {"sliding_window": 9, "layer_types": [FULL, SLIDING] * 2}, [FULL, SLIDING] * 2),
        ("all", {"sliding_window": 9, "layer_types": [FULL] * 4}, None),
        ("pattern", {"sliding_window": 9, "sliding_window_pattern": 3}, [SLIDING, SLIDING, FULL, SLIDING]),
        ("pattern", {"sliding_window": 9, "sliding_window_pattern": 1}, None),
        ("pattern", {"sliding_window": None, "sliding_window_pattern": 2}, None),
        ("upper", {"sliding_window": 9, "max_window_layers": 2}, None),
        (
            "upper",
            {"sliding_window": 9, "max_window_layers": 2, "use_sliding_window": True},
            [FULL, FULL, SLIDING, SLIDING],
        ),
        ("upper", {"sliding_window": 9, "max_window_layers": 4, "use_sliding_window": True}, None),
        ("upper", {"sliding_window": None, "layer_types": [FULL] * 4, "use_sliding_window": False}, None),
    ],
)
def test_windows(windows: str, settings: dict[str, object], expected: list[str] | None) -> None:
    config = parse_model_config(_with(num_hidden_layers=4, **settings), WINDOWS[windows])
    assert config.layer_types == tuple(expected or ())
    assert config.sliding_window == (9 if expected else None)
    kinds = expected or [FULL] * 4
    assert [config.window_of(layer) for layer in range(4)] == [
        9 if kind == SLIDING else None for kind in kinds
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"sliding_window": 4096.0}, "sliding_window is 4096.0"),
        ({"sliding_window": 9, "layer_types": [SLIDING] * 3}, "the types of 16 layers"),
        ({"sliding_window": 9, "layer_types": SLIDING}, "layer_types is 'sliding_attention'"),
        ({"sliding_window": None, "layer_types": [SLIDING] * 16}, "sliding_window is missing"),
        ({"sliding_window": 9, "sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        ({"sliding_window": 9}, "sliding_window_pattern is missing"),
    ],
)
def test_wrong_windows(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_model_config(_with(**settings), WINDOWS["pattern"])


def test_a_layer_of_another_type_is_named() -> None:
    with pytest.raises(UnsupportedError, match="'chunked_attention'"):
        parse_model_config(_with(layer_types=["chunked_attention"] * 16), WINDOWS["all"])


EVERYTHING = ConfigRules(
    windows="all",
    settings=frozenset(
        {
            "query_pre_attn_scalar",
            "rope_local_base_freq",
            "partial_rotary_factor",
            "attn_logit_softcapping",
            "final_logit_softcapping",
        }
    ),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("query_pre_attn_scalar", 0),
        ("query_pre_attn_scalar", "256"),
        ("attn_logit_softcapping", -50.0),
        ("final_logit_softcapping", float("inf")),
        ("final_logit_softcapping", True),
        ("rope_local_base_freq", 0.5),
        ("partial_rotary_factor", 1.5),
        ("partial_rotary_factor", 0.02),
        ("partial_rotary_factor", 0.05),
    ],
)
def test_wrong_settings_of_some_families_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        parse_model_config(_with(**{name: value}), EVERYTHING)


def test_rotary_settings_by_type_of_layer() -> None:
    whole = {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}
    settings = _without("rope_scaling", "rope_theta") | {"sliding_window": 512}
    config = parse_model_config(
        settings | {"rope_parameters": {FULL: whole, SLIDING: {"rope_theta": 2e4}}}, EVERYTHING
    )
    assert (config.rope_theta, config.rope_local_base_freq) == (1e6, 2e4)
    assert config.rope_scaling == RopeScaling("linear", 8.0)
    old = {"rope_theta": 1e6, "rope_local_base_freq": 2e4, "rope_scaling": {"type": "linear", "factor": 8.0}}
    assert parse_model_config(settings | old, EVERYTHING) == config
    without_window = settings | old | {"sliding_window": None}
    assert parse_model_config(without_window, EVERYTHING).rope_local_base_freq is None
    for group, message in (
        ({"rope_type": "linear", "factor": 2.0}, r"layers with a window .* is 'linear'"),
        ({"partial_rotary_factor": 0.5}, "part of the head"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            parse_model_config(settings | {"rope_parameters": {FULL: whole, SLIDING: group}}, EVERYTHING)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


FUZZED = [
    *sorted(LLAMA_32_1B),
    *("layer_types", "sliding_window", "partial_rotary_factor", "rope_parameters", "rope_local_base_freq"),
    *("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"),
]


@given(name=st.sampled_from(FUZZED), value=JSON_VALUES)
@settings(max_examples=300, deadline=None)
def test_any_value_is_taken_or_refused_by_name(name: str, value: object) -> None:
    with contextlib.suppress(PascalineError):
        config = parse_model_config(_with(**{name: value}), EVERYTHING)
        assert config.hidden_size > 0
        assert 0 < config.rope_theta < 1e18
