"""A GGUF's settings in config.json's spelling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from gguf import GGUFWriter

from pascaline.checkpoint.gguf_checkpoint import GgufCheckpoint
from pascaline.checkpoint.hf_config import parse_model_config
from pascaline.checkpoint.model_config import ModelConfig, RopeScaling
from pascaline.checkpoint.opening import open_checkpoint
from pascaline.core.errors import CheckpointError, ConfigError, UnsupportedError
from pascaline.models import read_config


def test_the_demo(demo_path: Path) -> None:
    checkpoint = open_checkpoint(demo_path)
    assert checkpoint.container == "gguf"
    config = parse_model_config(checkpoint.hf_config)
    assert config == ModelConfig(
        model_type="llama",
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        rms_norm_eps=float(numpy.float32(1e-5)),
        rope_theta=100000.0,
        rope_scaling=None,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        attention_bias=False,
        mlp_bias=False,
        hidden_act="silu",
        bos_token_id=1,
        eos_token_ids=(2,),
    )
    assert checkpoint.chat_template is not None
    assert checkpoint.chat_template.startswith("{% for message in messages %}")
    source = checkpoint.tokenizer_source()
    checkpoint.close()
    assert (source.bos_token, source.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert source.tokenizer_json is None
    assert source.gguf_metadata is not None
    assert source.gguf_metadata["tokenizer.ggml.pre"] == "smollm"
    merges = source.gguf_metadata["tokenizer.ggml.merges"]
    assert isinstance(merges, list)
    assert len(merges) == 48900


def _checkpoint(
    folder: Path, change: Callable[[GGUFWriter], None] = lambda writer: None, architecture: str = "llama"
) -> GgufCheckpoint:
    """A tiny model's file, without weights except what `change` adds."""
    writer = GGUFWriter(folder / "tiny.gguf", architecture)
    writer.add_block_count(2)
    writer.add_context_length(4096)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_token_list(["<s>", "</s>", "<eot>", "a", "b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufCheckpoint(folder / "tiny.gguf")


def _parsed(folder: Path, change: Callable[[GGUFWriter], None]) -> ModelConfig:
    checkpoint = _checkpoint(folder, change)
    config = parse_model_config(checkpoint.hf_config)
    checkpoint.close()
    return config


def test_defaults(tmp_path: Path) -> None:
    config = _parsed(tmp_path, lambda writer: None)
    assert config.vocab_size == 5  # from the token list
    assert config.num_key_value_heads == 4
    assert config.head_dim == 16
    assert config.rope_theta == 10000.0
    assert config.tie_word_embeddings is True


def test_settings_and_tensors(tmp_path: Path) -> None:
    def change(writer: GGUFWriter) -> None:
        writer.add_head_count_kv(2)
        writer.add_key_length(32)
        writer.add_value_length(32)
        writer.add_rope_dimension_count(32)
        writer.add_rope_freq_base(500000.0)
        writer.add_eot_token_id(2)
        writer.add_chat_template("{{ messages }}")
        for name in ("output.weight", "blk.0.attn_q.bias", "rope_freqs.weight"):
            writer.add_tensor(name, numpy.zeros(4, numpy.float32))

    checkpoint = _checkpoint(tmp_path, change)
    config = parse_model_config(checkpoint.hf_config)
    assert config.num_key_value_heads == 2
    assert config.head_dim == 32
    assert config.rope_theta == 500000.0
    assert config.rope_scaling is None
    assert config.eos_token_ids == (1, 2)
    assert config.tie_word_embeddings is False
    assert config.attention_bias is True
    assert config.mlp_bias is False
    assert checkpoint.chat_template == "{{ messages }}"
    checkpoint.close()


def test_rope_scaling(tmp_path: Path) -> None:
    from gguf import RopeScalingType

    def linear(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(1024)

    def yarn(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(1024)
        writer.add_rope_scaling_yarn_beta_fast(16.0)

    def none(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_type(RopeScalingType.NONE)

    assert _parsed(tmp_path, none).rope_scaling is None
    # Without a type a factor is a linear one, and 0 is none, as llama.cpp has it.
    factor_alone = _parsed(tmp_path, lambda writer: writer.add_rope_scaling_factor(4.0))
    assert factor_alone.rope_scaling == RopeScaling("linear", 4.0)
    assert _parsed(tmp_path, lambda writer: writer.add_rope_scaling_factor(0.0)).rope_scaling is None
    assert _parsed(tmp_path, linear).rope_scaling == RopeScaling("linear", 4.0)
    assert _parsed(tmp_path, yarn).rope_scaling == RopeScaling("yarn", 4.0, 1024, beta_fast=16.0)


def _read(folder: Path, architecture: str, change: Callable[[GGUFWriter], None]) -> ModelConfig:
    checkpoint = _checkpoint(folder, change, architecture)
    config = read_config(checkpoint.hf_config, checkpoint.container)
    checkpoint.close()
    return config


def test_longrope(tmp_path: Path) -> None:
    def phi3(writer: GGUFWriter, short: object = numpy.float32([1, 1.5, 2, 3, 4, 5])) -> None:
        writer.add_rope_dimension_count(12)
        writer.add_rope_scaling_orig_ctx_len(1024)
        writer.add_rope_scaling_attn_factors(1.25)
        writer.add_tensor("rope_factors_short.weight", numpy.asarray(short))
        writer.add_tensor("rope_factors_long.weight", numpy.full(6, 8, numpy.float32))

    config = _read(tmp_path, "phi3", phi3)
    assert config.rotary_dimensions == 12
    assert config.rope_scaling == RopeScaling(
        "longrope",
        4.0,
        1024,
        attention_factor=1.25,
        short_factor=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0),
        long_factor=(8.0,) * 6,
    )
    for wrong, message in (
        (numpy.float32([1, 2]), r"short_factor is \[1.0, 2.0\] \(expected a list of 6 numbers"),
        (numpy.float32([1, 1, 1, 1, 1, 0]), r"short_factor.5 is 0"),
        (numpy.float16([1] * 6), r"'rope_factors_short.weight' is F16 of shape \[6\]"),
        (numpy.ones((2, 3), numpy.float32), r"is F32 of shape \[2, 3\]"),
    ):
        with pytest.raises((CheckpointError, ConfigError), match=message):
            _read(tmp_path, "phi3", lambda writer, wrong=wrong: phi3(writer, wrong))


def test_windows(tmp_path: Path) -> None:
    assert _read(tmp_path, "phi3", lambda writer: writer.add_sliding_window(0)).sliding_window is None
    phi = _read(tmp_path, "phi3", lambda writer: writer.add_sliding_window(9))
    assert [phi.window_of(layer) for layer in range(2)] == [9, 9]
    # Llama's own rule: llama.cpp gives Mistral's files no window.
    assert _read(tmp_path, "llama", lambda writer: writer.add_sliding_window(9)).sliding_window is None

    def gemma3(writer: GGUFWriter) -> None:
        writer.add_sliding_window(9)
        writer.add_rope_freq_base(1e6)

    # Every sixth layer sees all; with two layers, none does.
    config = _read(tmp_path, "gemma3", gemma3)
    assert [config.window_of(layer) for layer in range(2)] == [9, 9]
    assert (config.rope_theta, config.rope_local_base_freq) == (1e6, 1e4)
    assert _read(tmp_path, "gemma3", lambda writer: None).rope_local_base_freq is None

    def by_layer(writer: GGUFWriter) -> None:
        gemma3(writer)
        writer.add_sliding_window_pattern([False, True])
        writer.add_rope_freq_base_swa(2e4)

    config = _read(tmp_path, "gemma3", by_layer)
    assert [config.window_of(layer) for layer in range(2)] == [None, 9]
    assert config.rope_local_base_freq == 2e4

    def by_period(writer: GGUFWriter) -> None:
        gemma3(writer)
        writer.add_sliding_window_pattern(2)

    config = _read(tmp_path, "gemma3", by_period)
    assert [config.window_of(layer) for layer in range(2)] == [9, None]


def test_soft_caps_and_the_scale_of_scores(tmp_path: Path) -> None:
    def gemma2(writer: GGUFWriter) -> None:
        writer.add_attn_logit_softcapping(20.0)
        writer.add_final_logit_softcapping(10.0)
        writer.add_attention_scale(0.125)

    config = _read(tmp_path, "gemma2", gemma2)
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (20.0, 10.0)
    assert config.query_pre_attn_scalar == 64.0
    # What a file does not say is what llama.cpp assumes.
    config = _read(tmp_path, "gemma2", lambda writer: None)
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)
    assert (config.sliding_window, config.query_pre_attn_scalar) == (4096, None)
    assert [config.window_of(layer) for layer in range(2)] == [4096, None]
    with pytest.raises(UnsupportedError, match="final_logit_softcapping is 10"):
        _read(tmp_path, "llama", lambda writer: writer.add_final_logit_softcapping(10.0))


def test_what_is_not_supported_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="mixture of experts"):
        _parsed(tmp_path, lambda writer: writer.add_expert_count(8))
    with pytest.raises(UnsupportedError, match="part of the head"):
        _parsed(tmp_path, lambda writer: writer.add_rope_dimension_count(8))

    def unequal_heads(writer: GGUFWriter) -> None:
        writer.add_key_length(32)
        writer.add_value_length(16)

    with pytest.raises(UnsupportedError, match="keys have 32 elements a head and values 16"):
        _parsed(tmp_path, unequal_heads)
    with pytest.raises(UnsupportedError, match="keys have 16 elements a head and values 8"):
        _parsed(tmp_path, lambda writer: writer.add_value_length(8))
    assert _parsed(tmp_path, lambda writer: writer.add_value_length(16)).head_dim == 16
    with pytest.raises(UnsupportedError, match=r"head_count_kv differs from layer to layer"):
        _parsed(tmp_path, lambda writer: writer.add_head_count_kv([1, 2]))
    assert _parsed(tmp_path, lambda writer: writer.add_head_count_kv([2, 2])).num_key_value_heads == 2


def test_a_foreign_architecture_opens_and_keeps_its_name(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path, architecture="mamba")
    assert checkpoint.hf_config["model_type"] == "mamba"
    checkpoint.close()


def test_missing_settings(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "bare.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    checkpoint = GgufCheckpoint(tmp_path / "bare.gguf")
    with pytest.raises(ConfigError, match="hidden_size is missing"):
        parse_model_config(checkpoint.hf_config)
    with pytest.raises(CheckpointError, match="holds no vocabulary"):
        checkpoint.tokenizer_source()
    with pytest.raises(CheckpointError, match="has no tensor x"):
        checkpoint.read("x")
    checkpoint.close()
