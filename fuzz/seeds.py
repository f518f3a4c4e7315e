"""Small valid inputs from which runs start, but for those of `gguf_seeds`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy
import tokenizers
from gguf_seeds import CHAT_TEMPLATE
from numpy.typing import NDArray
from safetensors.numpy import save
from tokenizers import decoders, models, pre_tokenizers

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.models import FAMILIES
from pascaline.report.run_record import Cpu, Gpu, RecordedKernel, Row, RunRecord, to_json

FILE_NAMES = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
    "quantize_config.json",
    "pytorch_model.bin",
    "weight_map",
    "quantization_config",
    "chat_template",
    "eos_token_id",
    "bos_token",
    "dtype",
    "data_offsets",
]
CONFIG_KEYS = [
    "model_type",
    "text_config",
    "rope_scaling",
    "rope_parameters",
    "rope_type",
    "type",
    "factor",
    "rope_theta",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "short_factor",
    "long_factor",
    "truncate",
    "partial_rotary_factor",
    "sliding_window",
    "layer_types",
    "sliding_window_pattern",
    "max_window_layers",
    "use_sliding_window",
    "head_dim",
    "rope_local_base_freq",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "hidden_activation",
    "container",
    "full_attention",
    "sliding_attention",
    "quantization_config",
    "lm_head_bias",
    "num_local_experts",
]
QUANTISED_KEYS = [
    "m.qweight",
    "m.qzeros",
    "m.scales",
    "m.g_idx",
    "m.weight_packed",
    "m.weight_scale",
    "m.weight_shape",
    "m.weight_zero_point",
    "m.weight_g_idx",
    "m.weight",
    "bits",
    "group_size",
    "desc_act",
    "sym",
    "dynamic",
    "checkpoint_format",
    "quant_method",
    "config_groups",
    "format",
    "weights",
    "num_bits",
    "version",
    "I32",
    "F16",
    "BF16",
    "F32",
    "I8",
]


def config_of(config: ModelConfig) -> dict[str, Any]:
    """config.json's spelling of a family's tiny model."""
    given = {name: value for name, value in asdict(config).items() if value is not None and value != ()}
    given["eos_token_id"] = list(given.pop("eos_token_ids", ()))
    given.pop("partial_rotary_factor", None)
    if config.model_type.startswith("gemma"):
        given["hidden_activation"] = given.pop("hidden_act")
    return json.loads(json.dumps(given))  # type: ignore[no-any-return]


def _small_llama() -> dict[str, Any]:
    """One layer, 64 wide."""
    return {
        "model_type": "llama",
        "vocab_size": 40,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def configs() -> list[bytes]:
    plain = [config_of(family.tiny) for family in FAMILIES.values()]
    scaled = [
        {"rope_type": "linear", "factor": 2.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32.0},
        {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    ]
    for scaling in scaled:
        plain += [_small_llama() | {"rope_scaling": scaling}, _small_llama() | {"rope_parameters": scaling}]
    plain.append({"model_type": "gemma3", "text_config": config_of(FAMILIES["gemma3"].tiny)})
    return [json.dumps(config).encode() for config in plain]


def tokenizer_jsons() -> list[bytes]:
    byte_level = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "<s>": 3}, [("a", "b")]))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.add_special_tokens(["<s>", "</s>"])
    marked = tokenizers.Tokenizer(
        models.BPE({"<unk>": 0, "▁": 1, "a": 2, "▁a": 3}, [("▁", "a")], unk_token="<unk>", byte_fallback=True)
    )
    marked.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pieces = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0)], 0))
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return [tokenizer.to_str().encode() for tokenizer in (byte_level, marked, pieces)]


def templates() -> list[bytes]:
    return [CHAT_TEMPLATE.encode(), b"{{ messages | tojson }}", b"{% set x = messages %}{{ x[0].content }}"]


def safetensors_files() -> list[bytes]:
    tensors: dict[str, NDArray[Any]] = {
        "a": numpy.ones((2, 3), numpy.float32),
        "b": numpy.ones(4, numpy.float16),
        "c": numpy.zeros((), numpy.int64),
    }
    return [
        save(tensors),
        save(tensors, metadata={"format": "pt"}),
        save({"e": numpy.zeros((0, 4), numpy.uint8)}),
    ]


def _weights(config: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A safetensors header for a small Llama, and the bytes behind it."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    query, key = (config[f"num_{kind}_heads"] * config["head_dim"] for kind in ("attention", "key_value"))
    layer = "model.layers.0"
    shapes = {
        "model.embed_tokens.weight": [config["vocab_size"], hidden],
        **{f"{layer}.{norm}_layernorm.weight": [hidden] for norm in ("input", "post_attention")},
        **{
            f"{layer}.self_attn.{name}_proj.weight": [rows, hidden]
            for name, rows in zip("qkv", (query, key, key), strict=True)
        },
        f"{layer}.self_attn.o_proj.weight": [hidden, query],
        **{f"{layer}.mlp.{name}_proj.weight": [inner, hidden] for name in ("gate", "up")},
        f"{layer}.mlp.down_proj.weight": [hidden, inner],
        "model.norm.weight": [hidden],
    }
    header, end = {}, 0
    for name, shape in shapes.items():
        nbytes = 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + nbytes]}
        end += nbytes
    return header, end


def folders() -> list[bytes]:
    config = _small_llama()
    header, nbytes = _weights(config)
    whole = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": [2, 3]},
        "tokenizer_config.json": {
            "bos_token": {"content": "<s>"},
            "eos_token": "</s>",
            "chat_template": CHAT_TEMPLATE,
        },
        "tokenizer.json": "{}",
        "model.safetensors": [header, nbytes],
    }
    sharded = {name: content for name, content in whole.items() if name != "model.safetensors"}
    sharded["model-00001-of-00001.safetensors"] = whole["model.safetensors"]
    weight_map = dict.fromkeys(header, "model-00001-of-00001.safetensors")
    sharded["model.safetensors.index.json"] = {"metadata": {"total_size": nbytes}, "weight_map": weight_map}
    named = [{"name": "default", "template": CHAT_TEMPLATE}, {"name": "tool_use", "template": ""}]
    older = {
        **whole,
        "quantize_config.json": {"bits": 4, "group_size": 32},
        "chat_template.jinja": CHAT_TEMPLATE,
    }
    older["tokenizer_config.json"] = {"chat_template": named}
    pickled = {"config.json": config, "pytorch_model.bin": "\x80\x02}q\0."}
    return [json.dumps(folder).encode() for folder in (whole, sharded, older, pickled)]


def quantised() -> list[bytes]:
    """A linear of 32 outputs and 64 inputs in every scheme."""
    return [json.dumps(described).encode() for described in _quantised()]


def _quantised() -> Iterator[dict[str, Any]]:
    rows, columns, groups = 32, 64, 2
    order = "".join(chr(group) + "\0\0\0" for group in [0] * 32 + [1] * 32)
    for bits in (2, 3, 4, 8):
        tensors: dict[str, Any] = {
            "m.qweight": ["I32", [columns * bits // 32, rows], "\x12\x34"],
            "m.qzeros": ["I32", [groups, rows * bits // 32], "\x77"],
            "m.scales": ["F16", [groups, rows], "\x11\x2c"],
            "m.g_idx": ["I32", [columns], order],
        }
        config: dict[str, Any] = {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": 32,
            "desc_act": bits == 4,
            "sym": bits != 3,
        }
        yield {"quantization_config": config, "shape": [rows, columns], "tensors": tensors}
    tensors = {
        "m.qweight": ["I32", [columns, rows // 8], "\x12\x34"],
        "m.qzeros": ["I32", [groups, rows // 8], "\x77"],
        "m.scales": ["F16", [groups, rows], "\x11\x2c"],
    }
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
    yield {"quantization_config": config, "shape": [rows, columns], "tensors": tensors}
    for bits, zeros in ((4, "I32"), (8, "I8")):
        zero_rows = rows * bits // 32 if zeros == "I32" else rows
        tensors = {
            "m.weight_packed": ["I32", [rows, columns * bits // 32], "\x12\x34"],
            "m.weight_scale": ["BF16", [rows, groups], "\x11\x2c"],
            "m.weight_zero_point": [zeros, [zero_rows, groups], "\x11"],
            "m.weight_shape": ["I64", [2], "\0"],
            "m.weight_g_idx": ["I32", [columns], order],
        }
        scheme = {"weights": {"num_bits": bits, "type": "int", "group_size": 32, "strategy": "group"}}
        config = {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"g": scheme},
        }
        yield {"quantization_config": config, "shape": [rows, columns], "tensors": tensors}
    yield {"shape": [rows, columns], "tensors": {"m.weight": ["BF16", [rows, columns], "\x11"]}}


def listings() -> list[bytes]:
    digest = "0123456789" * 4
    names = (
        "config.json",
        "model-Q4_K_M.gguf",
        "model-Q4_0.gguf",
        "b/a-00001-of-00002.gguf",
        "b/a-00002-of-00002.gguf",
    )
    files = [{"rfilename": name, "size": 5, "blobId": digest} for name in names]
    large = {"rfilename": "model.safetensors", "size": 9, "lfs": {"sha256": "ab" * 32, "size": 9}}
    answers = [{"sha": digest, "siblings": files}, {"sha": digest, "siblings": [*files, large]}]
    return [json.dumps(answer).encode() for answer in answers]


def records() -> list[bytes]:
    row = Row(
        module="m", op="linear", phase="decode", measured_s=1.0, kernels=[RecordedKernel(name="k", calls=2)]
    )
    record = RunRecord(
        kind="profile",
        created="now",
        gpu=Gpu(name="P40"),
        cpu=Cpu(name="c"),
        model={"a": [1]},
        rows=[row],
        notes=["n"],
    )
    return [to_json(record)]
