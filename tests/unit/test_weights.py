"""Packed weights against the formula they stand for, written out element by element."""

from __future__ import annotations

import pytest
import torch

from pascaline.weights import Dense, Packed

ROWS, COLUMNS, GROUP = 3, 24, 8


def packed(bits: int, zero: int, *, offsets: bool) -> Packed:
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 256, (ROWS, COLUMNS * bits // 8), generator=generator, dtype=torch.uint8)
    scales = torch.randn(ROWS, COLUMNS // GROUP, generator=generator).half()
    shifts = torch.randn(ROWS, COLUMNS // GROUP, generator=generator).half() if offsets else None
    return Packed((ROWS, COLUMNS), bits, GROUP, zero, codes, scales, shifts)


def element(weight: Packed, row: int, column: int) -> float:
    """scales · (q − zero) − offsets, with q read from the row's little-endian bit stream."""
    stream = int.from_bytes(weight.codes[row].numpy().tobytes(), "little")
    code = stream >> (column * weight.bits) & ((1 << weight.bits) - 1)
    group = column // weight.group_size
    shift = 0.0 if weight.offsets is None else float(weight.offsets[row, group])
    return float(weight.scales[row, group]) * (code - weight.zero) - shift


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero", [0, 8])
@pytest.mark.parametrize("offsets", [False, True])
def test_elements_follow_the_formula(bits: int, zero: int, offsets: bool) -> None:
    weight = packed(bits, zero, offsets=offsets)
    expected = [[element(weight, row, column) for column in range(COLUMNS)] for row in range(ROWS)]
    exact = torch.empty(ROWS, COLUMNS, dtype=torch.float64)
    weight.dequantise(0, ROWS, exact)
    assert exact.tolist() == expected
    rounded = torch.empty(ROWS, COLUMNS)
    weight.dequantise(0, ROWS, rounded)
    assert torch.equal(rounded, exact.float()), "rounded once, from the exact value"


@pytest.mark.parametrize("offsets", [False, True])
def test_resident_bytes_count_codes_scales_and_offsets(offsets: bool) -> None:
    weight = packed(4, 0, offsets=offsets)
    groups = ROWS * COLUMNS // GROUP
    assert weight.resident_bytes == ROWS * COLUMNS // 2 + 2 * groups * (1 + offsets)


def test_to_keeps_the_weight_as_it_is() -> None:
    cpu = torch.device("cpu")
    weight = packed(4, 8, offsets=True)
    moved = weight.to(cpu)
    assert (moved.shape, moved.bits, moved.group_size, moved.zero) == ((ROWS, COLUMNS), 4, GROUP, 8)
    assert torch.equal(moved.codes, weight.codes)
    meta = weight.to(torch.device("meta"))
    assert {meta.codes.device.type, meta.scales.device.type} == {"meta"}
    assert Dense(torch.ones(2, 3, dtype=torch.bfloat16)).to(cpu).tensor.dtype == torch.bfloat16


def test_dense_rows_are_widened_exactly() -> None:
    stored = torch.tensor([[1.5, -0.1], [3e38, 1e-40]], dtype=torch.bfloat16)
    out = torch.empty(1, 2)
    Dense(stored).dequantise(1, 2, out)
    assert torch.equal(out, stored[1:].float())
    gathered = torch.empty(3, 2)
    Dense(stored).gather(torch.tensor([1, 0, 1]), gathered)
    assert torch.equal(gathered, stored[[1, 0, 1]].float())
    assert Dense(stored).resident_bytes == 8
