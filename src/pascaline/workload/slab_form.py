"""Packed weights in slabs, as CUDA kernels hold them: which can be, and their bytes (`weights.slabbed`)."""

from __future__ import annotations

from enum import IntEnum

from pascaline.workload.weight_form import WeightForm

SLAB = 128
QUARTER = 32
TILE_OUTPUTS = 8


class Integers(IntEnum):
    """How a quarter's small integers are laid out; the numbers are those of packed_weight.cuh."""

    NONE = 0
    SCALE_8 = 1
    """a, a signed byte: one group of 32."""
    SCALES_8_8 = 2
    """a, a: signed bytes, two groups of 16."""
    SCALES_OFFSETS_4 = 3
    """a, a, b, b of 4 bits: two groups of 16."""
    SCALES_6_6 = 4
    """a, a of 6 bits: two groups of 16."""
    SCALE_OFFSET_6 = 5
    """a, b of 6 bits: one group of 32."""


_LAYOUTS = {
    (32, 6, 0): Integers.SCALE_8,
    (32, 8, 0): Integers.SCALE_8,
    (16, 8, 0): Integers.SCALES_8_8,
    (16, 4, 4): Integers.SCALES_OFFSETS_4,
    (16, 6, 0): Integers.SCALES_6_6,
    (32, 6, 6): Integers.SCALE_OFFSET_6,
}
"""By inputs a group, and bits of its scale and of its offset (0 where it has none)."""
_FIELD_BITS = {
    Integers.NONE: 0,
    Integers.SCALE_8: 8,
    Integers.SCALES_8_8: 16,
    Integers.SCALES_OFFSETS_4: 16,
    Integers.SCALES_6_6: 12,
    Integers.SCALE_OFFSET_6: 12,
}


def integers_layout(form: WeightForm, columns: int) -> Integers | str:
    """The layout of the second level, or the reason why a weight of this form cannot be held in slabs."""
    size = form.super_size
    if size < columns and size not in (QUARTER, 2 * QUARTER) and size % SLAB:
        return (
            f"scales of {size} inputs each (32, 64, multiples of {SLAB} or whole rows can be held in slabs)"
        )
    bits = form.group_scale_bits, form.group_offset_bits
    if bits == (0, 0):
        if form.group_size != size:
            return f"groups of {form.group_size} inputs within {size} that have no scales"
        return Integers.NONE
    layout = _LAYOUTS.get((form.group_size, *bits))
    if layout is None or size % SLAB or (form.has_offsets and not bits[1]) or form.zeros_bits:
        return f"groups of {form.group_size} inputs with scales of {bits[0]} bits and offsets of {bits[1]}"
    return layout


def scales_per_slab(super_size: int) -> int:
    """Scales of an output in a slab's row of them; 0 stands for one scale a row."""
    return SLAB // super_size if 0 < super_size < SLAB else 1


def scale_rows(super_size: int, slabs: int) -> int:
    """Rows of scales; 0 stands for one scale a row."""
    if super_size == 0:
        return 1
    return slabs if super_size <= SLAB else -(-slabs * SLAB // super_size)


def slabbed_bytes(form: WeightForm, rows: int, columns: int) -> int:
    """Resident bytes of an (rows, columns) weight on a card: as it is packed where slabs cannot hold it."""
    layout = Integers.NONE if form.kind == "dense" else integers_layout(form, columns)
    if form.kind == "dense" or isinstance(layout, str):
        return form.packed_bytes(rows, columns)
    slabs, outputs = -(-columns // SLAB), -(-rows // TILE_OUTPUTS) * TILE_OUTPUTS
    super_size = 0 if form.super_size >= columns and layout is Integers.NONE else form.super_size
    entries = scale_rows(super_size, slabs) * scales_per_slab(super_size)
    each = slabs * SLAB * form.bits // 8 + entries * form.scale_bytes * (2 if form.has_offsets else 1)
    fields = slabs * SLAB // QUARTER
    field_bits = _FIELD_BITS[layout]
    each += fields * (field_bits // 8)
    if field_bits == 12:
        each += -(-slabs // 2) * SLAB // QUARTER
    total = outputs * each
    if form.zeros_bits:
        total += outputs * entries // (2 if form.zeros_bits <= 4 else 1)
    return total + (4 * slabs * SLAB if form.is_permuted else 0)
