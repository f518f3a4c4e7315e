"""pascaline generate: continue one prompt."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pascaline.cli.interrupts import uninterrupted
from pascaline.cli.options import (
    Arithmetic,
    ArithmeticOption,
    Device,
    DeviceOption,
    GpuMemoryUtilizationOption,
    JsonOption,
    LoadFormat,
    LoadFormatOption,
    MaxModelLenOption,
    MaxTokensOption,
    ModelArgument,
    SeedOption,
    Speculation,
    SpeculationOption,
    TemperatureOption,
    TopPOption,
)
from pascaline.cli.output import print_json
from pascaline.cli.progress_bars import ProgressBars
from pascaline.cli.start_up import describe_stages, is_worth_telling

if TYPE_CHECKING:
    from pascaline.llm.offline import LLM
    from pascaline.llm.outputs import RequestResult


def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option(help="text to continue")],
    chat: Annotated[bool, typer.Option("--chat", help="treat the prompt as a user's message")] = False,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = None,
    max_tokens: MaxTokensOption = 128,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="go on past the model's end token")
    ] = False,
    logprobs: Annotated[
        int | None, typer.Option(min=0, help="with --json: log-probabilities, and this many alternatives")
    ] = None,
    device: DeviceOption = Device.auto,
    max_model_len: MaxModelLenOption = None,
    gpu_memory_utilization: GpuMemoryUtilizationOption = 0.9,
    arithmetic: ArithmeticOption = Arithmetic.auto,
    load_format: LoadFormatOption = LoadFormat.auto,
    speculation: SpeculationOption = Speculation.auto,
    as_json: JsonOption = False,
) -> None:
    """Continue PROMPT and print the text, or everything about it with --json."""
    # torch takes a second to import: --help must not wait for it.
    with uninterrupted():
        from pascaline.engine.sampling_params import SamplingParams
        from pascaline.llm.offline import LLM

    params = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        max_tokens=max_tokens,
        ignore_eos=ignore_eos,
        logprobs=logprobs,
    )
    with ProgressBars() as report:
        llm = LLM(
            model,
            device=device.value,
            max_model_len=max_model_len,
            gpu_memory_utilization=gpu_memory_utilization,
            arithmetic=arithmetic.value,
            load_format=load_format.value,
            speculation=speculation.value,
            max_sequences=1,
            report=report,
        )
    if is_worth_telling(llm.ready):
        sys.stderr.write(f"loaded in {llm.ready.load_s:.1f} s: {describe_stages(llm.ready)}\n")
    token_ids = (
        llm.text.encode_chat([{"role": "user", "content": prompt}]) if chat else llm.text.encode(prompt)
    )
    if as_json:
        [result] = llm.generate([token_ids], params)
        print_json(_describe(llm, model, result))
        return
    for delta in llm.stream(token_ids, params):
        sys.stdout.write(delta.text)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _describe(llm: LLM, model: str, result: RequestResult) -> dict[str, object]:
    """The contract's JSON object. `peak_bytes` is the process's (on CUDA: the device's) peak."""
    [completion] = result.completions
    decoded = len(completion.token_ids) - 1
    logprobs = None
    if completion.logprobs is not None:
        logprobs = [
            {"token_id": item.token_id, "logprob": item.logprob, "top": item.top_logprobs}
            for item in completion.logprobs
        ]
    ready = llm.ready
    return {
        "model": model,
        "device": ready.device,
        "prompt_token_ids": result.prompt_token_ids,
        "token_ids": completion.token_ids,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "logprobs": logprobs,
        "timing": {
            "load_s": ready.load_s,
            "prefill_s": result.prefill_s,
            "decode_s": result.decode_s,
            "prefill_tokens_per_s": len(result.prompt_token_ids) / result.prefill_s,
            "decode_tokens_per_s": decoded / result.decode_s if decoded > 0 else None,
        },
        "memory": {
            "weights_bytes": ready.weights_bytes,
            "kv_bytes": ready.kv_bytes,
            "peak_bytes": llm.peak_bytes(),
        },
    }
