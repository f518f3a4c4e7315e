"""Qwen2.5-7B's shapes in Q4_0 with random weights, as GGUFs that llama.cpp's benchmarks read, in seconds.

    cd benchmarks && python -m harness.random_q4_0 FOLDER [--layers N]

Writes FOLDER/q4_0-fp16-head.gguf (head and embeddings in fp16, as GPTQ leaves them) and
FOLDER/q4_0-q6_k-head.gguf (the head in Q6_K and the embeddings in Q4_0, as llama.cpp's quantiser does), 5.8
and 4.3 GB. Blocks are drawn once, 32 MB of each type, and every tensor repeats them. On the card each
tensor is memory of its own, so what is read is what a real model reads: speeds can be measured on these
files, and nothing else.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import gguf
import numpy
from numpy.typing import NDArray

from harness.random_model import Q4_0_BLOCK, Q6_K_BLOCK, QWEN_7B, Shape, finish, new_writer

FP16_HEAD, Q6_K_HEAD = "q4_0-fp16-head.gguf", "q4_0-q6_k-head.gguf"

_POOL_BYTES = 32 << 20
_Q4_0, _Q6_K = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q6_K


class Pools:
    """Random rows of any length, taken from few bytes."""

    def __init__(self) -> None:
        self._random = numpy.random.default_rng(0)
        self._blocks = {_Q4_0: self._q4_0(_POOL_BYTES // 18), _Q6_K: self._q6_k(_POOL_BYTES // 210)}
        self._halves = (self._random.standard_normal(_POOL_BYTES // 2, numpy.float32) / 50).astype(
            numpy.float16
        )

    def quantised(self, kind: gguf.GGMLQuantizationType, outputs: int, inputs: int) -> NDArray[numpy.uint8]:
        """uint8 (outputs, bytes of a row)."""
        size = inputs // (Q4_0_BLOCK if kind == _Q4_0 else Q6_K_BLOCK) * outputs
        blocks = self._blocks[kind]
        return numpy.resize(blocks, (size, blocks.shape[1])).reshape(outputs, -1)

    def halves(self, outputs: int, inputs: int) -> NDArray[numpy.float16]:
        return numpy.resize(self._halves, (outputs, inputs))

    def _q4_0(self, count: int) -> NDArray[numpy.uint8]:
        blocks = self._random.integers(0, 256, (count, 18), numpy.uint8)
        scales = self._random.uniform(0.002, 0.006, count).astype(numpy.float16)
        blocks[:, :2] = scales.view(numpy.uint8).reshape(count, 2)
        return blocks

    def _q6_k(self, count: int) -> NDArray[numpy.uint8]:
        blocks = self._random.integers(0, 256, (count, 210), numpy.uint8)
        blocks[:, 192:208] = self._random.integers(8, 25, (count, 16), numpy.uint8)
        blocks[:, 208:] = numpy.frombuffer(numpy.float16(2.0**-14).tobytes(), numpy.uint8)
        return blocks


def write(shape: Shape, target: Path, pools: Pools, *, has_fp16_head: bool) -> None:
    """The GGUF `target` of an untied model."""
    writer = new_writer(shape, target)
    hidden = shape.hidden
    if has_fp16_head:
        for name in ("token_embd", "output"):
            writer.add_tensor(f"{name}.weight", pools.halves(shape.vocab, hidden))
    else:
        embeddings = pools.quantised(_Q4_0, shape.vocab, hidden)
        writer.add_tensor("token_embd.weight", embeddings, raw_dtype=_Q4_0)
        writer.add_tensor("output.weight", pools.quantised(_Q6_K, shape.vocab, hidden), raw_dtype=_Q6_K)
    gains = numpy.ones(hidden, numpy.float32)
    writer.add_tensor("output_norm.weight", gains)
    for layer in range(shape.layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", gains)
        for _, name, outputs, inputs in shape.linears():
            weight = pools.quantised(_Q4_0, outputs, inputs)
            writer.add_tensor(f"blk.{layer}.{name}.weight", weight, raw_dtype=_Q4_0)
            if name in ("attn_q", "attn_k", "attn_v"):
                writer.add_tensor(f"blk.{layer}.{name}.bias", numpy.zeros(outputs, numpy.float32))
    finish(writer)


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=QWEN_7B.layers)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    shape = replace(QWEN_7B, layers=given.layers)
    pools = Pools()
    for name, has_fp16_head in ((FP16_HEAD, True), (Q6_K_HEAD, False)):
        write(shape, given.folder / name, pools, has_fp16_head=has_fp16_head)
        print(f"{given.folder / name}: {(given.folder / name).stat().st_size / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
