"""One file a format: tensors on disk -> Weight. A new format is a file and a line here."""

from __future__ import annotations

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import UnsupportedError
from pascaline.formats.dense import BF16, F16, F32
from pascaline.formats.format import Format
from pascaline.formats.gguf_q4_0 import Q4_0
from pascaline.formats.gguf_q4_1 import Q4_1
from pascaline.formats.gguf_q8_0 import Q8_0

FORMATS: dict[str, Format] = {item.type_name: item for item in (F32, F16, BF16, Q4_0, Q4_1, Q8_0)}


def format_of(checkpoint: Checkpoint, tensor_name: str) -> Format:
    """The format of one of a checkpoint's tensors.

    Raises
    ------
    UnsupportedError : the tensor's element type is none of `FORMATS`.
    """
    type_name = checkpoint.tensors[tensor_name].type_name
    if type_name not in FORMATS:
        raise UnsupportedError(
            f"{checkpoint.path.name}: tensor {tensor_name!r} is stored as {type_name}",
            expected=", ".join(FORMATS),
            remedy="Use a file in one of these formats",
        )
    return FORMATS[type_name]


__all__ = ["FORMATS", "Format", "format_of"]
