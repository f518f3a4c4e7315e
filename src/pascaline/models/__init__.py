"""One file a family. A new family is a file and a line in `FAMILIES`."""

from __future__ import annotations

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.core.errors import UnsupportedError
from pascaline.kernels import Launcher
from pascaline.models import llama, qwen2
from pascaline.models.decoder import Decoder
from pascaline.models.family import Family, gguf_name

FAMILIES: dict[str, Family] = {family.model_type: family for family in (llama.FAMILY, qwen2.FAMILY)}


def family_of(config: ModelConfig) -> Family:
    """The family that `config.model_type` names.

    Raises
    ------
    UnsupportedError : none does, or the config asks for something that no family here has.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UnsupportedError(
            f"the model's architecture is {config.model_type!r}", expected=f"one of {', '.join(FAMILIES)}"
        )
    if config.hidden_act != "silu":
        raise UnsupportedError(f"the model's hidden_act is {config.hidden_act!r}", expected="silu")
    return family


def build(config: ModelConfig, launch: Launcher) -> Decoder:
    """The model, on torch's meta device."""
    return Decoder(launch, config, family_of(config).style(config))


__all__ = ["FAMILIES", "Decoder", "Family", "build", "family_of", "gguf_name"]
