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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import CheckpointError, ConfigError, UnsupportedError
from pascaline.formats.format import StoredWeight
from pascaline.formats.linear_directory import (
    INT32_BITS,
    bits_from_shape,
    entry_of,
    order_of,
    scales_of,
)
from pascaline.formats.linears import LinearForm, LinearTensors, StoredLinears
from pascaline.formats.word_packing import SCALE_DTYPES, unpack_rows

_FORMAT = "pack-quantized"
_BITS = (4, 8)


@dataclass(frozen=True)
class CompressedTensors:
    """A checkpoint in pack-quantized form; bits and groups are read from each module's shapes.

    `asymmetric` and `ordered` are true where all groups of modules have zero points, and inputs in
    another order than their groups': then the tensors that say so must be there.
    """

    asymmetric: bool
    ordered: bool

    def locate(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> StoredWeight | None:
        if f"{module}.weight_packed" not in checkpoint.tensors:
            return None
        return StoredLinears.of(_Tensors(self, checkpoint, module, shape))


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
    _refuse_online_transforms(config)
    every = [group["weights"] for group in groups.values()]
    return CompressedTensors(
        asymmetric=all(weights.get("symmetric") is False for weights in every),
        ordered=all(weights.get("actorder") == "group" for weights in every),
    )


def _refuse_online_transforms(config: Mapping[str, object]) -> None:
    """Rotations (QuIP, SpinQuant) that were not folded into the weights: without them the text is noise."""
    transforms = config.get("transform_config")
    groups = transforms.get("config_groups") if isinstance(transforms, Mapping) else None
    for name, group in groups.items() if isinstance(groups, Mapping) else ():
        applied = group.get("apply") if isinstance(group, Mapping) else None
        for item in applied if isinstance(applied, list) else ():
            location = item.get("location") if isinstance(item, Mapping) else None
            if location not in ("weight_input", "weight_output"):
                raise UnsupportedError(
                    f"the model needs its activations rotated (quantization_config.transform_config.{name})",
                    expected="rotations that are folded into the weights",
                )


class _Tensors(LinearTensors):
    def __init__(
        self, scheme: CompressedTensors, checkpoint: Checkpoint, module: str, shape: tuple[int, int]
    ) -> None:
        self.checkpoint = checkpoint
        self.rows, columns = shape
        self._words, self._scales, self._zeros, self._groups = (
            f"{module}.weight_{name}" for name in ("packed", "scale", "zero_point", "g_idx")
        )
        bits = bits_from_shape(checkpoint, self._words, -1, columns, _BITS)
        entry_of(checkpoint, self._words, ("I32",), (self.rows, columns * bits // INT32_BITS))
        scales, group_size = scales_of(checkpoint, self._scales, self.rows, columns, groups_first=False)
        groups = columns // group_size
        self.names = (self._words, self._scales)
        zeros = checkpoint.tensors.get(self._zeros)
        if zeros is not None or scheme.asymmetric:
            self.names += (self._zeros,)
            packed = zeros is None or zeros.type_name != "I8"
            words = -(-self.rows * bits // INT32_BITS) if packed else self.rows
            entry_of(checkpoint, self._zeros, ("I32",) if packed else ("I8",), (words, groups))
        order = None
        if self._groups in checkpoint.tensors or (scheme.ordered and groups > 1):
            self.names += (self._groups,)
            order = order_of(checkpoint, self._groups, columns, group_size)
        self.form = LinearForm(
            columns,
            bits,
            group_size,
            SCALE_DTYPES[scales.type_name],
            zero=1 << (bits - 1) if zeros is None else 0,
            has_zeros=zeros is not None,
            symmetric=False,
            order=order,
        )

    def write_codes(self, planes: Sequence[torch.Tensor]) -> None:
        words, bits = self.tensor(self._words), self.form.bits
        if self.form.order is None:
            planes[0].view(torch.int32).copy_(words)
        else:
            self.write_in_order(lambda outputs: unpack_rows(words[outputs].t(), bits), planes)

    def scales(self) -> torch.Tensor:
        return self.tensor(self._scales)

    def zeros(self) -> torch.Tensor:
        bits, stored = self.form.bits, self.tensor(self._zeros)
        if stored.dtype == torch.int32:
            return unpack_rows(stored, bits)[: self.rows]
        half, signed = 1 << (bits - 1), stored.short()
        if signed.min() < -half or signed.max() >= half:
            raise CheckpointError(
                f"{self.checkpoint.path.name}: tensor {self._zeros!r} is {signed.min()} to {signed.max()}",
                expected=f"{bits}-bit integers, from {-half} to {half - 1}",
            )
        return (signed + half).to(torch.uint8)
