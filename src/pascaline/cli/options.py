"""Arguments that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Device(StrEnum):
    """Where to run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Arithmetic(StrEnum):
    """What linears may multiply in."""

    auto = "auto"
    fp32 = "fp32"
    exact = "exact"
    fast = "fast"


class LoadFormat(StrEnum):
    """Where weights come from."""

    auto = "auto"
    dummy = "dummy"


class Speculation(StrEnum):
    """Whether tokens are computed ahead."""

    auto = "auto"
    off = "off"


class KeyValueType(StrEnum):
    """Of the cache."""

    auto = "auto"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"
    fp32 = "fp32"


MODEL_HELP = "demo, a model folder, a .gguf file, or a Hugging Face id (owner/name, owner/name:Q4_K_M)"

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
DeviceOption = Annotated[Device, typer.Option(help="auto takes a usable NVIDIA card, else the CPU")]
MaxModelLenOption = Annotated[
    int | None, typer.Option(min=2, help="longest context in tokens; by default the model's, or what fits")
]
GpuMemoryUtilizationOption = Annotated[
    float, typer.Option(min=0.01, max=1.0, help="share of the memory to plan with")
]
ArithmeticOption = Annotated[
    Arithmetic,
    typer.Option(
        help="of linears: exact errs no more than half precision, fast may round inputs to 8 bits, "
        "auto is exact on cards (with inputs of bf16 weights in bf16 where that is faster) "
        "and fast on the CPU"
    ),
]
LoadFormatOption = Annotated[
    LoadFormat,
    typer.Option(help="dummy makes weights up, for measuring: of a folder, config.json is enough then"),
]
SpeculationOption = Annotated[
    Speculation,
    typer.Option(help="auto computes ahead what followed before in the same text, where that pays"),
]
KeyValueOption = Annotated[
    KeyValueType,
    typer.Option(
        help="of keys and values: auto is fp16, or fp32 where plain torch computes; bf16 and int8 on cards"
    ),
]
HtmlOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="write a page that stands alone to this file")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token every time")]
TopPOption = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="sample from the likeliest tokens up to this")
]
SeedOption = Annotated[int | None, typer.Option(help="makes sampling repeatable")]
MaxTokensOption = Annotated[int | None, typer.Option(min=1, help="most tokens to generate")]
