"""GPTQ, as AutoGPTQ and GPTQModel write it: w[n, k] = scale[g, n] · (q[k, n] − zero[g, n]), g = g_idx[k].

Tensors of a linear of K inputs and N outputs: `qweight` int32 (K · bits / 32, N), a bit stream down
each column; `scales` (groups, N); `qzeros` int32 (groups, N · bits / 32), a bit stream along each
row; `g_idx` int32 (K), the group of each input, which is k / group_size unless the model was
quantised in order of activation size ("act-order", desc_act). Version 1 stores each zero less one,
so that a field of all ones means 2^bits; version 2 ("gptq_v2") stores it as it is. `bits` and
`group_size` may differ from module to module (GPTQModel's `dynamic`); they are taken from the
tensors' shapes, which say them beyond doubt.

Source: Frantar et al. 2022, arXiv:2210.17323; the checkpoints' documented layout in AutoGPTQ and
GPTQModel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import CheckpointError, UnsupportedError
from pascaline.formats.format import StoredWeight
from pascaline.formats.group_order import permutation_of
from pascaline.formats.quantization_config import (
    INT32_BITS,
    entry_of,
    flag,
    group_size_of,
    one_of,
    whole_number,
)
from pascaline.formats.word_packing import SCALE_TYPES, tensor_of, transposed, transposed_codes, unpack_rows
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, packed_bytes

BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Gptq:
    """What a checkpoint's quantization_config says of its modules.

    `symmetric` is true of all of them, `act_order` of some at least: which ones is in the tensors.
    """

    symmetric: bool
    act_order: bool
    group_size: int
    zero_offset: int
    """What is added to stored zeros: 1 in version 1, 0 in version 2."""

    def locate(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> StoredWeight | None:
        if f"{module}.qweight" not in checkpoint.tensors:
            return None
        return _Tensors(self, checkpoint, module, shape).stored()


def parse(config: Mapping[str, object]) -> Gptq:
    """quantization_config (or quantize_config.json) of a GPTQ checkpoint."""
    bits = whole_number(config, "bits")
    if bits not in BITS:
        raise UnsupportedError(f"GPTQ with {bits} bits", expected=", ".join(map(str, BITS)))
    name = "checkpoint_format" if config.get("checkpoint_format") is not None else "format"
    version = one_of(config, name, ("gptq", "gptq_v2"), default="gptq")
    dynamic = config.get("dynamic")
    overrides = dynamic.values() if isinstance(dynamic, Mapping) else ()
    everywhere = [config, *(override for override in overrides if isinstance(override, Mapping))]
    return Gptq(
        symmetric=all(flag(settings, "sym", default=True) for settings in everywhere),
        act_order=any(flag(settings, "desc_act", default=False) for settings in everywhere),
        group_size=whole_number(config, "group_size", default=-1),
        zero_offset=0 if version == "gptq_v2" else 1,
    )


class _Tensors:
    """The tensors of one module, checked against the shape that the model wants."""

    def __init__(self, scheme: Gptq, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> None:
        self.scheme, self.checkpoint, self.module = scheme, checkpoint, module
        self.rows, self.columns = shape
        name = f"{module}.qweight"
        words, remainder = divmod(
            checkpoint.tensors[name].shape[0] * INT32_BITS if checkpoint.tensors[name].shape else 0,
            self.columns,
        )
        if remainder or words not in BITS:
            raise CheckpointError(
                f"{checkpoint.path.name}: tensor {name!r} has shape {list(checkpoint.tensors[name].shape)}",
                expected=f"{self.columns} · bits / 32 rows, bits one of {', '.join(map(str, BITS))}",
            )
        self.bits = words
        if self.rows * self.bits % INT32_BITS or self.columns * self.bits % INT32_BITS:
            raise UnsupportedError(
                f"{checkpoint.path.name}: {name!r} of {self.columns} inputs and {self.rows} outputs does "
                f"not fill its words with {self.bits} bits"
            )
        entry_of(checkpoint, name, ("I32",), (self.columns * self.bits // INT32_BITS, self.rows))
        scales = checkpoint.tensors.get(f"{module}.scales")
        self.groups = scales.shape[0] if scales is not None and scales.shape else 0
        self.scales = entry_of(checkpoint, f"{module}.scales", SCALE_TYPES, (self.groups, self.rows))
        self.group_size = group_size_of(
            checkpoint, f"{module}.scales", self.columns, self.groups, scheme.group_size
        )
        entry_of(checkpoint, f"{module}.qzeros", ("I32",), (self.groups, self.rows * self.bits // INT32_BITS))
        self.has_order = f"{module}.g_idx" in checkpoint.tensors
        if self.has_order:
            entry_of(checkpoint, f"{module}.g_idx", ("I32",), (self.columns,))
        elif scheme.act_order and self.groups > 1:
            raise CheckpointError(
                f"{checkpoint.path.name} has no tensor {module + '.g_idx'!r}",
                expected="the group of each input, since quantization_config.desc_act is true",
            )

    def stored(self) -> StoredWeight:
        names = ["qweight", "scales", "qzeros", *(["g_idx"] if self.has_order else [])]
        resident = self.rows * (
            packed_bytes(self.columns, self.bits)
            + self.groups * (self.scales.nbytes // (self.groups * self.rows))
        )
        if not self.scheme.symmetric:
            resident += self.rows * packed_bytes(self.groups, self.bits)
        if self.scheme.act_order and self.groups > 1:
            resident += 4 * self.columns
        return StoredWeight(
            self.checkpoint.path.name, tuple(f"{self.module}.{name}" for name in names), resident, self.read
        )

    def read(self) -> Packed:
        words = self._words("qweight", (-1, self.rows))
        permutation = None
        if self.has_order:
            permutation = permutation_of(
                self.checkpoint, f"{self.module}.g_idx", self.columns, self.group_size
            )
        if permutation is None and self.bits != 3:
            codes = transposed_codes(words, self.bits)
        else:
            values = unpack_rows(words, self.bits)
            codes = Codes.pack((values if permutation is None else values[permutation]).t(), self.bits)
        scales = tensor_of(
            self.checkpoint.read(f"{self.module}.scales"), self.scales.type_name, self.scales.shape
        )
        zero, zeros = self._zeros()
        return Packed(
            codes,
            self.group_size,
            self.group_size,
            transposed(scales),
            zero=zero,
            zeros=zeros,
            permutation=None if permutation is None else permutation.int(),
        )

    def _words(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return tensor_of(self.checkpoint.read(f"{self.module}.{name}"), "I32", shape)

    def _zeros(self) -> tuple[int, Codes | None]:
        """The zero of all groups, or what each group's adds to it."""
        words = self._words("qzeros", (self.groups, -1))
        zeros = unpack_rows(transposed(words), self.bits)
        offset = self.scheme.zero_offset
        first = int(zeros[0, 0])
        if self.scheme.symmetric and bool((zeros == first).all()):
            return first + offset, None
        return offset, Codes.pack(zeros, self.bits)
