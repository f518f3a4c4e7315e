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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import CheckpointError, UnsupportedError
from pascaline.formats.format import StoredWeight
from pascaline.formats.group_order import permutation_of
from pascaline.formats.linears import LinearForm, LinearTensors, StoredLinears
from pascaline.formats.quantization_config import (
    INT32_BITS,
    entry_of,
    flag,
    group_size_of,
    one_of,
    whole_number,
)
from pascaline.formats.word_packing import SCALE_DTYPES, TILE_OUTPUTS, pack_columns, tensor_of, unpack_rows

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
        return StoredLinears.of(_Tensors(self, checkpoint, module, shape))


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


class _Tensors(LinearTensors):
    def __init__(self, scheme: Gptq, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> None:
        self.checkpoint, self.module = checkpoint, module
        self.rows, columns = shape
        name = f"{module}.qweight"
        seen = checkpoint.tensors[name].shape
        bits, remainder = divmod(seen[0] * INT32_BITS if seen else 0, columns)
        if remainder or bits not in BITS:
            raise CheckpointError(
                f"{checkpoint.path.name}: tensor {name!r} has shape {list(seen)}",
                expected=f"{columns} · bits / 32 rows, bits one of {', '.join(map(str, BITS))}",
            )
        if self.rows * bits % INT32_BITS or columns * bits % INT32_BITS:
            raise UnsupportedError(
                f"{checkpoint.path.name}: {name!r} of {columns} inputs and {self.rows} outputs does "
                f"not fill its words with {bits} bits"
            )
        entry_of(checkpoint, name, ("I32",), (columns * bits // INT32_BITS, self.rows))
        scales = checkpoint.tensors.get(f"{module}.scales")
        groups = scales.shape[0] if scales is not None and scales.shape else 0
        self._scales = entry_of(checkpoint, f"{module}.scales", tuple(SCALE_DTYPES), (groups, self.rows))
        group_size = group_size_of(checkpoint, f"{module}.scales", columns, groups, scheme.group_size)
        entry_of(checkpoint, f"{module}.qzeros", ("I32",), (groups, self.rows * bits // INT32_BITS))
        names = [name, f"{module}.scales", f"{module}.qzeros"]
        order = None
        if f"{module}.g_idx" in checkpoint.tensors:
            names.append(f"{module}.g_idx")
            entry_of(checkpoint, names[-1], ("I32",), (columns,))
            order = permutation_of(checkpoint, names[-1], columns, group_size)
        elif scheme.act_order and groups > 1:
            raise CheckpointError(
                f"{checkpoint.path.name} has no tensor {module + '.g_idx'!r}",
                expected="the group of each input, since quantization_config.desc_act is true",
            )
        self.names = tuple(names)
        self.form = LinearForm(
            columns,
            bits,
            group_size,
            SCALE_DTYPES[self._scales.type_name],
            zero=scheme.zero_offset,
            has_zeros=True,
            symmetric=scheme.symmetric,
            order=order,
        )

    def write_codes(self, planes: Sequence[torch.Tensor]) -> None:
        words, bits = self._words("qweight", (-1, self.rows)), self.form.bits
        if self.form.order is None and bits != 3:
            # No field crosses a word: whole words change places, and nothing is unpacked.
            planes[0].view(torch.int32).copy_(words.t())
            return
        order = None if self.form.order is None else torch.tensor(self.form.order)
        for start in range(0, self.rows, TILE_OUTPUTS):
            tile = slice(start, start + TILE_OUTPUTS)
            values = unpack_rows(words[:, tile], bits)
            pack_columns(
                values if order is None else values.index_select(0, order),
                bits,
                [plane[tile] for plane in planes],
            )

    def scales(self) -> torch.Tensor:
        data = self.checkpoint.read(f"{self.module}.scales")
        return tensor_of(data, self._scales.type_name, self._scales.shape).t()

    def zeros(self) -> torch.Tensor:
        words = self._words("qzeros", (self.form.groups, -1))
        return unpack_rows(words.t().contiguous(), self.form.bits)

    def _words(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return tensor_of(self.checkpoint.read(f"{self.module}.{name}"), "I32", shape)
