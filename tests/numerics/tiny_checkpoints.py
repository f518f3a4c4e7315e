"""Random models of a few thousand parameters: in transformers, as its checkpoints, and as GGUFs.

Independent of what is tested: transformers writes the safetensors, the gguf package the GGUFs, with
its own table of tensor names, and the order of rows that llama.cpp gives q and k is spelled out here.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from pascaline.checkpoint.model_config import ModelConfig

_ROPE_FIELDS = {
    "linear": ("factor",),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
}


def random_model(
    config: ModelConfig, dtype: torch.dtype = torch.float32, *, seed: int = 0
) -> PreTrainedModel:
    """The model in transformers, every parameter random: its own start has biases of 0 and gains of 1.

    Weights are large enough that attention tells positions apart: with uniform attention an error in
    the rotary embedding would hide.
    """
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        kind = config.rope_scaling.rope_type
        given = {name: getattr(config.rope_scaling, name) for name in _ROPE_FIELDS[kind]}
        rope |= {"rope_type": kind} | {name: value for name, value in given.items() if value is not None}
    shared = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": rope,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
    }
    model: PreTrainedModel
    if config.model_type == "llama":
        biases = {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}
        model = LlamaForCausalLM(LlamaConfig(**shared, **biases))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**shared))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                values = 1.0 + 0.2 * values
            elif parameter.dim() == 2 and "embed" not in name:
                values = 1.5 * values / parameter.shape[1] ** 0.5
            # Parameter by parameter: model.to(dtype) would round the rotary frequencies, too.
            parameter.data = values.to(dtype)
    return model


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


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    type_name: str,
    *,
    rope_factors: NDArray[numpy.float32] | None = None,
    metadata: dict[str, object] | None = None,
) -> None:
    """Write `model` with its matrices in `type_name`, and leave in `model` the values that are kept.

    `rope_factors` becomes rope_freqs.weight; `metadata` has further keys, without the architecture.
    """
    config, kind = model.config, GGMLQuantizationType[type_name]
    arch = config.model_type
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    writer = GGUFWriter(path, arch)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    for key, value in (metadata or {}).items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        if isinstance(value, int):
            add = writer.add_uint32
        add(f"{arch}.{key}", value)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = parameter.numpy()
            raw, raw_type = values, GGMLQuantizationType.F32
            if values.ndim == 2:
                raw, raw_type = gguf.quantize(values, kind), kind
                parameter.copy_(torch.from_numpy(gguf.dequantize(raw, kind)))
            module = name.split(".")[-2]
            if arch == "llama" and module in heads:
                raw = rows_in_gguf_order(raw, heads[module])
            file_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert file_name is not None
            writer.add_tensor(file_name, raw, raw_dtype=raw_type)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
