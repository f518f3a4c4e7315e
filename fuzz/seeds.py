"""Small valid inputs, from which every run starts; GGUFs are written by the gguf package."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import gguf_mutation
import numpy
import tokenizers
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.numpy import save
from tokenizers import decoders, models, pre_tokenizers

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.models import FAMILIES
from pascaline.report.run_record import Cpu, Gpu, RecordedKernel, Row, RunRecord, to_json

_PLAIN_TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4")
_K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
_SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
_TEMPLATE = (
    "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' }}{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

SPLIT_KEYS = ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "split.no", "split.count", "split.tensors.count")
FILE_NAMES = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "chat_template.jinja"),
    *("model.safetensors", "model.safetensors.index.json", "quantize_config.json", "pytorch_model.bin"),
    *("weight_map", "quantization_config", "chat_template", "eos_token_id", "bos_token", "dtype", "data_offsets"),
)
CONFIG_KEYS = (
    *("model_type", "text_config", "rope_scaling", "rope_parameters", "rope_type", "type", "factor", "rope_theta"),
    *("original_max_position_embeddings", "low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast"),
    *("beta_slow", "short_factor", "long_factor", "truncate", "partial_rotary_factor", "sliding_window"),
    *("layer_types", "sliding_window_pattern", "max_window_layers", "use_sliding_window", "head_dim"),
    *("rope_local_base_freq", "query_pre_attn_scalar", "attn_logit_softcapping", "hidden_activation", "container"),
    *("full_attention", "sliding_attention", "quantization_config", "lm_head_bias", "num_local_experts"),
)
QUANTISED_KEYS = (
    *("m.qweight", "m.qzeros", "m.scales", "m.g_idx", "m.weight_packed", "m.weight_scale", "m.weight_shape"),
    *("m.weight_zero_point", "m.weight_g_idx", "m.weight", "bits", "group_size", "desc_act", "sym", "dynamic"),
    *("checkpoint_format", "quant_method", "config_groups", "format", "weights", "num_bits", "version"),
    *("I32", "F16", "BF16", "F32", "I8"),
)
VOCABULARY_KEYS = (
    *(f"tokenizer.ggml.{key}" for key in ("model", "pre", "tokens", "token_type", "scores", "merges")),
    *(f"tokenizer.ggml.{key}_token_id" for key in ("bos", "eos", "unknown", "padding", "eot", "eom")),
    *(f"tokenizer.ggml.{key}" for key in ("add_bos_token", "add_eos_token", "add_space_prefix")),
)


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
        **{"model_type": "llama", "vocab_size": 40, "hidden_size": 64, "intermediate_size": 64},
        **{"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
        **{"max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu"},
        **{"tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2},
    }


def configs() -> list[bytes]:
    plain = [config_of(family.tiny) for family in FAMILIES.values()]
    scaled = [
        {"rope_type": "linear", "factor": 2.0},
        {
            **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            "original_max_position_embeddings": 64,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32.0},
        {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    ]
    for scaling in scaled:
        plain += [_small_llama() | {"rope_scaling": scaling}, _small_llama() | {"rope_parameters": scaling}]
    plain.append({"model_type": "gemma3", "text_config": config_of(FAMILIES["gemma3"].tiny)})
    return [json.dumps(config).encode() for config in plain]


def _tensor_shapes(hidden: int, intermediate: int, heads: int, kv_heads: int, size: int) -> dict[str, tuple[int, ...]]:
    return {
        "token_embd": (40, hidden),
        "blk.0.attn_norm": (hidden,),
        "blk.0.attn_q": (heads * size, hidden),
        "blk.0.attn_k": (kv_heads * size, hidden),
        "blk.0.attn_v": (kv_heads * size, hidden),
        "blk.0.attn_output": (hidden, heads * size),
        "blk.0.ffn_norm": (hidden,),
        "blk.0.ffn_gate": (intermediate, hidden),
        "blk.0.ffn_up": (intermediate, hidden),
        "blk.0.ffn_down": (hidden, intermediate),
        "output_norm": (hidden,),
    }


def gguf_models() -> list[bytes]:
    """A model of each type, one with a vocabulary of each kind, one with scaled rotary frequencies."""
    made = [_gguf_model(name) for name in _PLAIN_TYPES + _K_TYPES]
    made += [_gguf_model("Q8_0", vocabulary="gpt2"), _gguf_model("Q4_0", vocabulary="llama")]
    made += [_gguf_model("Q8_0", scaling=kind) for kind in ("linear", "yarn", "longrope", "factors")]
    return made


def _gguf_model(type_name: str, vocabulary: str = "", scaling: str = "") -> bytes:
    wide = type_name in _K_TYPES
    hidden, intermediate, heads, kv_heads, size = (256, 32, 1, 1, 2) if wide else (32, 32, 2, 1, 16)
    with tempfile.TemporaryDirectory() as folder:
        writer = GGUFWriter(Path(folder) / "m.gguf", "llama")
        writer.add_embedding_length(hidden)
        writer.add_feed_forward_length(intermediate)
        writer.add_block_count(1)
        writer.add_context_length(64)
        writer.add_head_count(heads)
        writer.add_head_count_kv(kv_heads)
        writer.add_key_length(size)
        writer.add_value_length(size)
        writer.add_rope_dimension_count(size)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_vocab_size(40)
        if vocabulary:
            _add_vocabulary(writer, vocabulary)
        _add_scaling(writer, scaling, size)
        for name, shape in _tensor_shapes(hidden, intermediate, heads, kv_heads, size).items():
            kind = GGMLQuantizationType[type_name]
            elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            if len(shape) == 1 or shape[-1] % elements:
                kind, elements, block_bytes = GGMLQuantizationType.F32, 1, 4
            # Every other byte is small, so that no scale is infinite.
            rows = numpy.resize(numpy.array([0x11, 0x2C], numpy.uint8), (*shape[:-1], shape[-1] // elements * block_bytes))
            writer.add_tensor(f"{name}.weight", rows, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return (Path(folder) / "m.gguf").read_bytes()


def _add_scaling(writer: GGUFWriter, scaling: str, size: int) -> None:
    factors = numpy.ones(size // 2, numpy.float32)
    if scaling == "factors":
        writer.add_tensor("rope_freqs.weight", factors)
    elif scaling == "longrope":
        writer.add_tensor("rope_factors_long.weight", factors)
        writer.add_tensor("rope_factors_short.weight", factors)
        writer.add_rope_scaling_orig_ctx_len(32)
    elif scaling:
        writer.add_string("llama.rope.scaling.type", scaling)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(32)
        writer.add_rope_scaling_attn_factors(1.0)


def _add_vocabulary(writer: GGUFWriter, kind: str) -> None:
    metadata = _byte_level() if kind == "gpt2" else _sentencepiece()
    writer.add_tokenizer_model(kind)
    writer.add_token_list(metadata["tokenizer.ggml.tokens"])
    writer.add_token_types(metadata["tokenizer.ggml.token_type"])
    if kind == "gpt2":
        writer.add_tokenizer_pre("llama-bpe")
        writer.add_token_merges(metadata["tokenizer.ggml.merges"])
    else:
        writer.add_token_scores(metadata["tokenizer.ggml.scores"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(_TEMPLATE)


def _byte_level() -> dict[str, Any]:
    letters = [*"abcdefghijklmnopqrstuvwxyzĠHW,!0123"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [*_SPECIAL_TOKENS, *letters, "he", "ll"],
        "tokenizer.ggml.token_type": [2, 3, 3] + [1] * (len(letters) + 2),
        "tokenizer.ggml.merges": ["h e", "l l"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _sentencepiece() -> dict[str, Any]:
    pieces = ["▁", "a", "b", "H", "e", "l", "o", "▁a", "ab", "ll", "ell", "ello"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*_SPECIAL_TOKENS, "<0x0A>", "<0xE5>", *pieces],
        "tokenizer.ggml.token_type": [2, 3, 3, 6, 6] + [1] * len(pieces),
        "tokenizer.ggml.scores": [0.0] * 5 + [-float(number) for number in range(len(pieces))],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
    }


def vocabularies() -> list[bytes]:
    pres = ("default", "gpt-2", "qwen2", "smollm")
    made = [_sentencepiece(), _byte_level(), *(_byte_level() | {"tokenizer.ggml.pre": pre} for pre in pres)]
    return [json.dumps(metadata).encode() for metadata in made]


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
    return [_TEMPLATE.encode(), b"{{ messages | tojson }}", b"{% set x = messages %}{{ x[0].content }}"]


def safetensors_files() -> list[bytes]:
    tensors = {"a": numpy.ones((2, 3), numpy.float32), "b": numpy.ones(4, numpy.float16), "c": numpy.zeros((), numpy.int64)}
    return [save(tensors), save(tensors, metadata={"format": "pt"}), save({"e": numpy.zeros((0, 4), numpy.uint8)})]


def _weights(config: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A safetensors header for a small Llama, and the bytes behind it."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    query, key = (config[f"num_{kind}_heads"] * config["head_dim"] for kind in ("attention", "key_value"))
    layer = "model.layers.0"
    shapes = {
        "model.embed_tokens.weight": [config["vocab_size"], hidden],
        **{f"{layer}.{norm}_layernorm.weight": [hidden] for norm in ("input", "post_attention")},
        **{f"{layer}.self_attn.{name}_proj.weight": [rows, hidden] for name, rows in zip("qkv", (query, key, key), strict=True)},
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
        "tokenizer_config.json": {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": _TEMPLATE},
        "tokenizer.json": "{}",
        "model.safetensors": [header, nbytes],
    }
    sharded = {name: content for name, content in whole.items() if name != "model.safetensors"}
    sharded["model-00001-of-00001.safetensors"] = whole["model.safetensors"]
    weight_map = dict.fromkeys(header, "model-00001-of-00001.safetensors")
    sharded["model.safetensors.index.json"] = {"metadata": {"total_size": nbytes}, "weight_map": weight_map}
    named = [{"name": "default", "template": _TEMPLATE}, {"name": "tool_use", "template": ""}]
    older = {**whole, "quantize_config.json": {"bits": 4, "group_size": 32}, "chat_template.jinja": _TEMPLATE}
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
        tensors = {
            "m.qweight": ["I32", [columns * bits // 32, rows], "\x12\x34"],
            "m.qzeros": ["I32", [groups, rows * bits // 32], "\x77"],
            "m.scales": ["F16", [groups, rows], "\x11\x2c"],
            "m.g_idx": ["I32", [columns], order],
        }
        config = {"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": bits == 4, "sym": bits != 3}
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
        config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": scheme}}
        yield {"quantization_config": config, "shape": [rows, columns], "tensors": tensors}
    yield {"shape": [rows, columns], "tensors": {"m.weight": ["BF16", [rows, columns], "\x11"]}}


def split_models() -> list[bytes]:
    """Three ways of dealing tensors to the parts of a split GGUF."""
    numbers = {"split.count": 2, "split.tensors.count": 2}
    first, second = (f"a-0000{number}-of-00002.gguf" for number in (1, 2))
    dealt = {first: [["x"], {"split.no": 0, **numbers}], second: [["y"], {"split.no": 1, **numbers}]}
    settings_first = {first: [[], {"split.no": 0, **numbers}], second: [["x", "y"], {"split.no": 1, **numbers}]}
    return [json.dumps(parts).encode() for parts in (dealt, settings_first, {"a.gguf": [["x"], {}]})]


def split_part(described: object) -> bytes | None:
    """One part of `split_models`, None for what describes none."""
    match described:
        case [list(names), dict(numbers)]:
            parts = gguf_mutation.GgufParts(data=bytes(32 * len(names)))
            parts.keys.append((b"general.architecture", 8, struct.pack("<Q", 5) + b"llama"))
            for key, number in numbers.items():
                raw = key.encode("utf-8", "surrogatepass")
                if isinstance(number, int) and 0 <= number < 2**64:
                    parts.keys.append((raw, 10, struct.pack("<Q", number)))
                elif isinstance(number, float):
                    parts.keys.append((raw, 12, struct.pack("<d", number)))
            for index, name in enumerate(names):
                raw = str(name).encode("utf-8", "surrogatepass")
                parts.tensors.append(gguf_mutation.Tensor(raw, [8], 0, 32 * index))
            return parts.to_bytes()
    return None


def listings() -> list[bytes]:
    digest = "0123456789" * 4
    names = ("config.json", "model-Q4_K_M.gguf", "model-Q4_0.gguf", "b/a-00001-of-00002.gguf", "b/a-00002-of-00002.gguf")
    files = [{"rfilename": name, "size": 5, "blobId": digest} for name in names]
    large = {"rfilename": "model.safetensors", "size": 9, "lfs": {"sha256": "ab" * 32, "size": 9}}
    answers = [{"sha": digest, "siblings": files}, {"sha": digest, "siblings": [*files, large]}]
    return [json.dumps(answer).encode() for answer in answers]


def records() -> list[bytes]:
    row = Row(module="m", op="linear", phase="decode", measured_s=1.0, kernels=[RecordedKernel(name="k", calls=2)])
    record = RunRecord(
        kind="profile", created="now", gpu=Gpu(name="P40"), cpu=Cpu(name="c"), model={"a": [1]}, rows=[row], notes=["n"]
    )
    return [to_json(record)]


