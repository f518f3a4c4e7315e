"""What others say of a run, in their words: the card, and the model's configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pascaline.core.errors import CheckpointError
from pascaline.report.run_record import Gpu

_SM = re.compile(r",?\s*\(?\bsm_?(\d{1,2})(\d)\b\)?", re.IGNORECASE)
_MEMORY = re.compile(r"\b(\d{1,4}(?:\.\d{1,2})?)\s*Gi?B\b", re.IGNORECASE)
_CAPABILITY = re.compile(r"\d{1,2}\.\d")
_QUANTIZATION = {"method": "quant_method"}


def gpu_named(described: object, compute_capability: object, path: Path) -> Gpu | None:
    """A card from its name ("RTX A6000, sm_86"), or from an object with the fields of a record's.

    Raises
    ------
    CheckpointError : it is neither.
    """
    if described is None:
        return None
    if isinstance(described, Mapping):
        try:
            return msgspec.convert(described, Gpu)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"{path}: gpu: {error}") from None
    if not isinstance(described, str):
        raise CheckpointError(f"{path}: gpu is {repr(described)[:80]}", expected="a name")
    capability = _SM.search(described)
    given = compute_capability if isinstance(compute_capability, str) else ""
    memory = _MEMORY.search(described)
    return Gpu(
        name=_SM.sub("", described).strip(),
        compute_capability=(
            given
            if _CAPABILITY.fullmatch(given)
            else f"{int(capability[1])}.{capability[2]}"
            if capability
            else None
        ),
        memory_gib=float(memory[1]) if memory else None,
    )


def read_config_fields(config: Mapping[str, object], name: str | None) -> dict[str, object]:
    """A record's `model`: config.json's fields, the quantisation's under Hugging Face's names, and a name.

    `model_type` is taken from `architectures` where it is missing: Qwen2ForCausalLM is a qwen2.
    """
    model = {key: value for key, value in config.items() if key != "quantization"}
    if name is not None:
        model["name"] = name
    quantization = config.get("quantization")
    if isinstance(quantization, Mapping) and "quantization_config" not in config:
        model["quantization_config"] = {_QUANTIZATION.get(k, k): v for k, v in quantization.items()}
    architectures = config.get("architectures")
    if "model_type" not in config and isinstance(architectures, list) and architectures:
        family, found, _ = str(architectures[0]).partition("ForCausalLM")
        if found:
            model["model_type"] = family.lower()
    return model


def described_model(about: Mapping[str, object]) -> dict[str, object]:
    """A record's `model` from {"config": …, "model": name}; what is of another type is left out."""
    config, name = about.get("config"), about.get("model")
    return read_config_fields(
        config if isinstance(config, Mapping) else {}, name if isinstance(name, str) else None
    )


def positive(value: object) -> int | None:
    """A count that somebody stated, or None where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40 else None
