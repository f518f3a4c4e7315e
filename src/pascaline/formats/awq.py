"""AWQ, as AutoAWQ writes it ("gemm"): w[n, k] = scale[g, n] · (q[k, n] − zero[g, n]), g = k / group_size.

Tensors of a linear of K inputs and N outputs: `qweight` int32 (K, N / 8), `qzeros` int32
(groups, N / 8) and `scales` (groups, N). A word's field i, bits 4i to 4i + 3, is output
(0, 2, 4, 6, 1, 3, 5, 7)[i] of its eight.

Source: Lin et al. 2023, arXiv:2306.00978; the packing that AutoAWQ documents for WQLinear_GEMM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import UnsupportedError
from pascaline.formats.format import StoredWeight
from pascaline.formats.linear_directory import entry_of, scales_of
from pascaline.formats.linears import LinearForm, LinearTensors, StoredLinears
from pascaline.formats.quantization_config import bits_of, fields_of, group_size_in, one_of
from pascaline.formats.word_packing import SCALE_DTYPES, TILE_OUTPUTS

_BITS = 4
_OUTPUTS_A_WORD = 8
_LOW = 0x0F0F0F0F
_OUTPUT_OF_FIELD = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Awq:
    """What a checkpoint's quantization_config says of all modules."""

    group_size: int

    def locate(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> StoredWeight | None:
        if f"{module}.qweight" not in checkpoint.tensors:
            return None
        return StoredLinears.of(_Tensors(self, checkpoint, module, shape))


def parse(config: Mapping[str, object]) -> Awq:
    """quantization_config (or quant_config.json) of an AWQ checkpoint."""
    fields = fields_of(config)
    bits_of(fields, "bits" if config.get("bits") is not None else "w_bit", "AWQ", (_BITS,))
    one_of(fields, "version", ("gemm",))
    name = "group_size" if config.get("group_size") is not None else "q_group_size"
    return Awq(group_size_in(fields, name, 128))


class _Tensors(LinearTensors):
    def __init__(self, scheme: Awq, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> None:
        self.checkpoint = checkpoint
        self.rows, columns = shape
        if self.rows % _OUTPUTS_A_WORD or columns % 2:
            raise UnsupportedError(
                f"{checkpoint.path.name}: {module!r} has {columns} inputs and {self.rows} outputs",
                expected="an even number of inputs and a multiple of 8 outputs",
            )
        self.names = self._words, self._scales, self._zeros = (
            f"{module}.qweight",
            f"{module}.scales",
            f"{module}.qzeros",
        )
        words = self.rows // _OUTPUTS_A_WORD
        entry_of(checkpoint, self._words, ("I32",), (columns, words))
        scales, group_size = scales_of(
            checkpoint, self._scales, self.rows, columns, groups_first=True, configured=scheme.group_size
        )
        entry_of(checkpoint, self._zeros, ("I32",), (columns // group_size, words))
        self.form = LinearForm(
            columns,
            _BITS,
            group_size,
            SCALE_DTYPES[scales.type_name],
            zero=0,
            has_zeros=True,
            symmetric=False,
            order=None,
        )

    def write_codes(self, planes: Sequence[torch.Tensor]) -> None:
        words = self.tensor(self._words)
        step = TILE_OUTPUTS // _OUTPUTS_A_WORD
        for start in range(0, words.shape[1], step):
            tile = words[:, start : start + step]
            even, odd = tile[0::2], tile[1::2]
            # Of two neighbouring inputs, the fields 0, 2, 4, 6 and 1, 3, 5, 7 side by side in a byte each.
            pairs = ((even & _LOW) | ((odd & _LOW) << 4), ((even >> 4) & _LOW) | (odd & ~_LOW))
            outputs = planes[0].view(-1, _OUTPUTS_A_WORD, planes[0].shape[1])[start : start + step]
            for first, pair in enumerate(pairs):
                # PERF: words change places before bytes do: 0.9 GB/s, 0.3 field by field (EPYC, one thread).
                fields = pair.t().contiguous().view(torch.uint8).view(*outputs.shape[::2], 4)
                for field in range(4):
                    outputs[:, _OUTPUT_OF_FIELD[2 * field + first]] = fields[..., field]

    def scales(self) -> torch.Tensor:
        return self.tensor(self._scales).t()

    def zeros(self) -> torch.Tensor:
        return _unpack(self.tensor(self._zeros)).t()


def _unpack(words: torch.Tensor) -> torch.Tensor:
    """(R, N / 8) int32 -> (R, N) uint8."""
    outputs = torch.empty((*words.shape, _OUTPUTS_A_WORD), dtype=torch.uint8)
    for field, output in enumerate(_OUTPUT_OF_FIELD):
        outputs[..., output] = (words >> field * _BITS) & 0x0F
    return outputs.flatten(1)
