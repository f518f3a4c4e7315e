"""What an engine allocates is what its plan says: weights and pages to the byte, the rest within it."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest
from native_libraries import NEEDS_LIBRARY
from quantised_checkpoints import Recipe, Settings, write_quantised
from stepped_model import Part, SteppedModel
from test_tiny_models import tokens
from tiny_checkpoints import random_model, write_gguf

from pascaline.checkpoint.opening import open_checkpoint
from pascaline.core.threads import compute_threads
from pascaline.engine.loader import find_weights
from pascaline.engine.runner import RecordedRunner
from pascaline.kernels.cpu.native_kernel import Launch
from pascaline.kernels.cpu.views import Step
from pascaline.models import FAMILIES
from pascaline.plan.activations import native_bytes
from pascaline.plan.memory import RUNTIME_BYTES
from pascaline.workload.arena import arena_bytes
from pascaline.workload.holdings import HeldWeight

TINY = {name: family.tiny for name, family in FAMILIES.items()}
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}


class Room(ctypes.Structure):
    """kernel.h: scratch memory of all threads together, and of each."""

    _fields_ = (("shared", ctypes.c_int64), ("own", ctypes.c_int64))


class NativeKernel(ctypes.Structure):
    """kernel.h."""

    _fields_ = (
        ("run", ctypes.c_void_p),
        ("room", ctypes.CFUNCTYPE(Room, ctypes.POINTER(Launch), ctypes.POINTER(Step), ctypes.c_int)),
        ("row", ctypes.c_void_p),
    )


def scratch_bytes(runner: RecordedRunner, step: Step, threads: int) -> int:
    """What the library takes for a step, as `pascaline_run` adds it up."""
    shared = own = 0
    for launch in runner.program._launches:
        room = NativeKernel.from_address(launch.kernel).room(launch, step, threads)
        shared, own = max(shared, -(-room.shared // 64) * 64), max(own, -(-room.own // 64) * 64)
    return shared + threads * own


def held_of(path: Path, stepped: SteppedModel) -> list[HeldWeight]:
    checkpoint = open_checkpoint(path)
    runner = stepped.started.runner
    assert isinstance(runner, RecordedRunner)
    held = [item for found in find_weights(runner.model, checkpoint) for item in found.held()]
    checkpoint.close()
    return held


def write(name: str, folder: Path) -> Path:
    family, _, form = name.partition(" ")
    if form in ("", "gptq"):
        model = random_model(TINY[family])
        model.save_pretrained(folder)
        if form == "gptq":
            write_quantised(folder, model, Recipe("gptq", Settings(4, 16, symmetric=False)))
        return folder
    path = folder / "model.gguf"
    write_gguf(path, random_model(replace(TINY[family], **WIDE)), form)
    return path


@NEEDS_LIBRARY
@pytest.mark.parametrize("name", [*TINY, "llama Q4_K", "qwen2 Q8_0", "gemma2 Q6_K", "qwen3 gptq"])
def test_an_engine_takes_what_is_planned(name: str, tmp_path: Path) -> None:
    path = write(name, tmp_path)
    stepped = SteppedModel(path, pages=80, arithmetic="auto", max_model_len=200)
    plan, ready, runner = stepped.started.plan, stepped.started.ready, stepped.started.runner
    assert isinstance(runner, RecordedRunner)
    assert ready.weights_bytes == plan.weights_bytes
    caches = [*runner.cache.keys, *runner.cache.values]
    assert sum(tensor.nbytes for tensor in caches) == ready.kv_bytes == plan.kv_bytes
    assert plan.runtime_bytes == RUNTIME_BYTES["cpu"] + plan.weights_bytes // 64

    config, threads = stepped.started.model_config, compute_threads()
    held = held_of(path, stepped)
    planned = native_bytes(config, 512, 64, 200, held, threads)
    assert planned == plan.activation_bytes
    counts = (200, 200, 112)  # as many tokens as a step takes
    parts = [Part(tokens(count, config.vocab_size), stepped.pages_for(count)) for count in counts]
    stepped.step(*parts)
    rotary = sum(table.nbytes for tables in runner.model.rotary._tables for table in tables)
    taken = scratch_bytes(runner, Step(512, 3, 512), threads)
    assert arena_bytes(config, 512, 512, held) == runner.program.activation_bytes
    rest = 2 * 4 * 64 * config.vocab_size + 2 * (32 * 512 + 4 * 64 * 15)
    # What no model as narrow as these has much of: room for candidates, and for spans that are shared.
    assert 0 <= planned - runner.program.activation_bytes - rotary - rest - taken <= 1 << 20


@NEEDS_LIBRARY
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("contexts", [(4000,), (3000, 5, 5), (4000, 4000, 4000, 4000), (60, 60, 4000)])
def test_scratch_memory_of_decoding_is_within_the_plan(
    contexts: tuple[int, ...], threads: int, tmp_path: Path
) -> None:
    config = replace(TINY["llama"], max_position_embeddings=4096)
    random_model(config).save_pretrained(tmp_path)
    stepped = SteppedModel(tmp_path, pages=4096 // 4, arithmetic="auto")
    runner = stepped.started.runner
    assert isinstance(runner, RecordedRunner)
    stepped.step(*(Part([7], stepped.pages_for(context), context - 1) for context in contexts))
    held = held_of(tmp_path, stepped)
    planned = native_bytes(config, 512, 64, 4096, held, threads)
    count = len(contexts)
    taken = scratch_bytes(runner, Step(count, count, count), threads)
    assert runner.program.activation_bytes + taken <= planned
