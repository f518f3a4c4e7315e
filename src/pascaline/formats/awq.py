"""AWQ, as AutoAWQ writes it ("gemm"): w[n, k] = scale[g, n] · (q[k, n] − zero[g, n]), g = k / group_size.

Tensors of a linear of K inputs and N outputs: `qweight` int32 (K, N / 8), `qzeros` int32
(groups, N / 8) and `scales` (groups, N). A word's field i, bits 4i to 4i + 3, is output
(0, 2, 4, 6, 1, 3, 5, 7)[i] of its eight.

Source: Lin et al. 2023, arXiv:2306.00978; the packing that AutoAWQ documents for WQLinear_GEMM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import UnsupportedError
from pascaline.formats.format import StoredWeight
from pascaline.formats.quantization_config import entry_of, group_size_of, one_of, whole_number
from pascaline.formats.word_packing import SCALE_TYPES, tensor_of, transposed
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, packed_bytes

_BITS = 4
_OUTPUTS_A_WORD = 8
_OUTPUT_OF_FIELD = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Awq:
    """What a checkpoint's quantization_config says of all modules."""

    group_size: int

    def locate(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> StoredWeight | None:
        if f"{module}.qweight" not in checkpoint.tensors:
            return None
        rows, columns = shape
        if rows % _OUTPUTS_A_WORD:
            raise UnsupportedError(
                f"{checkpoint.path.name}: {module!r} has {rows} outputs", expected="a multiple of 8"
            )
        words = rows // _OUTPUTS_A_WORD
        entry_of(checkpoint, f"{module}.qweight", ("I32",), (columns, words))
        scales = checkpoint.tensors.get(f"{module}.scales")
        groups = scales.shape[0] if scales is not None and scales.shape else 0
        scales = entry_of(checkpoint, f"{module}.scales", SCALE_TYPES, (groups, rows))
        group_size = group_size_of(checkpoint, f"{module}.scales", columns, groups, self.group_size)
        entry_of(checkpoint, f"{module}.qzeros", ("I32",), (groups, words))

        def read() -> Packed:
            weights, zeros = (
                _unpack(tensor_of(checkpoint.read(f"{module}.{name}"), "I32", (-1, words)))
                for name in ("qweight", "qzeros")
            )
            return Packed(
                Codes.pack(weights.t(), _BITS),
                group_size,
                group_size,
                transposed(tensor_of(checkpoint.read(f"{module}.scales"), scales.type_name, scales.shape)),
                zeros=Codes.pack(zeros.t(), _BITS),
            )

        resident = rows * (packed_bytes(columns, _BITS) + packed_bytes(groups, _BITS)) + scales.nbytes
        names = tuple(f"{module}.{name}" for name in ("qweight", "scales", "qzeros"))
        return StoredWeight(checkpoint.path.name, names, resident, read)


def parse(config: Mapping[str, object]) -> Awq:
    """quantization_config (or quant_config.json) of an AWQ checkpoint."""
    bits = whole_number(config, "bits", "w_bit")
    if bits != _BITS:
        raise UnsupportedError(f"AWQ with {bits} bits", expected="4")
    one_of(config, "version", ("gemm",), default="gemm")
    return Awq(whole_number(config, "group_size", "q_group_size", default=128))


def _unpack(words: torch.Tensor) -> torch.Tensor:
    """(R, N / 8) int32 -> (R, N) uint8."""
    outputs = torch.empty((*words.shape, _OUTPUTS_A_WORD), dtype=torch.uint8)
    for field, output in enumerate(_OUTPUT_OF_FIELD):
        outputs[..., output] = (words >> field * _BITS) & 0x0F
    return outputs.flatten(1)
