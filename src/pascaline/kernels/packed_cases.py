"""Random packed weights of every form that checkpoints come in: inputs of the linear's test cases."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane
from pascaline.workload.weight_form import PLANE_BITS


@dataclass(frozen=True)
class PackedForm:
    """What tells forms of packed weights apart; see `Packed` for the names.

    `runs` are those of the code's planes; `group_bits` are of a, and of b where there are offsets.
    """

    bits: int
    group_size: int
    runs: tuple[int, ...]
    super_size: int | None = None
    zero: int = 0
    offsets: bool = False
    group_bits: int | None = None
    group_zero: int = 0
    zeros: bool = False
    table: bool = False
    permutation: bool = False
    scale_dtype: torch.dtype = torch.float16


PACKED_FORMS: dict[str, PackedForm] = {
    "Q4_0": PackedForm(4, 32, (32,), zero=8),
    "Q4_1": PackedForm(4, 32, (32,), offsets=True),
    "Q5_0": PackedForm(5, 32, (32, 8), zero=16),
    "Q8_0": PackedForm(8, 32, (1,), zero=128),
    "Q2_K": PackedForm(2, 16, (128,), 256, offsets=True, group_bits=4),
    "Q3_K": PackedForm(3, 16, (128, 256), 256, zero=4, group_bits=6, group_zero=32),
    "Q4_K": PackedForm(4, 32, (64,), 256, offsets=True, group_bits=6),
    "Q5_K": PackedForm(5, 32, (64, 256), 256, offsets=True, group_bits=6),
    "Q6_K": PackedForm(6, 16, (128, 128), 256, zero=32, group_bits=8, group_zero=128),
    "IQ4_XS": PackedForm(4, 32, (32,), 256, group_bits=6, group_zero=32, table=True),
    "MXFP4": PackedForm(4, 32, (32,), table=True, scale_dtype=torch.uint8),
    "GPTQ 2 bits": PackedForm(2, 64, (4,), zeros=True, zero=1),
    "GPTQ 3 bits": PackedForm(3, 32, (4, 8), zero=4),
    "GPTQ 4 bits": PackedForm(4, 128, (2,), zeros=True, permutation=True),
    "GPTQ 8 bits": PackedForm(8, 128, (1,), zero=128, scale_dtype=torch.bfloat16),
}


def random_packed(form: PackedForm, rows: int, columns: int, generator: torch.Generator) -> Packed:
    """A weight of this form, (rows, columns), values of order 1."""
    super_size = form.super_size or form.group_size
    groups, supers = columns // form.group_size, columns // super_size
    size = 2.0 ** -(form.bits if form.group_bits is None else form.bits + form.group_bits)

    def plane(bits: int, run: int) -> Plane:
        shape = (rows, -(-columns // run) * run * bits // 8)
        return Plane(bits, run, torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))

    def small(bits: int) -> Codes:
        return Codes.pack(torch.randint(0, 1 << bits, (rows, groups), generator=generator), bits)

    def scale() -> torch.Tensor:
        return ((torch.rand(rows, supers, generator=generator) + 0.5) * size).to(form.scale_dtype)

    exponents = torch.randint(120, 130, (rows, supers), generator=generator, dtype=torch.uint8)
    table = torch.randint(-128, 128, (16,), generator=generator, dtype=torch.int8)
    return Packed(
        Codes(columns, tuple(map(plane, PLANE_BITS[form.bits], form.runs))),
        form.group_size,
        super_size,
        exponents if form.scale_dtype == torch.uint8 else scale(),
        offsets=scale() if form.offsets else None,
        group_scales=None if form.group_bits is None else small(form.group_bits),
        group_scale_zero=form.group_zero,
        group_offsets=small(form.group_bits) if form.group_bits and form.offsets else None,
        zero=form.zero,
        zeros=small(form.bits) if form.zeros else None,
        table=table if form.table else None,
        permutation=torch.randperm(columns, generator=generator).int() if form.permutation else None,
    )
