"""One file a family. A new family is a file and a line in `FAMILIES`."""

from __future__ import annotations

from collections.abc import Mapping

from pascaline.checkpoint.hf_config import parse_model_config
from pascaline.checkpoint.model_config import ModelConfig
from pascaline.core.errors import UnsupportedError
from pascaline.kernels import Launcher
from pascaline.models import llama, qwen2
from pascaline.models.decoder import Decoder
from pascaline.models.family import Family, gguf_name

FAMILIES: dict[str, Family] = {family.model_type: family for family in (llama.FAMILY, qwen2.FAMILY)}


def read_config(hf_config: Mapping[str, object]) -> ModelConfig:
    """The settings of a model of one of the families, from config.json's mapping.

    Raises
    ------
    ConfigError : a field is missing, has the wrong type or an impossible value.
    UnsupportedError : the architecture is none of ours, whatever its other fields are called, or the
        settings ask for something that we do not do.
    """
    model_type = hf_config.get("model_type")
    if isinstance(model_type, str):
        _family_named(model_type)
    return parse_model_config(hf_config)


def family_of(config: ModelConfig) -> Family:
    """The family that `config.model_type` names.

    Raises
    ------
    UnsupportedError : none does, or the config asks for something that no family here has.
    """
    family = _family_named(config.model_type)
    if config.hidden_act != "silu":
        raise UnsupportedError(f"the model's hidden_act is {config.hidden_act!r}", expected="silu")
    return family


def _family_named(model_type: str) -> Family:
    family = FAMILIES.get(model_type)
    if family is None:
        raise UnsupportedError(
            f"the model's architecture is {model_type!r}", expected=f"one of {', '.join(FAMILIES)}"
        )
    return family


def build(config: ModelConfig, launch: Launcher) -> Decoder:
    """The model, on torch's meta device."""
    return Decoder(launch, config, family_of(config).style(config))


__all__ = ["FAMILIES", "Decoder", "Family", "build", "family_of", "gguf_name", "read_config"]
