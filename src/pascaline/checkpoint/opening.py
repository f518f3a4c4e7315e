"""Opening whatever a path points to."""

from __future__ import annotations

from pathlib import Path

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.checkpoint.gguf import MAGIC
from pascaline.checkpoint.gguf_checkpoint import GgufCheckpoint
from pascaline.checkpoint.pickled import PICKLE_SUFFIXES, is_pickled, pickled
from pascaline.checkpoint.safetensors_folder import SafetensorsFolder, has_weights
from pascaline.core.errors import CheckpointError

_ACCEPTED = "a .gguf file, or a folder with config.json, tokenizer.json and safetensors weights"


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a model folder or a GGUF file: settings and directory, no tensors.

    Raises
    ------
    CheckpointError, UnsupportedError : nothing there, not a model, damaged, or not readable by us.
    """
    if path.is_dir():
        try:
            return SafetensorsFolder(path)
        except OSError as error:
            raise CheckpointError(
                f"the folder {path} cannot be read: {error.strerror}",
                remedy="Give yourself the right to list it and to read its files",
            ) from error
    if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
        raise CheckpointError(f"{path} is a pipe or a device, not a file", expected=_ACCEPTED)
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}", expected=_ACCEPTED) from error
    if start[:4] == MAGIC:
        return GgufCheckpoint(path)
    if path.suffix in PICKLE_SUFFIXES or (is_pickled(start) and path.suffix != ".safetensors"):
        raise pickled(path)
    if path.suffix == ".gguf":
        return GgufCheckpoint(path)
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"{path} is a single weight file, without its settings and vocabulary",
            remedy=f"Give its folder: {path.parent}",
        )
    raise CheckpointError(f"{path} is not a model: it begins with {start!r}", expected=_ACCEPTED)


def open_settings(path: Path) -> Checkpoint:
    """As `open_checkpoint`, but of a folder config.json is enough: without weights its directory is empty.

    Raises
    ------
    CheckpointError, UnsupportedError : as `open_checkpoint`.
    """
    if path.is_dir() and not has_weights(path):
        return SafetensorsFolder(path, files={})
    return open_checkpoint(path)
