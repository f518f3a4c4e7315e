"""Packed weights put into tiles by the native library."""

from __future__ import annotations

from dataclasses import replace

from pascaline.core.errors import ShapeError
from pascaline.kernels.cpu import native
from pascaline.kernels.cpu.views import is_in_place, packed_view, view_of
from pascaline.weights import Packed, Tiled
from pascaline.weights.tiled import tiles_for


def tile(weight: Packed) -> Tiled:
    """The same weight, sixteen rows side by side, in new memory; there must be a native library."""
    if not is_in_place(weight):
        raise ShapeError("a weight whose rows are not contiguous", expected="elements of a row side by side")
    if weight.table is not None:
        weight = replace(weight, table=weight.table.contiguous())
    tiles = tiles_for(weight)
    native.loaded().retile(packed_view(weight), view_of(tiles))
    return tiles
