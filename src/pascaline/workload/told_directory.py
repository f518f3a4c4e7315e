"""The directory of a checkpoint that has settings alone, as its tools would have written it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pascaline.checkpoint.checkpoint import Checkpoint, TensorEntry
from pascaline.checkpoint.config_fields import ConfigFields
from pascaline.checkpoint.dummy_checkpoint import DummyCheckpoint
from pascaline.checkpoint.model_config import ModelConfig
from pascaline.checkpoint.opening import open_settings
from pascaline.core.errors import UnsupportedError
from pascaline.models import read_config
from pascaline.workload.places import weight_places
from pascaline.workload.schemes import scheme_of
from pascaline.workload.schemes.linear_directory import told

_TYPE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def open_dummy(path: Path) -> DummyCheckpoint:
    """A model without its weights: a folder with config.json, or a whole checkpoint.

    Raises
    ------
    CheckpointError, UnsupportedError, ConfigError : as `open_checkpoint`, `read_config` and `told_tensors`.
    """
    return without_data(open_settings(path))


def without_data(described: Checkpoint) -> DummyCheckpoint:
    """The same with the directory that its settings tell of, where it has none of its own."""
    if described.tensors:
        return DummyCheckpoint(described)
    config = read_config(described.hf_config, described.container)
    return DummyCheckpoint(described, told_tensors(described, config))


def told_tensors(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, TensorEntry]:
    """All tensors of a model in the scheme that its settings declare, and else in their `torch_dtype`.

    Raises
    ------
    ConfigError, UnsupportedError : the settings are malformed, or say that modules differ from each other.
    """
    return {entry.name: entry for entry in _tensors(checkpoint, config)}


def _tensors(checkpoint: Checkpoint, config: ModelConfig) -> Iterator[TensorEntry]:
    scheme, type_name = scheme_of(checkpoint), element_type(checkpoint.hf_config)
    for place in weight_places(config):
        for part in place.parts:
            is_linear = len(part.shape) == 2 and part.module != "model.embed_tokens"
            quantised = None
            if scheme is not None and is_linear:
                quantised = scheme.tensors(part.module, (part.shape[0], part.shape[1]), type_name)
            yield from quantised or [told(part.name, type_name, part.shape)]


def element_type(hf_config: Mapping[str, object]) -> str:
    """What tensors that are not quantised are stored in, as directories call it.

    Raises
    ------
    ConfigError, UnsupportedError : it is no text, or no type that weights have.
    """
    text = hf_config.get("text_config")
    settings = {**(text if isinstance(text, Mapping) else {}), **hf_config}
    name = "dtype" if settings.get("dtype") is not None else "torch_dtype"
    dtype = ConfigFields(settings, "").text(name, default="float32").removeprefix("torch.")
    if dtype not in _TYPE_NAMES:
        raise UnsupportedError(
            f"the model configuration's {name} is {dtype!r:.60}", expected=", ".join(_TYPE_NAMES)
        )
    return _TYPE_NAMES[dtype]
