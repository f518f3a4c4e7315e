"""The demo model in fp32, as it is or padded to widths that 256-element blocks divide.

The demo's hidden size, 576, is no multiple of 256, which K-quants need. Zeros make it one without
changing what the model computes:

- hidden features are added whose embeddings, and whose rows in every projection that writes them,
  are zero, so that they stay zero through all layers;
- RMSNorm divides by a root mean square over more features, of which only the old ones count: it is
  √(H / H') times the old one, which gains multiplied by √(H / H') and an epsilon multiplied by H / H'
  make up for;
- heads are added, in whole groups (the heads of a group share a key/value head): their values and
  their columns of the output projection are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
from numpy.typing import NDArray

from pascaline.core.errors import UnsupportedError

SUPER_BLOCK = 256
_EPSILON = "llama.attention.layer_norm_rms_epsilon"


@dataclass(frozen=True)
class Widths:
    """A model's widths before (`hidden`, `key_value`: all key/value heads together) and after padding."""

    hidden: int
    key_value: int
    padded_hidden: int
    padded_key_value: int
    head_dim: int

    @property
    def kept(self) -> float:
        """Share of the padded hidden features that are not padding."""
        return self.hidden / self.padded_hidden

    def metadata(self) -> dict[str, object]:
        """What the padded file says instead of the original."""
        return {
            "llama.embedding_length": self.padded_hidden,
            "llama.attention.head_count": self.padded_hidden // self.head_dim,
            "llama.attention.head_count_kv": self.padded_key_value // self.head_dim,
        }

    def pad(self, tensor: NDArray[numpy.float32]) -> NDArray[numpy.float32]:
        """The tensor with its hidden and key/value axes lengthened by zeros; gains are rescaled."""
        lengths = {self.hidden: self.padded_hidden, self.key_value: self.padded_key_value}
        added = [(0, lengths.get(length, length) - length) for length in tensor.shape]
        padded = numpy.pad(tensor, added)
        return padded if tensor.ndim > 1 else padded * numpy.float32(self.kept**0.5)


def write_fp32(source: Path, target: Path, *, padded: bool) -> None:
    """Write a GGUF of the llama architecture again, all tensors in fp32, padded or not.

    Raises
    ------
    UnsupportedError : it is another architecture, or its heads do not fill the padded width.
    """
    reader = gguf.GGUFReader(source)
    changes: dict[str, object] = {"general.file_type": int(gguf.LlamaFileType.ALL_F32)}
    widths = _widths(reader, source) if padded else None
    if widths is not None:
        changes |= widths.metadata() | {_EPSILON: _value(reader, _EPSILON) * widths.kept}
    partial = target.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue  # the writer's own
        sub_type = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(name, changes.get(name, field.contents()), field.types[0], sub_type)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, values if widths is None else widths.pad(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(target)


def _widths(reader: gguf.GGUFReader, source: Path) -> Widths:
    architecture = _value(reader, "general.architecture")
    if architecture != "llama":
        raise UnsupportedError(f"{source.name} is of the architecture {architecture!r}", expected="llama")
    hidden: int = _value(reader, "llama.embedding_length")
    heads: int = _value(reader, "llama.attention.head_count")
    key_value_heads: int = _value(reader, "llama.attention.head_count_kv")
    head_dim = hidden // heads
    padded_hidden = -(-hidden // SUPER_BLOCK) * SUPER_BLOCK
    group = heads // key_value_heads
    if padded_hidden % (head_dim * group):
        raise UnsupportedError(
            f"{source.name}: {padded_hidden} features are no whole number of groups of {group} heads of "
            f"{head_dim}"
        )
    return Widths(hidden, key_value_heads * head_dim, padded_hidden, padded_hidden // group, head_dim)


def _value(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.fields.get(key)
    return None if field is None else field.contents()
