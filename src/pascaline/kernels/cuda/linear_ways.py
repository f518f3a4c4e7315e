"""All ways of computing a linear on a card: one list, for the policy, tuning, start-up and benchmarks.

A way takes as long as its arithmetic or its memory traffic at the shares of the chip's limits that it
reaches, whichever is longer, and a launch for each step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from pascaline.hardware.architectures import Arithmetic as Unit
from pascaline.hardware.roofline import Roofline
from pascaline.kernels.cuda import linear_recipes as recipes
from pascaline.kernels.cuda.linear_bounds import Arithmetic
from pascaline.kernels.cuda.linear_decode import DecodeGeometry
from pascaline.kernels.cuda.linear_dense_decode import DenseDecodeGeometry
from pascaline.kernels.cuda.linear_mma import LEAST_ROUNDED_ROWS, MmaGeometry
from pascaline.kernels.cuda.linear_product import Product
from pascaline.kernels.cuda.linear_rows import MOST_ROWS, RowsGeometry
from pascaline.kernels.cuda.linear_simt import SimtGeometry
from pascaline.kernels.cuda.linear_tile import TILE_SCALE_GROUPS, TileGeometry
from pascaline.kernels.cuda.linear_wgmma import WGMMA_CAPABILITY, WgmmaGeometry
from pascaline.kernels.cuda.quantise_input import InputForm
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.limits import ORDERED_ROWS
from pascaline.workload.slab_form import SLAB, Integers

_HALF, _HALF_FLOOR = 2.0**-11, 2.0**-25
"""Rounding to fp16: relative, and at least."""
_DECODE_ROWS, _DENSE_DECODE_ROWS = 4, 8
_WIDE_PRODUCTS_FROM = (2, 8)
"""torch whose products of halves come in fp32 (`out_dtype`)."""


@dataclass(frozen=True)
class Shares:
    """What is reached of a chip's limits.

    Parameters
    ----------
    operations : of its unit's rate.
    bandwidth : of its memory's.
    """

    operations: float
    bandwidth: float


@dataclass(frozen=True)
class LinearWay:
    """One way.

    Parameters
    ----------
    name : "decode_two_planes".
    file : of its kernel.
    geometry : what it has a choice of; None if it has none.
    unit : of the chip, that multiplies.
    is_exact : it errs by no more than half storage does; else as 8-bit inputs do.
    products : multiply-adds of `unit` for each of the linear's.
    rows_at_a_time : rows are padded to a multiple of it.
    unpacking : operations, at the unit's rate, that a weight takes whatever the rows.
    launches : steps, of a weight that is not taken in pieces.
    copied_bytes : of a weight that is written dense before it is multiplied, which takes a time of its own.
    shares : by compute capability, from which on they count; those of the newest that is no newer.
    refusal : why it cannot, None if it can.
    recipe : `recipe(product, geometry)`; None for the kernel's own choice of geometry.
    candidates : plans whose geometries are worth measuring, the default first; empty if there is no choice.
    arithmetic : what its error follows from.
    """

    name: str
    file: str
    geometry: type | None
    unit: Unit
    is_exact: bool
    refusal: Callable[[Product], str | None]
    recipe: Callable[[Product, object], Recipe]
    shares: tuple[tuple[tuple[int, int], Shares], ...]
    arithmetic: Callable[[Product], Arithmetic]
    candidates: Callable[[Product], list[LaunchPlan]] = lambda _: []
    products: int = 1
    unpacking: float = 0.0
    launches: int = 1
    rows_at_a_time: int = 1
    copied_bytes: float = 0.0
    needs: Callable[[ChipLimits], str | None] = field(default=lambda _: None)

    def predicted_s(self, product: Product, weight_bytes: int, roofline: Roofline) -> float:
        """Seconds of a product by a weight of so many bytes."""
        call = product.call
        capability = product.chip.compute_capability
        shares = next(
            (shares for since, shares in reversed(self.shares) if since <= capability), self.shares[0][1]
        )
        rows = -(-call.rows // self.rows_at_a_time) * self.rows_at_a_time
        weights = call.outputs * call.columns
        operations = (2.0 * rows * self.products + self.unpacking) * weights
        activations = call.rows * (
            call.columns * call.input_dtype.itemsize + call.outputs * call.output_dtype.itemsize
        )
        compute_s = operations / (roofline.operations_per_s[self.unit] * shares.operations)
        rate = roofline.bytes_per_s * shares.bandwidth
        dense_bytes = self.copied_bytes * weights
        copy_s = (weight_bytes + dense_bytes) / rate if dense_bytes else 0.0
        memory_s = ((dense_bytes or weight_bytes) + activations) / rate
        return copy_s + max(compute_s, memory_s) + self.launches * roofline.launch_s


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


def _decode(planes: int, *, is_exact: bool, operations: float) -> LinearWay:
    def inputs(product: Product) -> InputForm:
        return InputForm(planes, 32, product.is_permuted)

    names = {0: "decode_fp32", 1: "decode_one_plane", 2: "decode_two_planes"}
    return LinearWay(
        name=names[planes],
        file="linear_decode.cu",
        geometry=DecodeGeometry,
        unit="int8" if planes else "fp32",
        is_exact=is_exact,
        refusal=functools.partial(_refusal, least_rows=1, most_rows=_DECODE_ROWS, is_packed=True),
        recipe=lambda product, geometry: recipes.decode(product, inputs(product), geometry),
        candidates=lambda product: recipes.decode_candidates(product, inputs(product)),
        shares=_everywhere(operations, 0.82),
        products=max(1, planes),
        unpacking=6.0 if planes else 4.0,
        arithmetic=lambda _: Arithmetic(planes, 32, code_excess=0.0 if planes else 384.0),
    )


def _tile(planes: int, *, is_exact: bool) -> LinearWay:
    scale_group = TILE_SCALE_GROUPS[planes]

    def inputs(product: Product) -> InputForm:
        return InputForm(planes, scale_group, product.is_permuted, is_quantised=True)

    return LinearWay(
        name="tile_two_planes" if planes == 2 else "tile_one_plane",
        file="linear_tile.cu",
        geometry=TileGeometry,
        unit="int8",
        is_exact=is_exact,
        refusal=functools.partial(_refusal, least_rows=5, most_rows=None, is_packed=True),
        recipe=lambda product, geometry: recipes.tile(product, inputs(product), geometry),
        candidates=lambda product: recipes.tile_candidates(product, inputs(product)),
        shares=(((5, 0), Shares(0.68, 0.80)), ((7, 0), Shares(0.82, 0.80))),
        products=planes,
        launches=2,
        rows_at_a_time=32,
        arithmetic=lambda _: Arithmetic(planes=planes, scale_group=scale_group),
    )


def _rows(planes: int, *, is_exact: bool) -> LinearWay:
    def inputs(product: Product) -> InputForm:
        return InputForm(planes, 32, product.is_permuted, is_quantised=planes > 0)

    names = {0: "rows_fp32", 1: "rows_one_plane", 2: "rows_two_planes"}
    return LinearWay(
        name=names[planes],
        file="linear_rows.cu",
        geometry=RowsGeometry,
        unit="int8" if planes else "fp32",
        is_exact=is_exact,
        refusal=functools.partial(_refusal, least_rows=2, most_rows=MOST_ROWS, is_packed=True),
        recipe=lambda product, geometry: recipes.rows(product, inputs(product), geometry),
        candidates=lambda product: recipes.rows_candidates(product, inputs(product)),
        shares=_everywhere(0.65 if planes else 0.72, 0.80),
        products=max(1, planes),
        unpacking=8.0 if planes else 4.5,
        launches=2 if planes else 1,
        arithmetic=lambda _: Arithmetic(planes, 32, code_excess=0.0 if planes else 128.0),
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


LINEAR_WAYS: tuple[LinearWay, ...] = (
    _decode(0, is_exact=True, operations=0.3),
    LinearWay(
        name="simt",
        file="linear_simt.cu",
        geometry=SimtGeometry,
        unit="fp32",
        is_exact=True,
        refusal=_too_few_rows,
        recipe=recipes.simt,
        candidates=recipes.simt_candidates,
        shares=_everywhere(0.66, 0.80),
        rows_at_a_time=32,
        arithmetic=lambda _: Arithmetic(),
    ),
    _rows(0, is_exact=True),
    _decode(2, is_exact=True, operations=0.5),
    _decode(1, is_exact=False, operations=0.5),
    _rows(2, is_exact=True),
    _rows(1, is_exact=False),
    LinearWay(
        name="mma",
        file="linear_mma.cu",
        geometry=MmaGeometry,
        unit="tensor_fp16",
        is_exact=True,
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
        is_exact=True,
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
    _tile(2, is_exact=True),
    _tile(1, is_exact=False),
    LinearWay(
        name="dequantised",
        file="dequantise.cu",
        geometry=None,
        unit="tensor_fp16",
        is_exact=True,
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
        is_exact=True,
        refusal=functools.partial(_refusal, least_rows=1, most_rows=_DENSE_DECODE_ROWS, is_packed=False),
        recipe=recipes.dense_decode,
        candidates=recipes.dense_decode_candidates,
        shares=_everywhere(0.35, 0.80),
        arithmetic=lambda _: Arithmetic(),
    ),
    LinearWay(
        name="dense_half",
        file="scale_rows.cu",
        geometry=None,
        unit="tensor_fp16",
        is_exact=True,
        refusal=functools.partial(_dense_refusal, dtype=torch.float16),
        recipe=recipes.dense_half,
        launches=3,
        shares=_everywhere(0.6, 0.80),
        rows_at_a_time=64,
        arithmetic=lambda _: Arithmetic(input_rounding=_HALF, input_floor=_HALF_FLOOR, sum_roundings=4.0),
        needs=_needs_wide_products,
    ),
    LinearWay(
        name="dense_brain",
        file="scale_rows.cu",
        geometry=None,
        unit="tensor_bf16",
        is_exact=True,
        refusal=functools.partial(_dense_refusal, dtype=torch.bfloat16),
        recipe=recipes.dense_brain,
        launches=6,
        shares=_everywhere(0.6, 0.80),
        products=2,
        rows_at_a_time=64,
        arithmetic=lambda _: Arithmetic(input_rounding=2.0**-16, sum_roundings=4.0),
        needs=_needs_wide_products,
    ),
)
"""The most exact of those that take as long first."""
