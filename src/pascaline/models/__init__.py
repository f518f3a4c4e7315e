"""One file a family. A new family is a file and a line in `FAMILIES`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pascaline.checkpoint.hf_config import parse_model_config
from pascaline.checkpoint.model_config import ModelConfig
from pascaline.core.errors import ConfigError, UnsupportedError
from pascaline.models import gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3
from pascaline.models.family import Family

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        llama.FAMILY,
        qwen2.FAMILY,
        qwen3.FAMILY,
        mistral.FAMILY,
        phi3.FAMILY,
        gemma2.FAMILY,
        gemma3.FAMILY,
    )
}
_BY_ANY_NAME = {
    name: family for family in FAMILIES.values() for name in (family.model_type, *family.other_model_types)
}
# What the whole of a model with `text_config` says goes before what the language model says.
_SHARED_FIELDS = ("bos_token_id", "eos_token_id", "tie_word_embeddings")


def read_config(
    hf_config: Mapping[str, object], container: Literal["gguf", "safetensors"] = "safetensors"
) -> ModelConfig:
    """The settings of a model of one of the families, from a checkpoint's `hf_config`.

    `model_type` is the family's then, whichever of its names the checkpoint has.

    Raises
    ------
    ConfigError : a field is missing, has the wrong type or an impossible value.
    UnsupportedError : the architecture is none of ours, whatever its other fields are called, or the
        settings ask for something that we do not do.
    """
    model_type = hf_config.get("model_type")
    if not isinstance(model_type, str):
        return parse_model_config(hf_config)
    family = _family_named(model_type)
    settings = dict(hf_config)
    text_config = hf_config.get("text_config")
    if family.nested and text_config is not None:
        if not isinstance(text_config, Mapping):
            raise ConfigError(
                f"the model configuration's text_config is {repr(text_config)[:60]}",
                expected="a group of settings",
            )
        settings = {
            **text_config,
            **{name: hf_config[name] for name in _SHARED_FIELDS if hf_config.get(name) not in (None, [])},
        }
    settings["model_type"] = family.model_type
    rules = family.rules
    if container == "gguf":
        # A file that says nothing of its own shape is damaged: it gets no defaults for that.
        rules = replace(
            rules, defaults={rules.activation_field: family.activation, **family.gguf_settings(settings)}
        )
    return parse_model_config(settings, rules)


def family_of(config: ModelConfig) -> Family:
    """The family that `config.model_type` names.

    Raises
    ------
    UnsupportedError : none does, or the config asks for something that no family here has.
    """
    family = _family_named(config.model_type)
    if config.hidden_act != family.activation:
        raise UnsupportedError(f"the model's hidden_act is {config.hidden_act!r}", expected=family.activation)
    return family


def _family_named(model_type: str) -> Family:
    family = _BY_ANY_NAME.get(model_type)
    if family is None:
        raise UnsupportedError(
            f"the model's architecture is {model_type!r}", expected=f"one of {', '.join(_BY_ANY_NAME)}"
        )
    return family


__all__ = ["FAMILIES", "Family", "family_of", "read_config"]
