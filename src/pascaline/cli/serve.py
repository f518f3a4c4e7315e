"""pascaline serve: the OpenAI API and a chat page."""

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
    KeyValueOption,
    KeyValueType,
    LoadFormat,
    LoadFormatOption,
    MaxModelLenOption,
    ModelArgument,
    Speculation,
    SpeculationOption,
)
from pascaline.cli.progress_bars import ProgressBars
from pascaline.cli.start_up import describe_stages
from pascaline.core.units import format_bytes

if TYPE_CHECKING:
    from pascaline.engine.messages import Ready


def serve(
    model: ModelArgument,
    host: Annotated[
        str, typer.Option(help="address to listen on; 0.0.0.0 for the whole network")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0 for any free one")] = 8000,
    api_key: Annotated[str | None, typer.Option(help="key that clients must send")] = None,
    device: DeviceOption = Device.auto,
    max_model_len: MaxModelLenOption = None,
    gpu_memory_utilization: GpuMemoryUtilizationOption = 0.9,
    arithmetic: ArithmeticOption = Arithmetic.auto,
    kv_dtype: KeyValueOption = KeyValueType.auto,
    load_format: LoadFormatOption = LoadFormat.auto,
    speculation: SpeculationOption = Speculation.auto,
    max_batch_tokens: Annotated[int, typer.Option(min=1, help="most new tokens in one step")] = 512,
    max_sequences: Annotated[int, typer.Option(min=1, help="most sequences in one step")] = 64,
) -> None:
    """Serve MODEL: OpenAI API under /v1, a chat page at /, Prometheus metrics at /metrics."""
    # The web framework and torch take seconds to import: --help must not wait for them.
    with uninterrupted():
        from pascaline.engine.engine_config import EngineConfig
        from pascaline.server.run import ServerConfig, run_server

    engine = EngineConfig(
        model_path="",
        device=device.value,
        max_model_len=max_model_len,
        gpu_memory_utilization=gpu_memory_utilization,
        arithmetic=arithmetic.value,
        key_value_dtype=kv_dtype.value,
        load_format=load_format.value,
        speculation=speculation.value,
        max_batch_tokens=max_batch_tokens,
        max_sequences=max_sequences,
    )
    with ProgressBars() as report:

        def on_ready(url: str, ready: Ready) -> None:
            report.close()
            for note in ready.notes:
                sys.stderr.write(f"note: {note}\n")
            stages = f": {describe_stages(ready)}" if ready.stages else ""
            sys.stderr.write(
                f"{model} on {ready.device}: context {ready.max_model_len} tokens, "
                f"weights {format_bytes(ready.weights_bytes)}, "
                f"KV cache up to {format_bytes(ready.kv_bytes)}, loaded in {ready.load_s:.1f} s"
                f"{stages}\n"
                f"chat page  {url}/\nOpenAI API {url}/v1\nCtrl-C stops\n"
            )

        run_server(ServerConfig(model, host, port, api_key, engine), report, on_ready)
