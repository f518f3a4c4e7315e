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

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pascaline.checkpoint.checkpoint import Checkpoint, TensorEntry
from pascaline.checkpoint.config_fields import ConfigFields
from pascaline.core.errors import ConfigError, UnsupportedError
from pascaline.workload.schemes.linear_directory import (
    INT32_BITS,
    bits_from_shape,
    entry_of,
    groups_of,
    scales_of,
    told,
)
from pascaline.workload.schemes.quantization_config import fields_of, group_size_in, names_in
from pascaline.workload.stored_weight import StoredLinear

_FORMAT = "pack-quantized"
_BITS = (4, 8)


@dataclass(frozen=True)
class CompressedTensors:
    """A checkpoint in pack-quantized form; bits and groups are read from each module's shapes.

    `asymmetric` and `ordered` are true where all groups of modules have zero points, and inputs in
    another order than their groups': then the tensors that say so must be there. Where the tensor is,
    the order is presumed to be another.
    """

    fields: ConfigFields
    asymmetric: bool
    ordered: bool

    def locate(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> StoredLinear | None:
        words, scales, zeros, index = (
            f"{module}.weight_{name}" for name in ("packed", "scale", "zero_point", "g_idx")
        )
        if words not in checkpoint.tensors:
            return None
        rows, columns = shape
        bits = bits_from_shape(checkpoint, words, -1, columns, _BITS)
        entry_of(checkpoint, words, ("I32",), (rows, columns * bits // INT32_BITS))
        entry, group_size = scales_of(checkpoint, scales, rows, columns, groups_first=False)
        groups = columns // group_size
        stored_zeros = checkpoint.tensors.get(zeros)
        if stored_zeros is not None or self.asymmetric:
            packed = stored_zeros is None or stored_zeros.type_name != "I8"
            fields = -(-rows * bits // INT32_BITS) if packed else rows
            entry_of(checkpoint, zeros, ("I32",) if packed else ("I8",), (fields, groups))
        has_index = index in checkpoint.tensors or (self.ordered and groups > 1)
        if has_index:
            entry_of(checkpoint, index, ("I32",), (columns,))
        return StoredLinear(
            "compressed-tensors",
            rows,
            columns,
            bits,
            group_size,
            words,
            scales,
            entry.type_name,
            None if stored_zeros is None else zeros,
            zero=1 << (bits - 1) if stored_zeros is None else 0,
            symmetric=False,
            group_index=index if has_index else None,
            presumed_order=has_index and groups > 1,
        )

    def tensors(self, module: str, shape: tuple[int, int], scale_type: str) -> list[TensorEntry] | None:
        if module == "lm_head" or any(_names(item, module) for item in names_in(self.fields, "ignore")):
            return None
        groups = self.fields.section("config_groups")
        settings = list(groups.values) if groups is not None else []
        weights = groups.section(settings[0]) if groups is not None and len(settings) == 1 else None
        weights = weights.section("weights") if weights is not None else None
        if weights is None:
            raise UnsupportedError(
                "the settings of each module, of several config_groups, without the tensors",
                expected="the weight files, or one group",
            )
        rows, columns = shape
        bits = weights.integer("num_bits", min(_BITS), max(_BITS))
        count = groups_of(module, columns, group_size_in(weights, "group_size", -1))
        told_of = [
            told(f"{module}.weight_packed", "I32", (rows, columns * bits // INT32_BITS)),
            told(f"{module}.weight_scale", scale_type, (rows, count)),
            told(f"{module}.weight_shape", "I64", (2,)),
        ]
        if self.asymmetric:
            fields = -(-rows * bits // INT32_BITS)
            told_of.append(told(f"{module}.weight_zero_point", "I32", (fields, count)))
        if self.ordered and count > 1:
            told_of.append(told(f"{module}.weight_g_idx", "I32", (columns,)))
        return told_of


def _names(pattern: str, module: str) -> bool:
    """Whether an entry of `ignore` names a module: as it is, or as a regular expression after "re:"."""
    expression = pattern.removeprefix("re:")
    return pattern == module or (expression != pattern and re.match(expression, module) is not None)


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
        fields_of(config),
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
