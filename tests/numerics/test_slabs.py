"""Weights in slabs: the very bits of the packed weight that they are made of, and the bytes as planned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.packed_cases import PACKED_FORMS, PackedForm, random_packed
from pascaline.weights.slab_layout import form_of, to_slabs
from pascaline.workload.slab_form import slabbed_bytes

FORMS = PACKED_FORMS | {
    "3 bits, zeros": PackedForm(3, 128, (4, 8), zeros=True),
    "5 bits, zeros": PackedForm(5, 64, (2, 8), zeros=True, zero=1),
    "4 bits, one scale a row": PackedForm(4, 1280, (2,), zeros=True, scale_dtype=torch.float32),
    "4 bits, groups of 256": PackedForm(4, 256, (2,), zero=8),
    "1 bit": PackedForm(1, 64, (8,), offsets=True),
}
SIZES = ((64, 768), (50, 512), (13, 1280), (1, 256), (9, 576))
CASES = [
    pytest.param(form, outputs, columns, id=f"{name}: {outputs} x {columns}")
    for name, form in FORMS.items()
    for outputs, columns in SIZES
    if columns % (form.super_size or form.group_size) == 0
]


@pytest.mark.parametrize(("form", "outputs", "columns"), CASES)
def test_slabs_hold_the_very_bits(form: PackedForm, outputs: int, columns: int) -> None:
    packed = random_packed(form, outputs, columns, torch.Generator().manual_seed(7))
    slabbed = to_slabs(packed)
    for dtype in (torch.float32, torch.float64):
        expected, seen = (torch.empty(outputs, columns, dtype=dtype) for _ in range(2))
        packed.dequantise(0, outputs, expected)
        slabbed.dequantise(0, outputs, seen)
        assert torch.equal(seen, expected)
    start, stop = outputs // 3, outputs - outputs // 4
    some = torch.empty(stop - start, columns, dtype=torch.float64)
    slabbed.dequantise(start, stop, some)
    assert torch.equal(some, expected[start:stop])
    rows = torch.tensor([outputs - 1, 0, outputs // 2, 0])
    gathered = torch.empty(len(rows), columns, dtype=torch.float64)
    slabbed.gather(rows, gathered)
    assert torch.equal(gathered, expected[rows])
    assert all(tensor.is_contiguous() for tensor in slabbed.buffers.values())
    assert slabbed.resident_bytes == slabbed_bytes(form_of(packed), outputs, columns)


def test_signed_codes_of_a_file_stay_what_they_are() -> None:
    packed = random_packed(PACKED_FORMS["Q8_0"], 8, 128, torch.Generator().manual_seed(7))
    plane = packed.codes.planes[0]
    signed = replace(plane, data=(plane.data ^ 0x80).view(torch.int8))
    stored = replace(packed, codes=replace(packed.codes, planes=(signed,)), zero=0)
    expected, seen = torch.empty(8, 128), torch.empty(8, 128)
    packed.dequantise(0, 8, expected)
    to_slabs(stored).dequantise(0, 8, seen)
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("form", [PackedForm(4, 192, (2,)), PackedForm(4, 48, (2,)), PackedForm(4, 96, (2,))])
def test_what_slabs_cannot_hold_is_refused_with_its_reason(form: PackedForm) -> None:
    packed = random_packed(form, 8, 576, torch.Generator().manual_seed(7))
    with pytest.raises(UnsupportedError, match=f"scales of {form.group_size} inputs each"):
        to_slabs(packed)
    assert slabbed_bytes(form_of(packed), 8, 576) == packed.resident_bytes
