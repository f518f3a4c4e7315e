"""Schemes of quantising, as checkpoints' directories show them; `formats` reads their tensors.

A new one is a file here and its line in `SCHEMES`, and a file there and its line in `LINEAR_READERS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import ConfigError, UnsupportedError
from pascaline.workload.schemes import awq, compressed_tensors, gptq
from pascaline.workload.schemes.scheme import Scheme, SchemeParser

SCHEMES: dict[str, SchemeParser] = {
    "gptq": gptq.parse,
    "awq": awq.parse,
    "compressed-tensors": compressed_tensors.parse,
}
"""By quantization_config.quant_method in config.json."""


def scheme_of(checkpoint: Checkpoint) -> Scheme | None:
    """The scheme that a checkpoint declares, if it declares one.

    Raises
    ------
    ConfigError : quantization_config is malformed.
    UnsupportedError : its method, or a variant of it, is none of ours.
    """
    config = checkpoint.hf_config.get("quantization_config")
    if config is None:
        return None
    if not isinstance(config, Mapping):
        raise ConfigError(
            f"config.json's quantization_config is {config!r:.60}", expected="a group of settings"
        )
    method = config.get("quant_method")
    method = method.lower() if isinstance(method, str) else method
    if not isinstance(method, str) or method not in SCHEMES:
        raise UnsupportedError(
            f"{checkpoint.path.name} holds weights quantised with {method!r:.60} "
            "(quantization_config.quant_method in config.json)",
            expected=f"one of {', '.join(SCHEMES)}, dense weights, or a GGUF file",
            remedy="Use the original model, or one of these forms of it",
        )
    return SCHEMES[method](config)


__all__ = ["SCHEMES", "Scheme", "SchemeParser", "scheme_of"]
