"""Packed weights against the formula they stand for, written out element by element."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pascaline.core.errors import ShapeError
from pascaline.kernels.packed_cases import PACKED_FORMS, random_packed
from pascaline.weights import Dense, Packed
from pascaline.weights.codes import Codes, Plane
from pascaline.workload.weight_form import PLANE_BITS, packed_row_bytes

ROWS, COLUMNS = 3, 512
CPU = torch.device("cpu")


def example(form: str) -> Packed:
    return random_packed(PACKED_FORMS[form], ROWS, COLUMNS, torch.Generator().manual_seed(5))


def code(codes: Codes, row: int, column: int) -> int:
    """One code, found by the layout's rule alone."""
    value, start = 0, 0
    for plane in codes.planes:
        run_bytes = plane.run * plane.bits // 8
        run, element = divmod(column, plane.run)
        field, byte = divmod(element, run_bytes)
        stored = int(plane.data[row, run * run_bytes + byte])
        if plane.data.dtype == torch.int8:
            return stored
        value |= (stored >> field * plane.bits & (1 << plane.bits) - 1) << start
        start += plane.bits
    return value


def number(scales: torch.Tensor, row: int, column: int) -> Fraction:
    if scales.dtype == torch.uint8:
        return Fraction(2) ** (int(scales[row, column]) - 128)
    return Fraction(float(scales[row, column]))


def element(weight: Packed, row: int, column: int) -> Fraction:
    """D · a · c(q) − E · b, exactly, of a stored column."""
    group, block = column // weight.group_size, column // weight.super_size
    c = code(weight.codes, row, column)
    if weight.table is not None:
        c = int(weight.table[c])
    else:
        c -= weight.zero + (0 if weight.zeros is None else code(weight.zeros, row, group))
    a = b = 1
    if weight.group_scales is not None:
        a = code(weight.group_scales, row, group) - weight.group_scale_zero
    if weight.group_offsets is not None:
        b = code(weight.group_offsets, row, group)
    value = number(weight.scales, row, block) * a * c
    return value if weight.offsets is None else value - number(weight.offsets, row, block) * b


@pytest.mark.parametrize("form", PACKED_FORMS)
def test_elements_follow_the_formula(form: str) -> None:
    weight = example(form)
    order = range(COLUMNS) if weight.permutation is None else weight.permutation.tolist()
    expected = torch.empty(ROWS, COLUMNS, dtype=torch.float64)
    for row in range(ROWS):
        for column in range(COLUMNS):
            expected[row, order[column]] = float(element(weight, row, column))
    exact = torch.empty(ROWS, COLUMNS, dtype=torch.float64)
    weight.dequantise(0, ROWS, exact)
    assert torch.equal(exact, expected)
    rounded = torch.empty(1, COLUMNS)
    weight.dequantise(1, 2, rounded)
    assert torch.equal(rounded, exact[1:2].float()), "rounded once, from the exact value"


@pytest.mark.parametrize("form", PACKED_FORMS)
def test_rows_are_gathered_reordered_and_moved(form: str) -> None:
    weight = example(form)
    whole = torch.empty(ROWS, COLUMNS)
    weight.dequantise(0, ROWS, whole)
    gathered = torch.empty(4, COLUMNS)
    weight.gather(torch.tensor([2, 0, 2, 1]), gathered)
    assert torch.equal(gathered, whole[[2, 0, 2, 1]])
    reordered = torch.empty(ROWS, COLUMNS)
    weight.reorder_rows(torch.tensor([1, 2, 0]))
    weight.dequantise(0, ROWS, reordered)
    assert torch.equal(reordered, whole[[1, 2, 0]])

    meta = weight.to(torch.device("meta"))
    assert meta.shape == weight.shape
    assert meta.codes.planes[0].data.device.type == meta.scales.device.type == "meta"


@given(st.data(), st.sampled_from(sorted(PLANE_BITS)), st.integers(1, 3), st.integers(1, 70))
def test_packed_codes_come_back(data: st.DataObject, bits: int, rows: int, columns: int) -> None:
    cells = st.lists(st.integers(0, 2**bits - 1), min_size=columns, max_size=columns)
    values = data.draw(st.lists(cells, min_size=rows, max_size=rows))
    codes = Codes.pack(torch.tensor(values).view(rows, columns), bits)
    assert codes.unpack().tolist() == values
    assert codes.resident_bytes == rows * packed_row_bytes(columns, bits)
    assert codes.bits == bits
    for row in range(rows):
        # The layout of a code of one plane is a plain bit stream.
        if len(codes.planes) == 1:
            stream = int.from_bytes(bytes(codes.planes[0].data[row].tolist()), "little")
            assert [stream >> i * bits & (1 << bits) - 1 for i in range(columns)] == values[row]


@pytest.mark.parametrize("form", PACKED_FORMS)
def test_resident_bytes_count_every_tensor_but_the_shared_table(form: str) -> None:
    weight = example(form)
    spec = PACKED_FORMS[form]
    groups, supers = COLUMNS // weight.group_size, COLUMNS // weight.super_size
    row = COLUMNS * spec.bits // 8 + supers * spec.scale_dtype.itemsize * (1 + spec.offsets)
    if spec.group_bits:
        row += packed_row_bytes(groups, spec.group_bits) * (1 + spec.offsets)
    row += packed_row_bytes(groups, spec.bits) if spec.zeros else 0
    assert weight.resident_bytes == ROWS * row + 4 * COLUMNS * spec.permutation


def test_numbers_that_are_none_are_noticed() -> None:
    assert example("Q4_1").is_finite
    for bad in (float("nan"), float("inf"), -float("inf")):
        for name in ("scales", "offsets"):
            spoilt = torch.full((ROWS, COLUMNS // 32), 1.0).half()
            spoilt[1, 3] = bad
            assert not replace(example("Q4_1"), **{name: spoilt}).is_finite
    exponents = torch.full((ROWS, COLUMNS // 32), 254, dtype=torch.uint8)
    assert replace(example("MXFP4"), scales=exponents).is_finite
    exponents[0, 0] = 255
    assert not replace(example("MXFP4"), scales=exponents).is_finite


def test_shapes_that_do_not_fit_are_refused() -> None:
    q4_0, q4_k = example("Q4_0"), example("Q4_K")
    scales = q4_0.scales
    for change, message in (
        ({"scales": scales[:1]}, "scales of shape"),
        ({"offsets": scales[:, :1]}, "offsets of shape"),
        ({"group_size": 48, "super_size": 48}, "512 columns in groups of 48"),
        ({"group_size": 64}, "super-blocks of 32"),
        ({"permutation": torch.arange(4)}, "permutation of shape"),
        ({"zeros": q4_k.codes}, "zeros of shape"),
    ):
        with pytest.raises(ShapeError, match=message):
            replace(q4_0, **change)
    plane = q4_0.codes.planes[0]
    with pytest.raises(ShapeError, match="for 511 codes"):
        Codes(511, (replace(plane, data=plane.data[:, :-16]),))
    with pytest.raises(ShapeError, match="planes of"):
        Codes(512, (plane, plane))
    with pytest.raises(ShapeError, match="runs of 3"):
        Plane(4, 3, plane.data)


def test_dense_rows_are_widened_exactly() -> None:
    stored = torch.tensor([[1.5, -0.1], [3e38, 1e-40]], dtype=torch.bfloat16)
    out = torch.empty(1, 2)
    Dense(stored).dequantise(1, 2, out)
    assert torch.equal(out, stored[1:].float())
    gathered = torch.empty(3, 2)
    Dense(stored).gather(torch.tensor([1, 0, 1]), gathered)
    assert torch.equal(gathered, stored[[1, 0, 1]].float())
    assert Dense(stored).resident_bytes == 8
    assert Dense(torch.ones(2, 3, dtype=torch.bfloat16)).to(CPU).tensor.dtype == torch.bfloat16
