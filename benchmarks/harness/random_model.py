"""Qwen2.5-1.5B with random weights, twice: a GPTQ-Int4 folder and a Q4_0 GGUF of the same numbers.

    cd benchmarks && python -m harness.random_model FOLDER

Writes FOLDER/gptq-int4/ and FOLDER/q4_0.gguf, 1.2 and 0.9 GB. A symmetric GPTQ group of 128 is four
Q4_0 blocks with one scale, so the linears are the same to the bit. The embeddings, which are the head
too, are Q6_K in the GGUF, where llama.cpp's own quantiser puts them with that type, and fp16 in the
folder, as GPTQ leaves them: scales are chosen such that fp16 holds every Q6_K value. There is no
tokenizer; both engines are given token ids.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy
from numpy.typing import NDArray
from safetensors.numpy import save_file

GROUP = 128
Q4_0_BLOCK = 32
Q6_K_BLOCK = 256
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Shape:
    """Of a Qwen2 model. Source of the defaults: Qwen2.5-1.5B's config.json."""

    hidden: int = 1536
    intermediate: int = 8960
    layers: int = 28
    heads: int = 12
    key_value_heads: int = 2
    vocab: int = 151936
    positions: int = 32768
    rope_theta: float = 1e6
    epsilon: float = 1e-6
    is_tied: bool = True  # whether the embeddings are the head too

    @property
    def key_value(self) -> int:
        return self.hidden // self.heads * self.key_value_heads

    def linears(self) -> list[tuple[str, str, int, int]]:
        """Of a layer: name in the folder, name in the GGUF, outputs, inputs."""
        return [
            ("self_attn.q_proj", "attn_q", self.hidden, self.hidden),
            ("self_attn.k_proj", "attn_k", self.key_value, self.hidden),
            ("self_attn.v_proj", "attn_v", self.key_value, self.hidden),
            ("self_attn.o_proj", "attn_output", self.hidden, self.hidden),
            ("mlp.gate_proj", "ffn_gate", self.intermediate, self.hidden),
            ("mlp.up_proj", "ffn_up", self.intermediate, self.hidden),
            ("mlp.down_proj", "ffn_down", self.hidden, self.intermediate),
        ]

    def hf_config(self) -> dict[str, object]:
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.positions,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.epsilon,
            "hidden_act": "silu",
            "tie_word_embeddings": self.is_tied,
            "torch_dtype": "float16",
            "quantization_config": {
                "quant_method": "gptq",
                "bits": 4,
                "group_size": GROUP,
                "sym": True,
                "desc_act": False,
            },
        }


QWEN_7B = Shape(3584, 18944, 28, 28, 4, 152064, is_tied=False)  # Qwen2.5-7B-Instruct's config.json


def new_writer(shape: Shape, target: Path) -> gguf.GGUFWriter:
    """A GGUF of such a model in Q4_0, without a tokenizer, that has no tensors yet."""
    writer = gguf.GGUFWriter(target, "qwen2")
    writer.add_context_length(shape.positions)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_value_heads)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("no_vocab")
    return writer


def finish(writer: gguf.GGUFWriter) -> None:
    """Write the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class TwoFiles:
    """Collects each tensor in both spellings, then writes both models."""

    def __init__(self, shape: Shape, target: Path) -> None:
        self._shape = shape
        self._random = numpy.random.default_rng(0)
        self._folder: dict[str, NDArray[numpy.generic]] = {}
        self._gguf = new_writer(shape, target)

    def add_vector(self, name: str, gguf_name: str, mean: float, deviation: float, size: int) -> None:
        """A norm's gains or a bias: what fp16 holds, in fp16 and in fp32."""
        values = self._random.normal(mean, deviation, size).astype(numpy.float16)
        self._folder[name] = values
        self._gguf.add_tensor(gguf_name, values.astype(numpy.float32))

    def add_linear(self, name: str, gguf_name: str, outputs: int, inputs: int) -> None:
        """A weight of about 0.02's deviation: w[n, k] = scale[n, k / 128] · (q[n, k] − 8)."""
        noise = self._random.standard_normal((outputs, inputs), numpy.float32)
        codes = numpy.clip(numpy.rint(8 + 3 * noise), 0, 15).astype(numpy.uint8)
        groups = inputs // GROUP
        scales = self._random.uniform(0.004, 0.009, (outputs, groups)).astype(numpy.float16)
        self._folder[f"{name}.qweight"] = _words_along_inputs(codes)
        self._folder[f"{name}.scales"] = numpy.ascontiguousarray(scales.T)
        self._folder[f"{name}.qzeros"] = numpy.full((groups, outputs // 8), 0x77777777, numpy.int32)  # 8 − 1
        self._folder[f"{name}.g_idx"] = (numpy.arange(inputs) // GROUP).astype(numpy.int32)
        self._gguf.add_tensor(
            f"{gguf_name}.weight",
            _q4_0(codes, numpy.repeat(scales, GROUP // Q4_0_BLOCK, 1)),
            raw_dtype=gguf.GGMLQuantizationType.Q4_0,
        )

    def add_embedding(self) -> None:
        """Q6_K blocks of random codes, of about 0.02's deviation, and the same values in fp16."""
        rows, columns = self._shape.vocab, self._shape.hidden
        blocks = self._random.integers(0, 256, (rows, columns // Q6_K_BLOCK, 210), numpy.uint8)
        # A power of two times integers below 2¹¹ (a scale below 2⁵ times a code of 6 bits): exact in fp16.
        blocks[:, :, 192:208] = self._random.integers(8, 25, blocks[:, :, 192:208].shape, numpy.uint8)
        blocks[:, :, 208:] = numpy.frombuffer(numpy.float16(2.0**-14).tobytes(), numpy.uint8)
        blocks = blocks.reshape(rows, -1)
        kind = gguf.GGMLQuantizationType.Q6_K
        self._gguf.add_tensor("token_embd.weight", blocks, raw_dtype=kind)
        values = numpy.empty((rows, columns), numpy.float16)
        for begin in range(0, rows, _CHUNK_ROWS):
            chunk = slice(begin, begin + _CHUNK_ROWS)
            values[chunk] = gguf.dequantize(blocks[chunk], kind)
        self._folder["model.embed_tokens.weight"] = values

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._folder, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self._shape.hf_config(), indent=2) + "\n")
        finish(self._gguf)


def write_both(shape: Shape, target: Path) -> None:
    """Write `target`/gptq-int4/ and `target`/q4_0.gguf."""
    target.mkdir(parents=True, exist_ok=True)
    files = TwoFiles(shape, target / "q4_0.gguf")
    files.add_embedding()
    for layer in range(shape.layers):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        files.add_vector(
            f"{ours}.input_layernorm.weight", f"{theirs}.attn_norm.weight", 1.0, 0.1, shape.hidden
        )
        files.add_vector(
            f"{ours}.post_attention_layernorm.weight", f"{theirs}.ffn_norm.weight", 1.0, 0.1, shape.hidden
        )
        for name, gguf_name, outputs, inputs in shape.linears():
            files.add_linear(f"{ours}.{name}", f"{theirs}.{gguf_name}", outputs, inputs)
            if gguf_name in ("attn_q", "attn_k", "attn_v"):
                files.add_vector(f"{ours}.{name}.bias", f"{theirs}.{gguf_name}.bias", 0.0, 0.1, outputs)
    # Gains of 4 spread the logits to about 3, as in trained models.
    files.add_vector("model.norm.weight", "output_norm.weight", 4.0, 0.2, shape.hidden)
    files.write(target / "gptq-int4")


def _words_along_inputs(codes: NDArray[numpy.uint8]) -> NDArray[numpy.int32]:
    """(N, K) -> int32 (K / 8, N), the first of eight inputs in the lowest bits."""
    outputs, inputs = codes.shape
    pairs = codes[:, 0::2] | codes[:, 1::2] << 4
    words = pairs.view(numpy.uint32).reshape(outputs, inputs // 8)
    return numpy.ascontiguousarray(words.T).view(numpy.int32)


def _q4_0(codes: NDArray[numpy.uint8], scales: NDArray[numpy.float16]) -> NDArray[numpy.uint8]:
    """Blocks of a fp16 scale and 16 bytes: code i in byte i's lower half, code 16 + i in its upper one."""
    outputs, inputs = codes.shape
    halves = codes.reshape(outputs, inputs // Q4_0_BLOCK, 2, Q4_0_BLOCK // 2)
    nibbles = halves[:, :, 0] | halves[:, :, 1] << 4
    return numpy.concatenate([scales[:, :, None].view(numpy.uint8), nibbles], 2).reshape(outputs, -1)


if __name__ == "__main__":
    write_both(Shape(), Path(sys.argv[1]))
