"""AWQ, as AutoAWQ writes it ("gemm"): see `formats.awq` for the packing.

Tensors of a linear of K inputs and N outputs: `qweight` int32 (K, N / 8), `qzeros` int32
(groups, N / 8) and `scales` (groups, N).

Source: Lin et al. 2023, arXiv:2306.00978; the packing that AutoAWQ documents for WQLinear_GEMM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import UnsupportedError
from pascaline.workload.schemes.linear_directory import entry_of, scales_of
from pascaline.workload.schemes.quantization_config import bits_of, fields_of, group_size_in, one_of
from pascaline.workload.stored_weight import StoredLinear

BITS = 4
OUTPUTS_A_WORD = 8


@dataclass(frozen=True)
class Awq:
    """What a checkpoint's quantization_config says of all modules."""

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


def parse(config: Mapping[str, object]) -> Awq:
    """quantization_config (or quant_config.json) of an AWQ checkpoint."""
    fields = fields_of(config)
    bits_of(fields, "bits" if config.get("bits") is not None else "w_bit", "AWQ", (BITS,))
    one_of(fields, "version", ("gemm",))
    name = "group_size" if config.get("group_size") is not None else "q_group_size"
    return Awq(group_size_in(fields, name, 128))
