"""AWQ, as AutoAWQ writes it ("gemm"): see `formats.awq` for the packing.

Tensors of a linear of K inputs and N outputs: `qweight` int32 (K, N / 8), `qzeros` int32
(groups, N / 8) and `scales` (groups, N).

Source: Lin et al. 2023, arXiv:2306.00978; the packing that AutoAWQ documents for WQLinear_GEMM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pascaline.checkpoint.checkpoint import Checkpoint, TensorEntry
from pascaline.checkpoint.config_fields import ConfigFields
from pascaline.core.errors import UnsupportedError
from pascaline.workload.schemes.linear_directory import entry_of, groups_of, scales_of, told
from pascaline.workload.schemes.quantization_config import bits_of, fields_of, group_size_in, names_in, one_of
from pascaline.workload.stored_weight import StoredLinear

BITS = 4
OUTPUTS_A_WORD = 8


@dataclass(frozen=True)
class Awq:
    """What a checkpoint's quantization_config says of all modules."""

    fields: ConfigFields
    group_size: int

    def locate(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> StoredLinear | None:
        words, scales, zeros = (f"{module}.{name}" for name in ("qweight", "scales", "qzeros"))
        if words not in checkpoint.tensors:
            return None
        rows, columns = shape
        if rows % OUTPUTS_A_WORD or columns % 2:
            raise UnsupportedError(
                f"{checkpoint.path.name}: {module!r} has {columns} inputs and {rows} outputs",
                expected="an even number of inputs and a multiple of 8 outputs",
            )
        words_a_row = rows // OUTPUTS_A_WORD
        entry_of(checkpoint, words, ("I32",), (columns, words_a_row))
        entry, group_size = scales_of(
            checkpoint, scales, rows, columns, groups_first=True, configured=self.group_size
        )
        entry_of(checkpoint, zeros, ("I32",), (columns // group_size, words_a_row))
        return StoredLinear(
            "awq",
            rows,
            columns,
            BITS,
            group_size,
            words,
            scales,
            entry.type_name,
            zeros,
            zero=0,
            symmetric=False,
            group_index=None,
            presumed_order=False,
        )

    def tensors(self, module: str, shape: tuple[int, int], scale_type: str) -> list[TensorEntry] | None:
        left_out = names_in(self.fields, "modules_to_not_convert")
        if module == "lm_head" or any(name in module for name in left_out):
            return None
        rows, columns = shape
        groups = groups_of(module, columns, self.group_size)
        return [
            told(f"{module}.qweight", "I32", (columns, rows // OUTPUTS_A_WORD)),
            told(f"{module}.qzeros", "I32", (groups, rows // OUTPUTS_A_WORD)),
            told(f"{module}.scales", scale_type, (groups, rows)),
        ]


def parse(config: Mapping[str, object]) -> Awq:
    """quantization_config (or quant_config.json) of an AWQ checkpoint."""
    fields = fields_of(config)
    bits_of(fields, "bits" if config.get("bits") is not None else "w_bit", "AWQ", (BITS,))
    one_of(fields, "version", ("gemm",))
    name = "group_size" if config.get("group_size") is not None else "q_group_size"
    return Awq(fields, group_size_in(fields, name, 128))
