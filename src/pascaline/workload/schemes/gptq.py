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

from pascaline.checkpoint.checkpoint import Checkpoint, TensorEntry
from pascaline.checkpoint.config_fields import ConfigFields
from pascaline.core.errors import CheckpointError, UnsupportedError
from pascaline.workload.schemes.linear_directory import (
    INT32_BITS,
    bits_from_shape,
    entry_of,
    groups_of,
    scales_of,
    told,
)
from pascaline.workload.schemes.quantization_config import bits_of, fields_of, group_size_in, one_of
from pascaline.workload.stored_weight import StoredLinear

BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Gptq:
    """What a checkpoint's quantization_config says of its modules.

    `symmetric` is true of all of them, `act_order` of some at least: which ones is in the tensors, and
    until they are read it is presumed of all that have groups.
    """

    fields: ConfigFields
    symmetric: bool
    act_order: bool
    group_size: int
    zero_offset: int
    """What is added to stored zeros: 1 in version 1, 0 in version 2."""

    def locate(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> StoredLinear | None:
        words, scales, zeros, index = (
            f"{module}.{name}" for name in ("qweight", "scales", "qzeros", "g_idx")
        )
        if words not in checkpoint.tensors:
            return None
        rows, columns = shape
        bits = bits_from_shape(checkpoint, words, 0, columns, BITS)
        if rows * bits % INT32_BITS or columns * bits % INT32_BITS:
            raise UnsupportedError(
                f"{checkpoint.path.name}: {words!r} of {columns} inputs and {rows} outputs does "
                f"not fill its words with {bits} bits"
            )
        entry_of(checkpoint, words, ("I32",), (columns * bits // INT32_BITS, rows))
        entry, group_size = scales_of(
            checkpoint, scales, rows, columns, groups_first=True, configured=self.group_size
        )
        groups = columns // group_size
        entry_of(checkpoint, zeros, ("I32",), (groups, rows * bits // INT32_BITS))
        has_index = index in checkpoint.tensors
        if has_index:
            entry_of(checkpoint, index, ("I32",), (columns,))
        elif self.act_order and groups > 1:
            raise CheckpointError(
                f"{checkpoint.path.name} has no tensor {index!r}",
                expected="the group of each input, since quantization_config.desc_act is true",
            )
        return StoredLinear(
            "gptq",
            rows,
            columns,
            bits,
            group_size,
            words,
            scales,
            entry.type_name,
            zeros,
            zero=self.zero_offset,
            symmetric=self.symmetric,
            group_index=index if has_index else None,
            presumed_order=has_index and self.act_order and groups > 1,
        )

    def tensors(self, module: str, shape: tuple[int, int], scale_type: str) -> list[TensorEntry] | None:
        if module == "lm_head" and not self.fields.boolean("lm_head", default=False):
            return None
        if self.fields.values.get("dynamic"):
            raise UnsupportedError(
                "the settings of each module, which quantization_config.dynamic has, without the tensors",
                expected="the weight files, or settings for all modules",
            )
        rows, columns = shape
        bits = bits_of(self.fields, "bits", "GPTQ", BITS)
        groups = groups_of(module, columns, self.group_size)
        return [
            told(f"{module}.qweight", "I32", (columns * bits // INT32_BITS, rows)),
            told(f"{module}.qzeros", "I32", (groups, rows * bits // INT32_BITS)),
            told(f"{module}.scales", scale_type, (groups, rows)),
            told(f"{module}.g_idx", "I32", (columns,)),
        ]


def parse(config: Mapping[str, object]) -> Gptq:
    """quantization_config (or quantize_config.json) of a GPTQ checkpoint."""
    fields = fields_of(config)
    bits_of(fields, "bits", "GPTQ", BITS)
    name = "checkpoint_format" if config.get("checkpoint_format") is not None else "format"
    version = one_of(fields, name, ("gptq", "gptq_v2"))
    dynamic = config.get("dynamic")
    overrides = dynamic.values() if isinstance(dynamic, Mapping) else ()
    everywhere = [
        fields,
        *(fields_of(override, "dynamic.") for override in overrides if isinstance(override, Mapping)),
    ]
    # Lists: every value is read, so that a wrong type is found wherever it stands.
    symmetric = [settings.boolean("sym", default=True) for settings in everywhere]
    act_order = [settings.boolean("desc_act", default=False) for settings in everywhere]
    return Gptq(
        fields,
        symmetric=all(symmetric),
        act_order=any(act_order),
        group_size=group_size_in(fields, "group_size", -1),
        zero_offset=0 if version == "gptq_v2" else 1,
    )
