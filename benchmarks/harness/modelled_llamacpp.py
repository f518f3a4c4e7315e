"""llama.cpp's speed on a Tesla P40 as the timing model has it, against what was published of the same
version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from recording import Recording, record
from timing_model import Card, Kernel, Wave, occupancy, simulate_wave

from harness.llamacpp_kernels import LlamaFormat, compile_kernels
from pascaline.hardware.gpus import find_gpu
from pascaline.kernels.cuda.specialisation import Dimensions, Integer, LaunchPlan, Specialisation

LAYERS = 32
MATRICES = ((4096, 4096, 4), (4096, 11008, 2), (11008, 4096, 1))
"""Llama-2-7B, a layer: inputs, outputs, and how many."""

HEAD_BYTES = 4096 * 32000 * 210 // 256
"""The output matrix, in Q6_K whatever the model's format; it is only counted as bytes in decoding."""

PROMPT_TOKENS = 512
_TILE = 64
_TILES_ALONG_TOKENS = PROMPT_TOKENS // _TILE
_TILED_COLUMNS, _TILED_THREADS = (512, 1024), 256
_VECTOR_COLUMNS, _VECTOR_THREADS = (2048, 4096), 32
_PADDING = 512
_INPUT_BLOCK, _INPUT_BLOCK_BYTES = 32, 36


@dataclass(frozen=True)
class LlamaTimes:
    """Seconds of all of the layers' matrix products: of a prompt of 512 tokens, and of one token."""

    form: LlamaFormat
    prefill_s: float
    decode_s: float


def tesla_p40() -> Card:
    """At its highest clock."""
    gpu = find_gpu("Tesla P40")
    return Card(gpu, gpu.max_mhz)


def model_llamacpp(distribution: Path, form: LlamaFormat) -> LlamaTimes:
    """Compile a format's kernels, and model them.

    Raises
    ------
    UnsupportedError, CompileError : see `compile_kernels`.
    """
    card = tesla_p40()
    kernels = compile_kernels(distribution, form)
    tiled, vector = _tiled_wave(kernels.tiled, form, card), _vector_wave(kernels.vector, form, card)
    prefill_s = _products_s(tiled, lambda outputs: -(-outputs // _TILE) * _TILES_ALONG_TOKENS, card)
    decode_s = _products_s(vector, lambda outputs: outputs, card)
    return LlamaTimes(form, LAYERS * prefill_s, LAYERS * decode_s + card.read_s(HEAD_BYTES))


def _vector_wave(kernel: Kernel, form: LlamaFormat, card: Card) -> Wave:
    """Blocks of a warp, which makes one output."""
    resident = occupancy(kernel, _VECTOR_THREADS, 0).blocks

    def recorded(columns: int) -> Recording:
        plan = _plan(kernel, (resident, 1, 1), (_VECTOR_THREADS, 1, 1), (columns, resident))
        shares = {"weights": 1.0, "inputs": 1 / card.gpu.sms, "y": 1.0}
        return record(plan, _buffers(form, columns, resident, 1), kernel.code, shares)

    return simulate_wave(
        kernel, resident, [(columns, recorded(columns)) for columns in _VECTOR_COLUMNS], card
    )


def _tiled_wave(kernel: Kernel, form: LlamaFormat, card: Card) -> Wave:
    """Blocks of 256 threads, each of which makes 64 × 64 outputs."""
    resident = occupancy(kernel, _TILED_THREADS, 0).blocks
    outputs = resident * _TILE

    def recorded(columns: int) -> Recording:
        sizes = (columns, outputs, _TILE, columns, outputs)
        plan = _plan(kernel, (resident, 1, 1), (32, _TILED_THREADS // 32, 1), sizes)
        shares = {"weights": 1 / _TILES_ALONG_TOKENS, "inputs": 1 / card.gpu.sms, "y": 1.0}
        return record(plan, _buffers(form, columns, outputs, _TILE), kernel.code, shares)

    return simulate_wave(kernel, resident, [(each, recorded(each)) for each in _TILED_COLUMNS], card)


def _products_s(wave: Wave, blocks_of: Callable[[int], int], card: Card) -> float:
    """All of a layer's matrices, whose blocks `blocks_of` gives by their outputs."""
    return sum(
        count * wave.modelled(columns, -(-blocks_of(outputs) // card.gpu.sms), card).time_s
        for columns, outputs, count in MATRICES
    )


def _plan(kernel: Kernel, grid: Dimensions, block: Dimensions, sizes: tuple[int, ...]) -> LaunchPlan:
    specialisation = Specialisation("", kernel.code.name, ())
    return LaunchPlan(specialisation, grid, block, ("weights", "inputs", "y", *map(Integer, sizes)))


def _buffers(form: LlamaFormat, columns: int, rows: int, tokens: int) -> dict[str, np.ndarray]:
    padded = -(-columns // _PADDING) * _PADDING  # the last trip over a row reads on
    weights = np.zeros((rows * columns + padded) // form.block * form.block_bytes, np.uint8)
    inputs = np.zeros(tokens * padded // _INPUT_BLOCK * _INPUT_BLOCK_BYTES, np.uint8)
    weights.flags.writeable = inputs.flags.writeable = False
    return {"weights": weights, "inputs": inputs, "y": np.zeros(rows * tokens, np.float32)}
