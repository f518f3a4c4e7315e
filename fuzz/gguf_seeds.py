"""Small valid GGUF files and vocabularies, from which runs start; the gguf package writes them."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import gguf
import gguf_mutation
import numpy
from gguf import GGMLQuantizationType, GGUFWriter

_PLAIN_TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4")
_K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
_SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' }}{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

SPLIT_KEYS = (
    "a-00001-of-00002.gguf",
    "a-00002-of-00002.gguf",
    "split.no",
    "split.count",
    "split.tensors.count",
)
VOCABULARY_KEYS = (
    *(f"tokenizer.ggml.{key}" for key in ("model", "pre", "tokens", "token_type", "scores", "merges")),
    *(f"tokenizer.ggml.{key}_token_id" for key in ("bos", "eos", "unknown", "padding", "eot", "eom")),
    *(f"tokenizer.ggml.{key}" for key in ("add_bos_token", "add_eos_token", "add_space_prefix")),
)


def _tensor_shapes(
    hidden: int, intermediate: int, heads: int, kv_heads: int, size: int
) -> dict[str, tuple[int, ...]]:
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
            rows = numpy.resize(
                numpy.array([0x11, 0x2C], numpy.uint8), (*shape[:-1], shape[-1] // elements * block_bytes)
            )
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
    writer.add_chat_template(CHAT_TEMPLATE)


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


def split_models() -> list[bytes]:
    """Three ways of dealing tensors to the parts of a split GGUF."""
    numbers = {"split.count": 2, "split.tensors.count": 2}
    first, second = (f"a-0000{number}-of-00002.gguf" for number in (1, 2))
    dealt = {first: [["x"], {"split.no": 0, **numbers}], second: [["y"], {"split.no": 1, **numbers}]}
    settings_first = {
        first: [[], {"split.no": 0, **numbers}],
        second: [["x", "y"], {"split.no": 1, **numbers}],
    }
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
