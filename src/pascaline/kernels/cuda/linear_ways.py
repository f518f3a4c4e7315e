"""All ways of computing a linear on a card: one list, for the policy, tuning, start-up and benchmarks."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from pascaline.kernels.cuda import linear_recipes as recipes
from pascaline.kernels.cuda.linear_bounds import Arithmetic
from pascaline.kernels.cuda.linear_decode import DecodeGeometry
from pascaline.kernels.cuda.linear_dense_columns import DenseColumnsGeometry, refusal_of_columns
from pascaline.kernels.cuda.linear_dense_decode import DenseDecodeGeometry
from pascaline.kernels.cuda.linear_mma import LEAST_ROUNDED_ROWS, MmaGeometry
from pascaline.kernels.cuda.linear_product import Product
from pascaline.kernels.cuda.linear_rows import MATRIX_CAPABILITY, MATRIX_SCALE_GROUPS, MOST_ROWS, RowsGeometry
from pascaline.kernels.cuda.linear_simt import SimtGeometry
from pascaline.kernels.cuda.linear_tile import TILE_SCALE_GROUPS, TileGeometry
from pascaline.kernels.cuda.linear_way import LinearWay, Shares
from pascaline.kernels.cuda.linear_wgmma import WGMMA_CAPABILITY, WgmmaGeometry
from pascaline.kernels.cuda.quantise_input import InputForm
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.levels import Level
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.limits import ORDERED_ROWS
from pascaline.workload.slab_form import SLAB, Integers

_HALF, _HALF_FLOOR = 2.0**-11, 2.0**-25
"""Rounding to fp16: relative, and at least."""
_DECODE_ROWS, _DENSE_DECODE_ROWS = 4, 8
_WIDE_PRODUCTS_FROM = (2, 8)
"""torch whose products of halves come in fp32 (`out_dtype`)."""


def _everywhere(operations: float, bandwidth: float) -> tuple[tuple[tuple[int, int], Shares], ...]:
    return (((5, 0), Shares(operations, bandwidth)),)


def _refusal(product: Product, *, least_rows: int, most_rows: int | None, is_packed: bool) -> str | None:
    rows = product.call.rows
    if is_packed != isinstance(product.stored, SlabbedForm):
        return f"it multiplies by {'weights in slabs' if is_packed else 'dense weights'}"
    if not least_rows <= rows or (most_rows is not None and rows > most_rows):
        wanted = f"{least_rows} rows or more" if most_rows is None else f"{least_rows} to {most_rows} rows"
        return f"it takes {wanted}, not {rows}"
    return None


def _decode(planes: int, *, level: Level, operations: float) -> LinearWay:
    def inputs(product: Product) -> InputForm:
        return InputForm(planes, 32, product.is_permuted)

    names = {0: "decode_fp32", 1: "decode_one_plane", 2: "decode_two_planes"}
    return LinearWay(
        name=names[planes],
        file="linear_decode.cu",
        geometry=DecodeGeometry,
        unit="int8" if planes else "fp32",
        level=level,
        refusal=functools.partial(_refusal, least_rows=1, most_rows=_DECODE_ROWS, is_packed=True),
        recipe=lambda product, geometry: recipes.decode(product, inputs(product), geometry),
        candidates=lambda product: recipes.decode_candidates(product, inputs(product)),
        shares=_everywhere(operations, 0.82),
        products=max(1, planes),
        unpacking=6.0 if planes else 4.0,
        gates=True,
        arithmetic=lambda _: Arithmetic(planes, 32, code_excess=0.0 if planes else 384.0),
    )


def _tile(planes: int, *, level: Level) -> LinearWay:
    scale_group = TILE_SCALE_GROUPS[planes]

    def inputs(product: Product) -> InputForm:
        return InputForm(planes, scale_group, product.is_permuted, is_quantised=True)

    return LinearWay(
        name="tile_two_planes" if planes == 2 else "tile_one_plane",
        file="linear_tile.cu",
        geometry=TileGeometry,
        unit="int8",
        level=level,
        refusal=functools.partial(_refusal, least_rows=5, most_rows=None, is_packed=True),
        recipe=lambda product, geometry: recipes.tile(product, inputs(product), geometry),
        candidates=lambda product: recipes.tile_candidates(product, inputs(product)),
        shares=(((5, 0), Shares(0.68, 0.80)), ((7, 0), Shares(0.82, 0.80))),
        products=planes,
        launches=2,
        rows_at_a_time=32,
        arithmetic=lambda _: Arithmetic(planes=planes, scale_group=scale_group),
        gates=True,
    )


def _rows(planes: int, *, level: Level) -> LinearWay:
    def inputs(product: Product) -> InputForm:
        return InputForm(planes, 32, product.is_permuted, is_quantised=planes > 0)

    names = {0: "rows_fp32", 1: "rows_one_plane", 2: "rows_two_planes"}
    return LinearWay(
        name=names[planes],
        file="linear_rows.cu",
        geometry=RowsGeometry,
        unit="int8" if planes else "fp32",
        level=level,
        refusal=functools.partial(_refusal, least_rows=2, most_rows=MOST_ROWS, is_packed=True),
        recipe=lambda product, geometry: recipes.rows(product, inputs(product), geometry),
        candidates=lambda product: recipes.rows_candidates(product, inputs(product)),
        shares=_everywhere(0.65 if planes else 0.72, 0.80),
        products=max(1, planes),
        unpacking=8.0 if planes else 4.5,
        gates=True,
        launches=2 if planes else 1,
        arithmetic=lambda _: Arithmetic(planes, 32, code_excess=0.0 if planes else 128.0),
    )


def _rows_by_tensor_cores(planes: int, *, level: Level) -> LinearWay:
    scale_group = MATRIX_SCALE_GROUPS[planes]

    def inputs(product: Product) -> InputForm:
        return InputForm(planes, scale_group, product.is_permuted, is_quantised=True)

    return LinearWay(
        name="matrix_two_planes" if planes == 2 else "matrix_one_plane",
        file="linear_rows.cu",
        geometry=RowsGeometry,
        unit="tensor_int8",
        level=level,
        refusal=functools.partial(_refusal, least_rows=2, most_rows=MOST_ROWS, is_packed=True),
        recipe=lambda product, geometry: recipes.matrix_rows(product, inputs(product), geometry),
        candidates=lambda product: recipes.matrix_rows_candidates(product, inputs(product)),
        # Found on 9.0; for other chips from what they multiply and what they issue, not measured: of tensor
        # cores that are the faster, making their operands leaves the less.
        shares=(
            ((8, 0), Shares(0.3, 0.80)),
            ((8, 6), Shares(0.5, 0.80)),
            ((9, 0), Shares(0.16, 0.80)),
            ((12, 0), Shares(0.5, 0.80)),
        ),
        products=planes,
        launches=2,
        rows_at_a_time=8 // planes,
        arithmetic=lambda _: Arithmetic(planes=planes, scale_group=scale_group),
        needs=_needs_byte_products,
        gates=True,
    )


def _needs_byte_products(chip: ChipLimits) -> str | None:
    return (
        None
        if chip.compute_capability >= MATRIX_CAPABILITY
        else "mma.sync of bytes in this shape starts at 8.0"
    )


def _mma_arithmetic(product: Product) -> Arithmetic:
    """x rounded to fp16; weights where scales are, or may be, inside of a fragment or integers are wide."""
    form = product.form
    is_fine = 0 < form.super_size < SLAB
    may_round = form.integers is Integers.NONE and product.call.rows >= LEAST_ROUNDED_ROWS
    integer_bits = {
        Integers.NONE: 0,
        Integers.SCALE_8: 8,
        Integers.SCALES_8_8: 8,
        Integers.SCALES_OFFSETS_4: 4,
    }
    is_wide = integer_bits.get(form.integers, 6) + form.bits > 11
    return Arithmetic(
        weight_rounding=3 * _HALF if is_fine or may_round else _HALF if is_wide else 0.0,
        input_rounding=_HALF,
        input_floor=_HALF_FLOOR,
        code_excess=128.0,
        sum_roundings=4.0,
    )


def _needs_mma(chip: ChipLimits) -> str | None:
    return None if chip.compute_capability >= (7, 5) else "mma.sync of fp16 in this shape starts at 7.5"


def _needs_warpgroups(chip: ChipLimits) -> str | None:
    return (
        None
        if chip.compute_capability == WGMMA_CAPABILITY
        else "products of warpgroups are an instruction of 9.0 alone"
    )


def _wgmma_refusal(product: Product) -> str | None:
    refusal = _refusal(product, least_rows=LEAST_ROUNDED_ROWS, most_rows=ORDERED_ROWS, is_packed=True)
    if refusal is not None:
        return refusal
    if product.form.integers is not Integers.NONE:
        return "its weights are rounded once, and products of two scales would be twice"
    if product.call.input_dtype == torch.bfloat16:
        return "it multiplies fp16 numbers"
    return None


def _needs_wide_products(_: ChipLimits) -> str | None:
    version = tuple(int(part) for part in str(torch.__version__).split(".")[:2])
    return (
        None
        if version >= _WIDE_PRODUCTS_FROM
        else "it needs torch 2.8, whose products of halves come in fp32"
    )


def _too_few_rows(product: Product) -> str | None:
    return None if product.call.rows > _DECODE_ROWS else f"it takes more than {_DECODE_ROWS} rows"


def _dense_refusal(product: Product, dtype: torch.dtype) -> str | None:
    refusal = _refusal(product, least_rows=5, most_rows=None, is_packed=False)
    if refusal is None and product.dtype != dtype:
        return f"it multiplies by weights of {dtype}"
    return refusal


def _columns_refusal(product: Product) -> str | None:
    refusal = _refusal(product, least_rows=1, most_rows=1, is_packed=False)
    return refusal or refusal_of_columns(product.call, product.dtype)


def _by_library(
    name: str,
    recipe: Callable[[Product, object], Recipe],
    dtype: torch.dtype,
    arithmetic: Arithmetic,
    *,
    file: str,
    launches: int,
    products: int = 1,
    level: Level = "exact",
) -> LinearWay:
    """A library's product by tensor cores, of a dense weight of `dtype` and inputs that are made for it."""
    return LinearWay(
        name=name,
        file=file,
        geometry=None,
        unit="tensor_fp16" if dtype == torch.float16 else "tensor_bf16",
        level=level,
        refusal=functools.partial(_dense_refusal, dtype=dtype),
        recipe=recipe,
        launches=launches,
        products=products,
        shares=_everywhere(0.6, 0.80),
        rows_at_a_time=64,
        arithmetic=lambda _: arithmetic,
        needs=_needs_wide_products,
    )


LINEAR_WAYS: tuple[LinearWay, ...] = (
    _decode(0, level="exact", operations=0.3),
    LinearWay(
        name="simt",
        file="linear_simt.cu",
        geometry=SimtGeometry,
        unit="fp32",
        level="exact",
        refusal=_too_few_rows,
        recipe=recipes.simt,
        candidates=recipes.simt_candidates,
        shares=_everywhere(0.66, 0.80),
        gates=True,
        rows_at_a_time=32,
        arithmetic=lambda _: Arithmetic(),
    ),
    _rows(0, level="exact"),
    _decode(2, level="exact", operations=0.5),
    _decode(1, level="fast", operations=0.5),
    _rows(2, level="exact"),
    _rows(1, level="fast"),
    _rows_by_tensor_cores(2, level="exact"),
    _rows_by_tensor_cores(1, level="fast"),
    LinearWay(
        name="mma",
        file="linear_mma.cu",
        geometry=MmaGeometry,
        unit="tensor_fp16",
        level="exact",
        refusal=functools.partial(_refusal, least_rows=2, most_rows=None, is_packed=True),
        recipe=recipes.mma,
        candidates=recipes.mma_candidates,
        launches=3,
        shares=_everywhere(0.17, 0.46),
        rows_at_a_time=8,
        arithmetic=_mma_arithmetic,
        needs=_needs_mma,
    ),
    LinearWay(
        name="wgmma",
        file="linear_wgmma.cu",
        geometry=WgmmaGeometry,
        unit="tensor_fp16",
        level="exact",
        refusal=_wgmma_refusal,
        recipe=recipes.wgmma,
        candidates=recipes.wgmma_candidates,
        unpacking=90.0,
        launches=4,
        shares=_everywhere(0.6, 0.6),
        rows_at_a_time=16,
        arithmetic=_mma_arithmetic,
        needs=_needs_warpgroups,
    ),
    _tile(2, level="exact"),
    _tile(1, level="fast"),
    LinearWay(
        name="dequantised",
        file="dequantise.cu",
        geometry=None,
        unit="tensor_fp16",
        level="exact",
        refusal=functools.partial(_refusal, least_rows=17, most_rows=None, is_packed=True),
        recipe=recipes.dequantised,
        shares=_everywhere(0.67, 0.83),
        launches=4,
        copied_bytes=2.0,
        rows_at_a_time=64,
        arithmetic=lambda _: Arithmetic(
            weight_rounding=_HALF,
            input_rounding=_HALF,
            input_floor=_HALF_FLOOR,
            weight_floor=_HALF_FLOOR,
            sum_roundings=4.0,
        ),
        needs=_needs_wide_products,
    ),
    LinearWay(
        name="dense_decode",
        file="linear_dense_decode.cu",
        geometry=DenseDecodeGeometry,
        unit="fp32",
        level="exact",
        refusal=functools.partial(_refusal, least_rows=1, most_rows=_DENSE_DECODE_ROWS, is_packed=False),
        recipe=recipes.dense_decode,
        candidates=recipes.dense_decode_candidates,
        shares=_everywhere(0.35, 0.80),
        gates=True,
        arithmetic=lambda _: Arithmetic(),
    ),
    # Not measured: as fast as the one before by prediction, which stays until tuning finds otherwise.
    LinearWay(
        name="dense_columns",
        file="linear_dense_columns.cu",
        geometry=DenseColumnsGeometry,
        unit="fp32",
        level="exact",
        refusal=_columns_refusal,
        recipe=recipes.dense_columns,
        candidates=recipes.dense_columns_candidates,
        shares=_everywhere(0.35, 0.80),
        gates=True,
        arithmetic=lambda _: Arithmetic(),
    ),
    _by_library(
        "dense_half",
        recipes.dense_half,
        torch.float16,
        Arithmetic(input_rounding=_HALF, input_floor=_HALF_FLOOR, sum_roundings=4.0),
        file="scale_rows.cu",
        launches=3,
    ),
    _by_library(
        "dense_brain",
        recipes.dense_brain,
        torch.bfloat16,
        Arithmetic(input_rounding=2.0**-16, sum_roundings=4.0),
        file="round_rows.cu",
        launches=3,
        products=2,
    ),
    _by_library(
        "dense_brain_rounded",
        recipes.dense_brain_rounded,
        torch.bfloat16,
        Arithmetic(input_rounding=2.0**-8, sum_roundings=4.0),
        file="round_rows.cu",
        launches=2,
        level="rounded",
    ),
)
"""The most exact of those that take as long first."""
