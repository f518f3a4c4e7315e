"""A GGUF's metadata in config.json's spelling.

Absent keys stay absent, so that an architecture that is not supported is reported by its name, by
the models, and a missing number by its field, by `parse_model_config`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy

from pascaline.checkpoint.checkpoint import TensorEntry
from pascaline.checkpoint.gguf import GgufMetadata
from pascaline.checkpoint.gguf_split import SplitGguf
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
    "rope.freq_base_swa": "rope_local_base_freq",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
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
# LongRoPE's divisors of the rotary frequencies are tensors, one number for every two elements of a head.
_LONG_FACTORS = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
_MOST_LONG_FACTORS = 1 << 16


def hf_config_of(file: SplitGguf) -> dict[str, object]:
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
    head_dim = _head_dim(config)
    _refuse_unequal_heads(file, f"{architecture}.attention.value_length", head_dim)
    rotary = metadata.get(f"{architecture}.rope.dimension_count")
    if isinstance(rotary, int) and head_dim and rotary != head_dim:
        config["partial_rotary_factor"] = rotary / head_dim
    config |= _windows(metadata, f"{architecture}.attention.")
    rope_scaling = _rope_scaling(file, f"{architecture}.rope.scaling.")
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


def _same_in_all_layers(file: SplitGguf, key: str) -> object:
    value = file.metadata.get(key)
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise UnsupportedError(f"{file.path}: {key} differs from layer to layer", expected="one number")
    return value[0]


def _refuse_unequal_heads(file: SplitGguf, value_length: str, key: int | None) -> None:
    value = file.metadata.get(value_length, key)
    if key is not None and key != value:
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


def _windows(metadata: GgufMetadata, prefix: str) -> dict[str, object]:
    """Which layers see how much, and the factor on their scores."""
    config: dict[str, object] = {}
    window = metadata.get(f"{prefix}sliding_window")
    if window is not None:
        config["sliding_window"] = window or None  # converters write 0 for none
    pattern = metadata.get(f"{prefix}sliding_window_pattern")
    if isinstance(pattern, list):
        config["layer_types"] = ["sliding_attention" if item else "full_attention" for item in pattern]
    elif pattern is not None:
        config["sliding_window_pattern"] = pattern
    scale = metadata.get(f"{prefix}scale")
    if isinstance(scale, float) and scale > 0:
        config["query_pre_attn_scalar"] = 1 / scale / scale  # inf where it is absurd, and refused as such
    return config


def _rope_scaling(file: SplitGguf, prefix: str) -> dict[str, object] | None:
    metadata = file.metadata
    scaling: dict[str, object] = {}
    for key, field in _ROPE_SCALING_FIELDS.items():
        if prefix + key in metadata:
            scaling[field] = metadata[prefix + key]
    multiplier = metadata.get(f"{prefix}attn_factor")
    if all(name in file.tensors for name in _LONG_FACTORS.values()):
        if multiplier is not None:
            scaling["attention_factor"] = multiplier
        return {"rope_type": "longrope", **scaling, **_long_factors(file)}
    # As llama.cpp reads it: a factor alone is a linear one, and 0 is none.
    factor = scaling.get("factor")
    kind = metadata.get(f"{prefix}type", "linear" if factor else "none")
    if kind == "none":
        return None
    if kind == "yarn" and isinstance(multiplier, float) and isinstance(factor, float) and factor >= 1:
        # llama.cpp multiplies YaRN's own factor, config.json replaces it.
        scaling["attention_factor"] = multiplier * (0.1 * math.log(factor) + 1)
    return {"rope_type": kind, **scaling}


def _long_factors(file: SplitGguf) -> dict[str, object]:
    factors: dict[str, object] = {}
    for field, name in _LONG_FACTORS.items():
        entry = file.tensors[name]
        if entry.type_name != "F32" or len(entry.shape) != 1 or entry.shape[0] > _MOST_LONG_FACTORS:
            raise CheckpointError(
                f"{file.path}: tensor {name!r} is {entry.type_name} of shape {list(entry.shape)}",
                expected="F32, one number for every two elements of a head",
            )
        factors[field] = numpy.frombuffer(file.read(name), numpy.dtype("<f4")).tolist()
    return factors
