"""Start-up: checkpoint -> model on meta -> memory divided -> weights -> pages."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.checkpoint.opening import open_checkpoint
from pascaline.core.errors import UnsupportedError
from pascaline.core.progress import ProgressCallback, StageTimes
from pascaline.core.threads import compute_threads
from pascaline.core.units import format_bytes
from pascaline.engine.card import build_kernels, settle_chip
from pascaline.engine.card_runner import CardRunner, graph_sizes
from pascaline.engine.card_sampler import CardSampler
from pascaline.engine.device import settle_device
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.loader import find_weights, load_rope_factors, load_weights, settle_tying
from pascaline.engine.messages import Ready
from pascaline.engine.runner import EagerRunner, RecordedRunner, Runner
from pascaline.engine.sampler import Sampler, SamplerAtOnce
from pascaline.engine.shrinking import least_pages, made_to_fit, weights_must_fit
from pascaline.engine.step_inputs import Sizes
from pascaline.kernels import KERNELS, OPS, Launcher, Policy
from pascaline.kernels.cpu import native
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.kernel import Backend
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.pages import PAGE_SIZE, KeyValueDtype, pages_for
from pascaline.kv.step_batch import StepBatch
from pascaline.layers.decoder import build
from pascaline.models import read_config
from pascaline.plan.memory import MemoryPlan, MemoryRequest, available_bytes, divide
from pascaline.workload.holdings import resident_bytes
from pascaline.workload.limits import most_sampled_rows
from pascaline.workload.told_directory import open_dummy


@dataclass(frozen=True)
class StartedModel:
    """What start-up leaves behind."""

    model_config: ModelConfig
    device: torch.device
    plan: MemoryPlan
    runner: Runner
    sampler: Sampler
    ready: Ready


def _available_bytes(device: torch.device) -> int:
    """Memory that can still be taken: of the card, or of the machine."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return available_bytes()


_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8, "fp32": torch.float32}


def attention_backend(config: ModelConfig, launcher: Launcher, dtype: torch.dtype) -> Backend:
    """Of the kernel that computes attention over a cache as the engine makes it."""
    cache = KeyValueCache(config, 1, dtype, torch.device("meta"))
    query = torch.empty(1, config.num_attention_heads, config.head_dim, device="meta")
    tables = StepBatch.of_sizes(1, 1, 1)
    operands = (
        *(query, cache.keys[0], cache.values[0]),
        *(tables.page_table, tables.query_start, tables.context_lengths),
        *(cache.key_scales[0], cache.value_scales[0]),
    )
    return launcher.kernel_of(OPS["paged_attention"], *operands).backend


def settle_key_value_dtype(
    wanted: KeyValueDtype, config: ModelConfig, launcher: Launcher
) -> tuple[torch.dtype, Backend]:
    """Of the cache, with the backend of the kernel that computes attention over it.

    fp16 halves what a step reads of long contexts; plain torch would have to widen it in memory.

    Raises
    ------
    UnsupportedError : what was asked for is read by plain torch alone.
    """
    dtype = _DTYPES["fp16" if wanted == "auto" else wanted]
    backend = attention_backend(config, launcher, dtype)
    if backend != "torch" or dtype == torch.float32:
        return dtype, backend
    if wanted == "auto":
        return torch.float32, attention_backend(config, launcher, torch.float32)
    raise UnsupportedError(
        f"key_value_dtype {wanted} on {launcher.device.type}, where no attention kernel of ours reads it",
        expected="auto or fp32"
        if wanted == "fp16"
        else "auto, or a card, and heads of a multiple of 8 elements up to 256, for bf16 and int8",
    )


def _attention_notes(config: ModelConfig, kernels: KernelSet | None, backend: Backend) -> list[str]:
    """What a card could do, were the model another."""
    if kernels is None or backend == "cuda":
        return []
    return [
        "plain torch computes attention and samples, without graphs and several times slower: this version's "
        f"kernels take heads of a multiple of 8 elements up to 256, and the model's have {config.head_dim}"
    ]


def _kernel_notes(config: EngineConfig, device: torch.device) -> list[str]:
    """What the CPU could do and does not."""
    if device.type != "cpu" or config.arithmetic == "fp32":
        return []
    found = native.library()
    if isinstance(found, str):
        return [f"plain torch computes, several times slower than native kernels: {found}"]
    return [f"slower kernels are used ({found.name}): {reason}" for reason in found.passed_over]


def _departures(plan: MemoryPlan, resident: int) -> list[str]:
    """Where weights took more than their checkpoint's directory let expect."""
    more = resident - plan.weights_bytes
    if more <= 0:
        return []
    return [
        f"weights take {format_bytes(resident)}, {format_bytes(more)} more than planned: they are not as "
        "symmetric as the model's quantization_config says"
    ]


def start(config: EngineConfig, report: ProgressCallback) -> StartedModel:
    """Open, plan, load and allocate.

    Raises
    ------
    PascalineError : with the reason, before anything large is allocated where possible.
    """
    began = time.monotonic()
    times = StageTimes(report)
    device, device_notes = settle_device(config.device)
    is_dummy = config.load_format == "dummy"
    checkpoint = (open_dummy if is_dummy else open_checkpoint)(Path(config.model_path))
    try:
        model_config = settle_tying(read_config(checkpoint.hf_config, checkpoint.container), checkpoint)
        chip, kernels, card_notes = settle_chip(device)
        launcher = Launcher(Policy(chip, KERNELS, config.arithmetic), kernels)
        model = build(model_config, launcher)
        weights = find_weights(model, checkpoint)
        key_value_dtype, backend = settle_key_value_dtype(config.key_value_dtype, model_config, launcher)
        is_native = backend == "native"
        linear = launcher.kernel_of(OPS["linear"])
        held = [item for found in weights for item in found.held()]
        plan = divide(
            model_config,
            MemoryRequest(
                device_kind="cuda" if device.type == "cuda" else "cpu",
                available_bytes=_available_bytes(device),
                utilization=config.gpu_memory_utilization,
                weights_bytes=resident_bytes(held, linear.layout),
                max_batch_tokens=config.max_batch_tokens,
                max_sequences=config.max_sequences,
                max_model_len=config.max_model_len,
                pages=config.pages,
                key_value_element_bytes=key_value_dtype.itemsize,
                held=held,
                native_threads=compute_threads() if is_native else 0,
                has_card_kernels=backend == "cuda",
            ),
        )
        rope_factors = load_rope_factors(checkpoint, model_config.rotary_dimensions // 2)
        with weights_must_fit(plan):
            model.rotary.build(plan.max_model_len, rope_factors)
            resident = load_weights(model, checkpoint, weights, device, linear.prepare, times)
    finally:
        checkpoint.close()
    if kernels is not None:
        torch.cuda.synchronize(device)  # linears read weights before they wait for launches before them

    def running(plan: MemoryPlan) -> tuple[Runner, Sampler, int]:
        """What computes steps, with the cache's bytes."""
        cache = KeyValueCache(model_config, plan.pages, key_value_dtype, device, for_native=is_native)
        rows = most_sampled_rows(config.max_batch_tokens, config.max_sequences)
        largest = Sizes(config.max_batch_tokens, config.max_sequences, rows)
        pages = pages_for(plan.max_model_len)
        if is_native:
            batch = StepBatch.of_sizes(config.max_batch_tokens, config.max_sequences, pages)
            return RecordedRunner(model, launcher, cache, batch), SamplerAtOnce(), cache.bytes
        if kernels is not None:
            graphs = graph_sizes(largest, drafts=config.speculation == "auto")
            build_kernels(model, cache, launcher, kernels, largest, graphs, pages, times)
        if kernels is None or backend != "cuda":
            return EagerRunner(model, cache, device), SamplerAtOnce(), cache.bytes
        sampler = CardSampler(kernels, rows, model_config.vocab_size)
        runner = CardRunner(model, launcher, cache, kernels, sampler.ids, largest, graphs, pages, times)
        return runner, sampler, cache.bytes

    (runner, sampler, cache_bytes), plan = made_to_fit(plan, least_pages(config, plan), running)
    if kernels is not None:
        card_notes += kernels.notes
    ready = Ready(
        device=str(device),
        max_model_len=plan.max_model_len,
        vocab_size=model_config.vocab_size,
        eos_token_ids=list(model_config.eos_token_ids),
        page_size=PAGE_SIZE,
        pages=plan.pages,
        max_sequences=config.max_sequences,
        max_batch_tokens=config.max_batch_tokens,
        weights_bytes=resident,
        kv_bytes=cache_bytes,
        load_s=time.monotonic() - began,
        stages=times.stages,
        notes=[
            *(["weights are made up, and so is every answer: load_format is dummy"] if is_dummy else []),
            *plan.notes,
            *_departures(plan, resident),
            *_kernel_notes(config, device),
            *device_notes,
            *_attention_notes(model_config, kernels, backend),
            *card_notes,
        ],
    )
    return StartedModel(model_config, device, plan, runner, sampler, ready)
