"""pascaline chat: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

from pascaline.cli.interrupts import uninterrupted
from pascaline.cli.options import (
    Arithmetic,
    ArithmeticOption,
    Device,
    DeviceOption,
    GpuMemoryUtilizationOption,
    MaxModelLenOption,
    MaxTokensOption,
    ModelArgument,
    SeedOption,
    TemperatureOption,
    TopPOption,
)
from pascaline.cli.progress_bars import ProgressBars
from pascaline.core.errors import ConfigError

if TYPE_CHECKING:
    from pascaline.engine.sampling_params import SamplingParams
    from pascaline.llm.offline import LLM


def chat(
    model: ModelArgument,
    temperature: TemperatureOption = 0.7,
    top_p: TopPOption = 0.95,
    seed: SeedOption = None,
    max_tokens: MaxTokensOption = None,
    device: DeviceOption = Device.auto,
    max_model_len: MaxModelLenOption = None,
    gpu_memory_utilization: GpuMemoryUtilizationOption = 0.9,
    arithmetic: ArithmeticOption = Arithmetic.auto,
) -> None:
    """Talk to MODEL. Ctrl-C stops an answer, Ctrl-D ends the conversation."""
    # torch takes a second to import: --help must not wait for it.
    with uninterrupted():
        from pascaline.engine.sampling_params import SamplingParams
        from pascaline.llm.offline import LLM

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() its editing keys and history

    params = SamplingParams(temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens)
    with ProgressBars() as report:
        llm = LLM(
            model,
            device=device.value,
            max_model_len=max_model_len,
            gpu_memory_utilization=gpu_memory_utilization,
            arithmetic=arithmetic.value,
            max_sequences=1,
            report=report,
        )
    sys.stderr.write(
        f"{model} on {llm.ready.device}. /new starts over, Ctrl-C stops an answer, Ctrl-D ends.\n"
    )
    messages: list[dict[str, object]] = []
    while True:
        try:
            question = input("\n> ").strip()
        except EOFError:
            sys.stdout.write("\n")
            return
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            continue
        if question == "/new":
            messages = []
            continue
        if not question:
            continue
        messages.append({"role": "user", "content": question})
        try:
            answer = _answer(llm, messages, params)
        except ConfigError as error:
            # A conversation that has grown too long must not be lost with the program.
            sys.stderr.write(f"pascaline: {error}\n")
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": answer})


def _answer(llm: LLM, messages: list[dict[str, object]], params: SamplingParams) -> str:
    """Print an answer as it comes; returns its text, also when it was stopped."""
    deltas = llm.stream(llm.text.encode_chat(messages), params)
    began = time.monotonic()
    first: float | None = None
    pieces: list[str] = []
    tokens = 0
    try:
        for delta in deltas:
            first = first or time.monotonic()
            tokens += 1
            pieces.append(delta.text)
            sys.stdout.write(delta.text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stdout.write(" [stopped]")
    finally:
        deltas.close()
    sys.stdout.write("\n")
    if first is not None and tokens > 1:
        rate = (tokens - 1) / (time.monotonic() - first)
        sys.stderr.write(f"[{tokens} tokens, {rate:.1f} tokens/s, first after {first - began:.2f} s]\n")
    return "".join(pieces)
