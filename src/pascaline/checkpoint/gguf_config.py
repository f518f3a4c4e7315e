"""A GGUF's metadata in config.json's spelling.

Absent keys stay absent, so that an architecture that is not supported is reported by its name, by
the models, and a missing number by its field, by `parse_model_config`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pascaline.checkpoint.checkpoint import TensorEntry
from pascaline.checkpoint.gguf import GgufFile, GgufMetadata
from pascaline.core.errors import CheckpointError, UnsupportedError

# {architecture}.KEY -> config.json's field, for values that mean the same in both.
_FIELDS = {
    "vocab_size": "vocab_size",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "expert_count": "num_local_experts",
}
_ROPE_SCALING_FIELDS = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
# Ids that end a generation: end of sequence, of turn, of a message that calls a tool.
_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")
TOKENS_KEY = "tokenizer.ggml.tokens"


def hf_config_of(file: GgufFile) -> dict[str, object]:
    """The file's settings under Hugging Face's names.

    llama.cpp stores Llama 3's scaled frequencies as the tensor rope_freqs.weight and writes no
    scaling type, so `rope_scaling` is absent then and the tensor is for the model to read.

    Raises
    ------
    CheckpointError : no architecture is named.
    UnsupportedError : a setting differs from layer to layer, or keys and values differ in length.
    """
    metadata, tensors = file.metadata, file.tensors
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise CheckpointError(
            f"{file.path} names no model architecture: general.architecture is {architecture!r}",
            remedy="Convert the model again",
        )
    config: dict[str, object] = {"model_type": architecture}
    for key, field in _FIELDS.items():
        value = _same_in_all_layers(file, f"{architecture}.{key}")
        if value is not None:
            config[field] = value
    vocabulary = metadata.count(TOKENS_KEY)
    if vocabulary is not None:
        config.setdefault("vocab_size", vocabulary)
    _refuse_unequal_heads(file, architecture)
    rotary = metadata.get(f"{architecture}.rope.dimension_count")
    head_dim = _head_dim(config)
    if isinstance(rotary, int) and head_dim and rotary != head_dim:
        config["partial_rotary_factor"] = rotary / head_dim
    rope_scaling = _rope_scaling(metadata, f"{architecture}.rope.scaling.")
    if rope_scaling is not None:
        config["rope_scaling"] = rope_scaling
    config["bos_token_id"] = metadata.get("tokenizer.ggml.bos_token_id")
    config["eos_token_id"] = [
        metadata[key] for name in _END_TOKENS if (key := f"tokenizer.ggml.{name}") in metadata
    ]
    config |= _facts_of_tensors(tensors)
    return config


def _facts_of_tensors(tensors: Mapping[str, TensorEntry]) -> dict[str, object]:
    """Settings that GGUF says only by which tensors there are."""
    return {
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }


def _same_in_all_layers(file: GgufFile, key: str) -> object:
    value = file.metadata.get(key)
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise UnsupportedError(f"{file.path}: {key} differs from layer to layer", expected="one number")
    return value[0]


def _refuse_unequal_heads(file: GgufFile, architecture: str) -> None:
    key = file.metadata.get(f"{architecture}.attention.key_length")
    value = file.metadata.get(f"{architecture}.attention.value_length", key)
    if key != value:
        raise UnsupportedError(
            f"{file.path}: attention keys have {key} elements a head and values {value}",
            expected="equal lengths",
        )


def _head_dim(config: Mapping[str, object]) -> int | None:
    head_dim = config.get("head_dim")
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if head_dim is None and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        return hidden // heads
    return head_dim if isinstance(head_dim, int) else None


def _rope_scaling(metadata: GgufMetadata, prefix: str) -> dict[str, object] | None:
    kind = metadata.get(f"{prefix}type", "none")
    if kind == "none":
        return None
    scaling: dict[str, object] = {"rope_type": kind}
    for key, field in _ROPE_SCALING_FIELDS.items():
        if prefix + key in metadata:
            scaling[field] = metadata[prefix + key]
    multiplier = metadata.get(f"{prefix}attn_factor")
    factor = scaling.get("factor")
    if kind == "yarn" and isinstance(multiplier, float) and isinstance(factor, float) and factor >= 1:
        # llama.cpp multiplies YaRN's own factor, config.json replaces it.
        scaling["attention_factor"] = multiplier * (0.1 * math.log(factor) + 1)
    return scaling
