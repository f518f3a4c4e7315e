"""A packed weight laid out in slabs: see `weights.slabbed`, whose layout this writes."""

from __future__ import annotations

from functools import partial

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.weights.codes import Codes
from pascaline.weights.packed import Packed
from pascaline.weights.slabbed import INTEGER_FIELDS, Slabbed, SlabbedForm, split_axis
from pascaline.workload.slab_form import (
    QUARTER,
    SLAB,
    TILE_OUTPUTS,
    Integers,
    integers_layout,
    scale_rows,
    scales_per_slab,
)
from pascaline.workload.weight_form import PLANE_BITS, WeightForm

_PIECE_OUTPUTS = 4096
"""Outputs that are laid out at once: a bound on the memory that it takes beside the weight."""


def to_slabs(weight: Packed) -> Slabbed:
    """`weight` in slabs, on its device.

    Raises
    ------
    UnsupportedError : it has no form in slabs (`slabbed_form` says why).
    """
    form = slabbed_form(weight)
    if isinstance(form, str):
        raise UnsupportedError(f"a packed weight in slabs: {form}")
    outputs, columns = weight.shape
    slabs, padded = -(-columns // SLAB), -(-outputs // TILE_OUTPUTS) * TILE_OUTPUTS
    device = weight.scales.device
    codes = torch.empty((slabs, padded // TILE_OUTPUTS, SLAB * form.bits), dtype=torch.uint8, device=device)
    for start in range(0, outputs, _PIECE_OUTPUTS):
        stop = min(start + _PIECE_OUTPUTS, outputs)
        piece = weight.codes.unpack(partial(_rows, start, stop))
        if form.bits == 8 and piece.dtype == torch.uint8:
            piece = piece ^ 0x80  # minus 128
        whole = _padded(
            piece.view(torch.uint8), -(-(stop - start) // TILE_OUTPUTS) * TILE_OUTPUTS, slabs * SLAB
        )
        first = start // TILE_OUTPUTS
        codes[:, first : first + len(whole) // TILE_OUTPUTS] = _tiles_of(whole, form.bits)
    rows, per_slab = scale_rows(form.super_size, slabs), scales_per_slab(form.super_size)

    def entries(numbers: torch.Tensor) -> torch.Tensor:
        """(N, K / S) to (R, N8, P)."""
        return _padded(numbers, padded, rows * per_slab).view(padded, rows, per_slab).transpose(0, 1)

    scales = [entries(numbers) for numbers in (weight.scales, weight.offsets) if numbers is not None]
    integers, integers_high = _laid_out_integers(weight, form, slabs, padded)
    arrays = {
        "codes": codes,
        "scales": torch.stack(scales, dim=-1),
        "integers": integers,
        "integers_high": integers_high,
        "zeros": None if weight.zeros is None else _zeros(entries(weight.zeros.unpack()), form),
        "inputs": None if weight.permutation is None else _inputs(weight.permutation, slabs * SLAB),
    }
    # Kernels read memory, not strides.
    return Slabbed(
        weight.shape,
        form,
        **{name: array.contiguous() for name, array in arrays.items() if array is not None},
    )


def slabbed_form(weight: Packed) -> SlabbedForm | str:
    """The form that `weight` takes in slabs, or the reason why it cannot."""
    columns, super_size = weight.shape[1], weight.super_size
    integers = integers_layout(form_of(weight), columns)
    if isinstance(integers, str):
        return integers
    is_signed = weight.codes.planes[0].data.dtype == torch.int8
    # What is taken off to make group scales of 8 bits signed is taken off when they are laid out.
    is_settled = integers in (Integers.SCALE_8, Integers.SCALES_8_8)
    return SlabbedForm(
        bits=weight.bits,
        super_size=0 if super_size >= columns and integers is Integers.NONE else super_size,
        scale_dtype=weight.scales.dtype,
        has_offsets=weight.offsets is not None,
        integers=integers,
        group_scale_zero=0 if is_settled else weight.group_scale_zero,
        zero=weight.zero - (128 if weight.bits == 8 and not is_signed else 0),
        zero_bits=0 if weight.zeros is None else 4 if weight.zeros.bits <= 4 else 8,
        table=None if weight.table is None else tuple(weight.table.tolist()),
    )


def form_of(weight: Packed) -> WeightForm:
    """What the directory of a checkpoint would say of `weight`."""

    def bits(codes: Codes | None) -> int:
        return 0 if codes is None else codes.bits

    return WeightForm(
        kind="packed",
        type_name="",
        bits=weight.bits,
        group_size=weight.group_size,
        super_size=weight.super_size,
        scale_bytes=weight.scales.element_size(),
        has_offsets=weight.offsets is not None,
        group_scale_bits=bits(weight.group_scales),
        group_offset_bits=bits(weight.group_offsets),
        zeros_bits=bits(weight.zeros),
        is_permuted=weight.permutation is not None,
    )


def _tiles_of(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of how `Slabbed` reads codes: uint8 codes (rows, slabs · 128), rows in whole tiles."""
    slabs = codes.shape[1] // SLAB
    planes = []
    first = 0
    for plane in PLANE_BITS[bits]:
        fields = 8 // plane
        part = (codes >> first) & ((1 << plane) - 1)
        # (tile, output, slab, quarter, field, code word · 4 bytes)
        words = part.view(-1, TILE_OUTPUTS, slabs, 4, fields, plane * 4)
        packed = words[..., 0, :].clone()
        for field in range(1, fields):
            packed |= words[..., field, :] << field * plane
        if plane == 8:
            ordered = split_axis(packed, 4, (2, 16)).permute(2, 0, 4, 1, 3, 5)
        else:
            ordered = packed.permute(2, 0, 1, 3, 4)
        planes.append(ordered.reshape(slabs, len(words), SLAB * plane))
        first += plane
    return torch.cat(planes, dim=2)


def _rows(start: int, stop: int, tensor: torch.Tensor) -> torch.Tensor:
    return tensor[start:stop]


def _padded(values: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """`values` with zeros below and beside."""
    return torch.nn.functional.pad(values, (0, columns - values.shape[1], 0, rows - values.shape[0]))


def _zeros(entries: torch.Tensor, form: SlabbedForm) -> torch.Tensor:
    if form.zero_bits == 8:
        return entries
    pairs = entries.reshape(entries.shape[0], -1, 2, entries.shape[2])
    return pairs[:, :, 0] | pairs[:, :, 1] << 4


def _inputs(permutation: torch.Tensor, stored: int) -> torch.Tensor:
    inputs = torch.full((stored,), -1, dtype=torch.int32, device=permutation.device)
    inputs[: len(permutation)] = permutation.int()
    return inputs


def _laid_out_integers(
    weight: Packed, form: SlabbedForm, slabs: int, padded: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """`Slabbed.integers` and `integers_high`."""
    if weight.group_scales is None:
        return None, None
    per_quarter = QUARTER // weight.group_size

    def groups(codes: Codes, zero: int) -> list[torch.Tensor]:
        """Each group of a quarter, (slabs, N8, 4) int32."""
        values = codes.unpack().to(torch.int32) - zero
        whole = _padded(values, padded, slabs * 4 * per_quarter).view(padded, slabs, 4, per_quarter)
        return list(whole.permute(3, 1, 0, 2))

    settled = weight.group_scale_zero - form.group_scale_zero
    parts = groups(weight.group_scales, settled)
    if weight.group_offsets is not None:
        parts += groups(weight.group_offsets, 0)
    shifts, width = INTEGER_FIELDS[form.integers]
    fields = torch.zeros_like(parts[0])
    for shift, part in zip(shifts, parts, strict=True):
        fields |= (part & ((1 << width) - 1)) << shift
    if form.integers is Integers.SCALE_8:
        return fields.to(torch.uint8), None
    if form.integers in (Integers.SCALES_8_8, Integers.SCALES_OFFSETS_4):
        return fields.to(torch.uint16), None
    high = fields >> 8
    even, odd = high[0::2], high[1::2]
    packed = even.clone()
    packed[: len(odd)] |= odd << 4
    return (fields & 0xFF).to(torch.uint8), packed.to(torch.uint8)
