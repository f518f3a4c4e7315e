"""compressed-tensors, format "pack-quantized", as LLM Compressor writes it.

w[n, k] = scale[n, g] · (q[n, k] − zero[n, g]), with q and zero signed integers of 4 or 8 bits that
are stored with 2^(bits − 1) added. Tensors of a linear of K inputs and N outputs: `weight_packed`
int32 (N, K · bits / 32), a bit stream along each row; `weight_scale` (N, groups);
`weight_zero_point` int32 (N · bits / 32, groups), a bit stream down each column (in releases before
0.9.4 int8 (N, groups), nothing added), absent where the scheme is symmetric; `weight_shape` int64
(2); `weight_g_idx` int32 (K) where inputs are not in the order of their groups. One group a row is
the "channel" strategy.

Source: the compressed-tensors package's description of its pack-quantized compressor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pascaline.checkpoint.checkpoint import Checkpoint, TensorEntry
from pascaline.core.errors import CheckpointError, ConfigError, UnsupportedError
from pascaline.formats.format import StoredWeight
from pascaline.formats.group_order import permutation_of
from pascaline.formats.quantization_config import INT32_BITS, entry_of, group_size_of
from pascaline.formats.word_packing import SCALE_TYPES, tensor_of, unpack_rows
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane, packed_bytes

_FORMAT = "pack-quantized"
_BITS = (4, 8)


@dataclass(frozen=True)
class CompressedTensors:
    """A checkpoint in pack-quantized form; bits and groups are read from each module's shapes."""

    def locate(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> StoredWeight | None:
        if f"{module}.weight_packed" not in checkpoint.tensors:
            return None
        return _Tensors(checkpoint, module, shape).stored()


def parse(config: Mapping[str, object]) -> CompressedTensors:
    """quantization_config of a compressed-tensors checkpoint."""
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise ConfigError(
            "quantization_config has no config_groups", expected="how each kind of module is quantised"
        )
    for name, group in groups.items():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            raise ConfigError(
                f"quantization_config.config_groups.{name} has no weights", expected="their settings"
            )
        form = group.get("format") or config.get("format")
        if form != _FORMAT:
            raise UnsupportedError(f"compressed-tensors in format {form!r:.60}", expected=_FORMAT)
        kind, bits = weights.get("type", "int"), weights.get("num_bits")
        if kind != "int" or bits not in _BITS:
            raise UnsupportedError(
                f"compressed-tensors with {bits!r:.60} bits of type {kind!r:.60}", expected="4 or 8 bits, int"
            )
    return CompressedTensors()


class _Tensors:
    """The tensors of one module, checked against the shape that the model wants."""

    def __init__(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> None:
        self.checkpoint, self.module = checkpoint, module
        self.rows, self.columns = shape
        name = f"{module}.weight_packed"
        packed = checkpoint.tensors[name]
        self.bits, remainder = divmod(packed.shape[-1] * INT32_BITS if packed.shape else 0, self.columns)
        if remainder or self.bits not in _BITS:
            raise CheckpointError(
                f"{checkpoint.path.name}: tensor {name!r} has shape {list(packed.shape)}",
                expected=f"{self.columns} · bits / 32 columns, bits 4 or 8",
            )
        entry_of(checkpoint, name, ("I32",), (self.rows, self.columns * self.bits // INT32_BITS))
        name = f"{module}.weight_scale"
        scales = checkpoint.tensors.get(name)
        self.groups = scales.shape[-1] if scales is not None and scales.shape else 0
        self.scales = entry_of(checkpoint, name, SCALE_TYPES, (self.rows, self.groups))
        self.group_size = group_size_of(checkpoint, name, self.columns, self.groups, -1)
        self.zeros = checkpoint.tensors.get(f"{module}.weight_zero_point")
        if self.zeros is not None:
            packed_zeros = self.zeros.type_name != "I8"
            words = -(-self.rows * self.bits // INT32_BITS) if packed_zeros else self.rows
            types = ("I32",) if packed_zeros else ("I8",)
            entry_of(checkpoint, f"{module}.weight_zero_point", types, (words, self.groups))
        self.has_order = f"{module}.weight_g_idx" in checkpoint.tensors
        if self.has_order:
            entry_of(checkpoint, f"{module}.weight_g_idx", ("I32",), (self.columns,))

    def stored(self) -> StoredWeight:
        names = ["weight_packed", "weight_scale"]
        resident = self.rows * packed_bytes(self.columns, self.bits) + self.scales.nbytes
        if self.zeros is not None:
            names.append("weight_zero_point")
            resident += self.rows * packed_bytes(self.groups, self.bits)
        if self.has_order:
            names.append("weight_g_idx")
            resident += 4 * self.columns
        return StoredWeight(
            self.checkpoint.path.name, tuple(f"{self.module}.{name}" for name in names), resident, self.read
        )

    def read(self) -> Packed:
        words = self._words("weight_packed", (self.rows, -1))
        permutation = None
        if self.has_order:
            permutation = permutation_of(
                self.checkpoint, f"{self.module}.weight_g_idx", self.columns, self.group_size
            )
        codes = Codes(self.columns, (Plane(self.bits, 8 // self.bits, words.view(torch.uint8)),))
        if permutation is None:
            codes = codes.over(torch.clone)
        else:
            codes = Codes.pack(codes.unpack()[:, permutation], self.bits)
        return Packed(
            codes,
            self.group_size,
            self.group_size,
            tensor_of(
                self.checkpoint.read(f"{self.module}.weight_scale"), self.scales.type_name, self.scales.shape
            ).clone(),
            zero=1 << (self.bits - 1) if self.zeros is None else 0,
            zeros=None if self.zeros is None else self._zeros(self.zeros),
            permutation=None if permutation is None else permutation.int(),
        )

    def _zeros(self, entry: TensorEntry) -> Codes:
        name = f"{self.module}.weight_zero_point"
        if entry.type_name == "I32":
            stored = unpack_rows(self._words("weight_zero_point", (-1, self.groups)), self.bits)
            return Codes.pack(stored[: self.rows], self.bits)
        half = 1 << (self.bits - 1)
        signed = tensor_of(self.checkpoint.read(name), "I8", entry.shape).short()
        if signed.min() < -half or signed.max() >= half:
            raise CheckpointError(
                f"{self.checkpoint.path.name}: tensor {name!r} is {signed.min()} to {signed.max()}",
                expected=f"{self.bits}-bit integers, from {-half} to {half - 1}",
            )
        return Codes.pack(signed + half, self.bits)

    def _words(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return tensor_of(self.checkpoint.read(f"{self.module}.{name}"), "I32", shape)
