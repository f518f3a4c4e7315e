"""Pickled checkpoints are recognised, whatever their names, and never opened."""

from __future__ import annotations

from pathlib import Path

from pascaline.core.errors import CheckpointError

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
PICKLE_REMEDY = (
    "Pickled weights are never loaded, because opening one can run any code in it. Convert the model with "
    "transformers, where you trust its source: "
    "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER, safe_serialization=True)"
)
_ZIP_START = b"PK\x03\x04"
"""What torch.save makes since 1.6."""
_RAW_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def is_pickled(start: bytes) -> bool:
    """Whether a file that begins so is a pickle, or an archive of the kind that torch writes.

    The length of a safetensors header can begin as a bare pickle does: only for what is no sound one.
    """
    return start.startswith((_ZIP_START, *_RAW_STARTS))


def pickled(path: Path) -> CheckpointError:
    """The refusal."""
    return CheckpointError(f"{path} is a pickled checkpoint", remedy=PICKLE_REMEDY)
