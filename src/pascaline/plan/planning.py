"""A plan: whether a model fits a device, how fast it will be there, and what decides both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import ConfigError, UnknownGpuError
from pascaline.core.units import format_bytes, format_number
from pascaline.hardware.cpu import Cpu, probe_cpu, why_plain_torch
from pascaline.hardware.estimate import identify
from pascaline.hardware.gpus import Gpu, find_gpu
from pascaline.hardware.measured import MeasuredRates, load_measured
from pascaline.hardware.probe import InstalledGpu, installed_gpus
from pascaline.kv.pages import KEY_VALUE_BYTES, KeyValueDtype
from pascaline.models import read_config
from pascaline.plan.chips import cpu_chip, gpu_chip, gpu_own_chip
from pascaline.plan.latency import Model, Prediction, predict_decode, predict_prefill
from pascaline.plan.memory import (
    MAX_CPU_CONTEXTS,
    MIN_USEFUL_CONTEXT,
    MemoryPlan,
    available_bytes,
    refuse_long_context,
)
from pascaline.plan.placement import STEP_TOKENS, Device, Placement
from pascaline.plan.what_ifs import Remedy, card_bytes, form_named, in_format, remedies
from pascaline.workload.arithmetic import Chip
from pascaline.workload.holdings import held_weights, settled_tying
from pascaline.workload.told_directory import without_data

TYPICAL_CONTEXT = 512
"""Tokens of prompt and context that speeds are told for, where none are asked for."""
_MOST_USERS = 4096


@dataclass(frozen=True)
class Question:
    """What is asked; None means what the engine would settle.

    `gpu` is a card's name or "cpu"; without it, the installed card, else the CPU.
    """

    gpu: str | None = None
    context: int | None = None
    concurrency: int = 1
    key_value_dtype: KeyValueDtype = "auto"
    weight_format: str | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("context", self.context, 2), ("concurrency", self.concurrency, 1)):
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}", expected=f"at least {least}")
        if self.concurrency > _MOST_USERS:
            raise ConfigError(f"concurrency is {self.concurrency}", expected=f"at most {_MOST_USERS}")


@dataclass(frozen=True)
class Target:
    """The device that is planned for, and the chip's speeds; exactly one of `gpu` and `cpu` is set."""

    device: Device
    chip: Chip
    gpu: Gpu | None = None
    cpu: Cpu | None = None
    measured: MeasuredRates | None = None


@dataclass(frozen=True)
class Plan:
    """The answer.

    Parameters
    ----------
    memory : for every sequence at `context`; `max_context` is one sequence's.
    context : asked for, or the model's own, or what fits.
    concurrent_users : sequences of `context` that fit at once.
    speed_context : that both predictions are for: the prompt's length, and the context of decoding.
    decode : a step of all sequences.
    """

    target: Target
    placement: Placement
    memory: MemoryPlan
    fits: bool
    context: int
    max_context: int
    concurrent_users: int
    speed_context: int
    prefill: Prediction
    decode: Prediction
    remedies: tuple[Remedy, ...]
    notes: tuple[str, ...]


def make_plan(checkpoint: Checkpoint, question: Question, tell: Callable[[str], None]) -> Plan:
    """Plan a model, of which only settings and directory are read, or settings alone where it has no weights.

    Parameters
    ----------
    tell : receives a sentence where saved measurements are passed over.

    Raises
    ------
    ConfigError : a context longer than the model's, a format that there is not.
    UnknownGpuError : no card of that name.
    UnsupportedError, CheckpointError : as `read_config` and `held_weights` do.
    """
    described = without_data(checkpoint)
    config = settled_tying(read_config(described.hf_config, described.container), described)
    held = held_weights(described, config)
    if question.context is not None:
        refuse_long_context(config, question.context)
    if question.weight_format is not None:
        held = in_format(held, form_named(question.weight_format))
    target = find_target(question.gpu, tell)
    element_bytes = _element_bytes(question.key_value_dtype, target.device)
    placement = Placement(config, held, target.device, element_bytes, question.concurrency)
    longest = placement.longest_context()
    context = question.context or longest or min(config.context_length, MIN_USEFUL_CONTEXT)
    fits = placement.fits(context)
    one = replace(placement, sequences=1)
    speed_context = question.context or min(TYPICAL_CONTEXT, context)
    model = Model(config, held, element_bytes)
    prefill = predict_prefill(model, target.chip, speed_context, STEP_TOKENS)
    decode = predict_decode(model, target.chip, question.concurrency, speed_context)
    return Plan(
        target=target,
        placement=placement,
        memory=placement.at(context),
        fits=fits,
        context=context,
        max_context=longest if question.concurrency == 1 else one.longest_context(),
        concurrent_users=one.most_sequences(context, _MOST_USERS),
        speed_context=speed_context,
        prefill=prefill,
        decode=decode,
        remedies=() if fits else tuple(remedies(placement, context)),
        notes=(
            *_told_notes(checkpoint),
            *_notes(question, target, placement, model, speed_context),
            *_pool_notes(placement, context),
        ),
    )


def find_target(name: str | None, tell: Callable[[str], None]) -> Target:
    """The device that a name means: a card, installed or not, or this machine's processor.

    Raises
    ------
    UnknownGpuError : no card is called that.
    """
    if name is not None and name.lower() == "cpu":
        return _cpu_target(tell)
    installed = [(card, gpu) for card in installed_gpus().gpus if (gpu := _identified(card)) is not None]
    if name is None:
        return _gpu_target(installed[0][1], installed[0][0], tell) if installed else _cpu_target(tell)
    gpu = find_gpu(name)
    here = next((card for card, known in installed if known.name == gpu.name), None)
    return _gpu_target(gpu, here, tell)


def _identified(card: InstalledGpu) -> Gpu | None:
    try:
        return identify(card)
    except UnknownGpuError:
        return None


def _gpu_target(gpu: Gpu, here: InstalledGpu | None, tell: Callable[[str], None]) -> Target:
    free = None if here is None else here.free_memory_bytes
    measured = None if here is None else load_measured(here.name, tell)
    device = Device(gpu.name, "cuda", free or card_bytes(gpu), is_free_now=bool(free))
    return Target(device, gpu_chip(gpu, measured), gpu=gpu, measured=measured)


def _cpu_target(tell: Callable[[str], None]) -> Target:
    cpu = probe_cpu(tell)
    native_threads = cpu.threads if cpu.instructions is not None else 0
    device = Device("cpu", "cpu", available_bytes(), is_free_now=True, native_threads=native_threads)
    return Target(device, cpu_chip(cpu), cpu=cpu, measured=cpu.measured)


def _element_bytes(wanted: KeyValueDtype, device: Device) -> int:
    """As `engine.start.settle_key_value_dtype`: fp16 where the attention kernel reads it."""
    if wanted == "auto":
        wanted = "fp16" if device.is_native or device.kind == "cuda" else "fp32"
    return KEY_VALUE_BYTES[wanted]


def _told_notes(checkpoint: Checkpoint) -> Sequence[str]:
    """Where weights are planned for that are not there."""
    if checkpoint.tensors:
        return []
    return [f"{checkpoint.path.name} has no weights: planned as its config.json tells of them"]


def _notes(question: Question, target: Target, placement: Placement, model: Model, context: int) -> list[str]:
    notes: list[str] = []
    spread = f"± {100 * target.chip.spread:.0f} %"
    if target.gpu is not None:
        notes += _card_notes(target, target.gpu, model, context, spread)
    elif target.cpu is not None:
        notes.append(
            f"speeds are modelled, {spread}, from {target.cpu.bytes_per_s / 1e9:.0f} GB/s and "
            f"{target.cpu.operations_per_s['fp32'] / 1e9:.0f} GFLOP/s in fp32, which were measured now"
            + ("" if target.measured is None else "; linears as `bench gemm --save` measured them")
        )
        if target.cpu.instructions is None:
            notes.append(f"plain torch computes, slower than native kernels: {why_plain_torch()}")
    kept = ("auto", "fp32", "fp16") if placement.device.is_native else ("auto", "fp32")
    if target.gpu is None and question.key_value_dtype not in kept:
        wanted = question.key_value_dtype
        notes.append(f"this version keeps no keys and values in {wanted} here: {wanted} is a what-if")
    if question.weight_format is not None:
        notes.append(
            f"a what-if: the layers' linears in {form_named(question.weight_format).type_name}, "
            "all else as it is"
        )
    return notes


def _pool_notes(placement: Placement, context: int) -> Sequence[str]:
    """Where the engine's pool of pages is another than what was planned for."""
    if placement.device.kind != "cpu" or placement.sequences == MAX_CPU_CONTEXTS:
        return []
    if placement.sequences > MAX_CPU_CONTEXTS:
        return [
            f"the engine takes pages for at most {MAX_CPU_CONTEXTS} full contexts on the CPU; this plan is "
            f"for {placement.sequences}"
        ]
    most_bytes = replace(placement, sequences=MAX_CPU_CONTEXTS).at(context).kv_bytes
    return [
        f"`pascaline serve` takes pages for up to {MAX_CPU_CONTEXTS} contexts where memory allows, "
        f"{format_bytes(most_bytes)} at {context} tokens each: --concurrency {MAX_CPU_CONTEXTS} plans them"
    ]


def _card_notes(target: Target, gpu: Gpu, model: Model, context: int, spread: str) -> Sequence[str]:
    notes = [f"speeds are modelled, {spread}: the card's limits, and the shares of them that engines reach"]
    if target.measured is not None:
        notes[0] = f"speeds are modelled, {spread}, at the clock that `bench gemm --save` found"
    own = gpu_own_chip(gpu, target.measured)
    decode = predict_decode(model, own, 1, context).tokens_per_s
    prefill = predict_prefill(model, own, context, STEP_TOKENS).tokens_per_s
    notes.append(
        "with the arithmetic that this version's own kernels have: modelled at "
        f"{format_number(decode)} tokens/s of one sequence and {format_number(prefill)} of a prompt"
    )
    if gpu.is_estimated:
        notes.append(f"{gpu.name} is not in the table: its limits are estimated")
    return notes
