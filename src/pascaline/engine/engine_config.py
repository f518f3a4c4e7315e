"""What an engine is started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pascaline.core.errors import ConfigError
from pascaline.kernels.policy import ARITHMETICS, Arithmetic
from pascaline.kv.pages import KEY_VALUE_BYTES, KeyValueDtype

LoadFormat = Literal["auto", "dummy"]
Speculation = Literal["auto", "off"]


@dataclass(frozen=True)
class EngineConfig:
    """Settings of an engine; None means that the planner settles it.

    Parameters
    ----------
    model_path : file or folder of the checkpoint, on this machine.
    device : "auto" takes a CUDA device that torch can use, else the CPU.
    max_model_len : longest context in tokens, prompt and output together.
    gpu_memory_utilization : share of the device's memory (on the CPU: of the memory available at
        the start) that the engine may plan with.
    max_batch_tokens : most new tokens in one step; longer prompts are computed in chunks.
    max_sequences : most sequences in one step.
    pages : size of the KV page pool, instead of what memory allows.
    arithmetic : "exact" errs no more than storage in half precision does, "fast" may round inputs to 8
        bits, "fp32" keeps to fp32 throughout; "auto" is fast on the CPU and exact on cards, but for inputs
        of dense bf16 weights, which it rounds to bf16 where that is faster.
    key_value_dtype : of the cache; "auto" is fp16 where the attention kernel reads it, and fp32 else. Cards
        also keep it in bf16, and in int8 with a scale for each token's head.
    load_format : "dummy" reads settings and directory alone, and makes the weights up: for measuring.
    speculation : "auto" computes tokens ahead that followed the last ones before in the same text, where more
        tokens a second come of that; what is generated is the same.
    """

    model_path: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.9
    max_batch_tokens: int = 512
    max_sequences: int = 64
    pages: int | None = None
    arithmetic: Arithmetic = "auto"
    key_value_dtype: KeyValueDtype = "auto"
    load_format: LoadFormat = "auto"
    speculation: Speculation = "auto"

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device is {self.device!r}", expected="auto, cpu or cuda")
        if self.arithmetic not in ARITHMETICS:
            raise ConfigError(f"arithmetic is {self.arithmetic!r}", expected=" or ".join(ARITHMETICS))
        if self.key_value_dtype not in ("auto", *KEY_VALUE_BYTES):
            known = " or ".join(("auto", *KEY_VALUE_BYTES))
            raise ConfigError(f"key_value_dtype is {self.key_value_dtype!r}", expected=known)
        if self.load_format not in ("auto", "dummy"):
            raise ConfigError(f"load_format is {self.load_format!r}", expected="auto or dummy")
        if self.speculation not in ("auto", "off"):
            raise ConfigError(f"speculation is {self.speculation!r}", expected="auto or off")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ConfigError(f"max_model_len is {self.max_model_len}", expected="at least 2")
        if not 0.0 < self.gpu_memory_utilization <= 1.0:
            raise ConfigError(
                f"gpu_memory_utilization is {self.gpu_memory_utilization}",
                expected="above 0 and at most 1",
            )
        if self.max_sequences < 1 or self.max_batch_tokens < self.max_sequences:
            raise ConfigError(
                f"max_batch_tokens is {self.max_batch_tokens} with max_sequences {self.max_sequences}",
                expected="room for one token of every sequence",
            )
