"""Packed weights in tiles of 16 rows: the same values, in no more memory."""

from __future__ import annotations

import math

import pytest
import torch
from native_libraries import NEEDS_LIBRARY
from test_cpu_linear import FORMS, columns_of, weight_of

from pascaline.core.errors import UnsupportedError
from pascaline.kernels import embedding
from pascaline.kernels.cpu.tiling import tile
from pascaline.kernels.kernel import Workspace
from pascaline.kernels.packed_cases import PACKED_FORMS, random_packed

pytestmark = NEEDS_LIBRARY


@pytest.mark.parametrize("rows", [3, 16, 50])
@pytest.mark.parametrize("name", FORMS)
def test_values_are_the_packed_ones_bit_by_bit(name: str, rows: int) -> None:
    weight = weight_of(name, rows)
    tiles = tile(weight)
    assert tiles.shape == weight.shape
    expected, values = torch.empty(weight.shape), torch.full(weight.shape, math.nan)
    weight.dequantise(0, rows, expected)
    for start, stop in [(0, rows), (1, rows - 1), (rows - 1, rows)]:
        some = values[start:stop].fill_(math.nan)
        tiles.dequantise(start, stop, some)
        assert torch.equal(some, expected[start:stop])
    ids = torch.tensor([rows - 1, 0, 2, 2])
    gathered = torch.empty(4, weight.shape[1])
    tiles.gather(ids, gathered)
    assert torch.equal(gathered, expected[ids])
    for operand in (weight, tiles):
        gathered.fill_(math.nan)
        embedding.NATIVE.launch(ids, operand, out=gathered, workspace=Workspace(ids.device))
        assert torch.equal(gathered, expected[ids])


@pytest.mark.parametrize("name", PACKED_FORMS)
def test_tiles_need_no_more_memory(name: str) -> None:
    weight = random_packed(PACKED_FORMS[name], 64, 8 * columns_of(name), torch.Generator().manual_seed(0))
    assert tile(weight).resident_bytes <= 1.01 * weight.resident_bytes


def test_rows_of_a_larger_tensor() -> None:
    """Planes whose rows are not neighbours, as slices of a stacked weight."""
    wide, narrow = weight_of("Q4_0", 40), weight_of("Q4_0", 20)
    planes = wide.codes.over(lambda data: data[::2])
    sliced = type(wide)(planes, 32, 32, wide.scales[::2], zero=8)
    assert sliced.shape == narrow.shape
    expected, values = torch.empty(sliced.shape), torch.empty(sliced.shape)
    sliced.dequantise(0, 20, expected)
    tile(sliced).dequantise(0, 20, values)
    assert torch.equal(values, expected)


def test_what_tiles_cannot_do_is_said() -> None:
    tiles = tile(weight_of("Q4_0", 3))
    with pytest.raises(UnsupportedError, match="rows"):
        tiles.reorder_rows(torch.arange(3))
    with pytest.raises(UnsupportedError, match="cuda"):
        tiles.to(torch.device("cuda"))
    assert tiles.to(torch.device("cpu")) is tiles
