"""Random models of a few thousand parameters: in transformers, as its checkpoints, and as GGUFs.

Independent of what is tested: transformers writes the safetensors, the gguf package the GGUFs, with
its own table of tensor names, and the order of rows that llama.cpp gives q and k is spelled out here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray
from transformers import (
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    LlamaForCausalLM,
    MistralForCausalLM,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from pascaline.checkpoint.model_config import ModelConfig

_CLASSES: dict[str, type[PreTrainedModel]] = {
    "llama": LlamaForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "mistral": MistralForCausalLM,
    "phi3": Phi3ForCausalLM,
    "gemma2": Gemma2ForCausalLM,
    "gemma3": Gemma3ForCausalLM,
}
# GGUF's architecture where it is not the model type.
_ARCHITECTURES = {"mistral": "llama", "gemma3_text": "gemma3"}

_ROPE_FIELDS = {
    "linear": ("factor",),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
    "longrope": ("original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"),
}


def random_model(
    config: ModelConfig, dtype: torch.dtype = torch.float32, *, seed: int = 0
) -> PreTrainedModel:
    """The model in transformers, every parameter random: its own start has biases of 0 and gains of 1.

    Weights are large enough that attention tells positions apart: with uniform attention an error in
    the rotary embedding would hide.
    """
    model: PreTrainedModel = _CLASSES[config.model_type](hf_config(config))
    fill_randomly(model, dtype, seed)
    return model


def fill_randomly(model: PreTrainedModel, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                values = (0.0 if _is_gemma(model) else 1.0) + 0.2 * values
            elif parameter.dim() == 2 and "embed" not in name:
                values = 1.5 * values / parameter.shape[1] ** 0.5
            # Parameter by parameter: model.to(dtype) would round the rotary frequencies, too.
            parameter.data = values.to(dtype)


def hf_config(config: ModelConfig) -> PreTrainedConfig:
    """transformers' configuration of the same model."""
    kind = config.model_type
    settings: dict[str, object] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": _rope_parameters(config),
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
        "pad_token_id": 0,
    }
    if kind != "phi3":
        settings["head_dim"] = config.head_dim
    elif config.rope_scaling is not None:
        settings["original_max_position_embeddings"] = config.rope_scaling.original_max_position_embeddings
    if kind in ("llama", "qwen3", "gemma2", "gemma3"):
        settings["attention_bias"] = config.attention_bias
    if kind == "llama":
        settings["mlp_bias"] = config.mlp_bias
    if kind != "llama":
        settings["sliding_window"] = config.sliding_window
    if kind.startswith("qwen"):
        settings["use_sliding_window"] = config.sliding_window is not None
    if config.layer_types and kind not in ("mistral", "phi3"):
        settings["layer_types"] = list(config.layer_types)
    if kind.startswith("gemma"):
        for name in ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"):
            settings[name] = getattr(config, name)
        settings["query_pre_attn_scalar"] = int(config.query_pre_attn_scalar or config.head_dim)
    written: PreTrainedConfig = _CLASSES[kind].config_class(**settings)
    return written


def _rope_parameters(config: ModelConfig) -> dict[str, object]:
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.partial_rotary_factor != 1.0:
        rope["partial_rotary_factor"] = config.partial_rotary_factor
    if config.rope_scaling is not None:
        kind = config.rope_scaling.rope_type
        given = {name: getattr(config.rope_scaling, name) for name in _ROPE_FIELDS[kind]}
        rope |= {"rope_type": kind} | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
            if value is not None
        }
    if config.rope_local_base_freq is None:
        return rope
    local = {"rope_type": "default", "rope_theta": config.rope_local_base_freq}
    return {"full_attention": rope, "sliding_attention": local}


def _is_gemma(model: PreTrainedModel) -> bool:
    return bool(model.config.model_type.startswith("gemma"))


def rows_in_gguf_order(rows: NDArray[numpy.float32], heads: int) -> NDArray[numpy.float32]:
    """Rows of q or k as llama.cpp's converter orders them for the llama architecture.

    The file's rows 2i and 2i + 1 of a head are the ones that rotary turns into each other, which in
    Hugging Face's checkpoints are half a head apart: i and i + D / 2.
    """
    head_dim = len(rows) // heads
    reordered = numpy.empty_like(rows)
    for head in range(heads):
        for pair in range(head_dim // 2):
            for half in range(2):
                reordered[head * head_dim + 2 * pair + half] = rows[
                    head * head_dim + half * head_dim // 2 + pair
                ]
    return reordered


# Of the types that the gguf package reads but does not write: where a block keeps d and, after it,
# dmin, and the dmin for each d that makes the values zero on average.
_D_AND_DMIN: dict[str, tuple[int, float | None]] = {
    "Q2_K": (80, 1.5),
    "Q3_K": (108, None),
    "Q4_K": (0, 7.5),
    "Q5_K": (0, 15.5),
    "Q6_K": (208, None),
    "IQ4_NL": (0, None),
    "IQ4_XS": (0, None),
}


def quantised(values: NDArray[numpy.float32], kind: GGMLQuantizationType) -> NDArray[numpy.uint8]:
    """`values` in blocks of `kind`; of types that the package cannot write, random ones as large."""
    if kind.name not in _D_AND_DMIN:
        return gguf.quantize(values, kind)
    place, dmin = _D_AND_DMIN[kind.name]
    elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    random = numpy.random.default_rng(rows + columns)
    blocks = random.integers(0, 256, (rows * columns // elements, block_bytes), numpy.uint8)

    def scaled(d: float) -> NDArray[numpy.uint8]:
        halves = numpy.array([d] if dmin is None else [d, d * dmin], numpy.float16).view(numpy.uint8)
        blocks[:, place : place + len(halves)] = halves
        return blocks.reshape(rows, -1)

    spread = gguf.dequantize(scaled(1.0), kind).std()
    return scaled(float(values.std() / spread))


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    type_name: str,
    *,
    others: Mapping[str, str] | None = None,
    rope_factors: NDArray[numpy.float32] | None = None,
    metadata: dict[str, object] | None = None,
) -> None:
    """Write `model` with its matrices in `type_name`, and leave in `model` the values that are kept.

    `others` has the types of modules that differ, as in mixed files; "1.v_proj" is layer 1's only.
    `rope_factors` becomes rope_freqs.weight; `metadata` has further keys, without the architecture.
    """
    config, kind = model.config, GGMLQuantizationType[type_name]
    arch = _ARCHITECTURES.get(config.model_type, config.model_type)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    writer = GGUFWriter(path, arch)
    _write_settings(writer, config, metadata or {})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = parameter.numpy()
            raw, raw_type = values, GGMLQuantizationType.F32
            if values.ndim == 2:
                raw_type = _type_of(name, kind, others or {})
                raw = quantised(values, raw_type)
                parameter.copy_(torch.from_numpy(gguf.dequantize(raw, raw_type)))
            elif _is_gemma(model):
                raw = values + 1
            module = name.split(".")[-2]
            if arch == "llama" and module in heads:
                raw = rows_in_gguf_order(raw, heads[module])
            file_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert file_name is not None
            writer.add_tensor(file_name, raw, raw_dtype=raw_type)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors)
    for length in ("long", "short"):
        factors = config.rope_parameters.get(f"{length}_factor")
        if factors is not None:
            writer.add_tensor(f"rope_factors_{length}.weight", numpy.array(factors, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _type_of(name: str, kind: GGMLQuantizationType, others: Mapping[str, str]) -> GGMLQuantizationType:
    parts = name.split(".")
    layer = parts[2] if len(parts) > 3 else ""
    other = others.get(f"{layer}.{parts[-2]}") or others.get(parts[-2])
    return kind if other is None else GGMLQuantizationType[other]


def _write_settings(writer: GGUFWriter, config: PreTrainedConfig, metadata: dict[str, object]) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if config.model_type != "phi3":
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    if not config.model_type.startswith("gemma"):
        writer.add_rope_dimension_count(int(rope.get("partial_rotary_factor", 1.0) * head_dim))
    if config.model_type in ("phi3", "gemma2", "gemma3_text"):
        writer.add_sliding_window(config.sliding_window or 0)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if getattr(config, "final_logit_softcapping", None) is not None:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.model_type == "gemma3_text":
        writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
    if rope["rope_type"] == "longrope":
        original = rope["original_max_position_embeddings"]
        scale = config.max_position_embeddings / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))
    for key, value in metadata.items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        if isinstance(value, int):
            add = writer.add_uint32
        add(f"{writer.arch}.{key}", value)
