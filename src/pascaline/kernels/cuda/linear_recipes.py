"""What each way of computing a linear launches.

A function here takes a `Product` and a geometry, None for the kernel's own choice, and makes a `Recipe` from
"x" and "bias" to "y".
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, cast

import torch

from pascaline.kernels.cuda.dequantise import plan_dequantise
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.linear_decode import DecodeGeometry, candidates_linear_decode, plan_linear_decode
from pascaline.kernels.cuda.linear_dense_columns import (
    DenseColumnsGeometry,
    candidates_linear_dense_columns,
    plan_linear_dense_columns,
)
from pascaline.kernels.cuda.linear_dense_decode import (
    DenseDecodeGeometry,
    candidates_linear_dense_decode,
    plan_linear_dense_decode,
)
from pascaline.kernels.cuda.linear_mma import MmaGeometry, candidates_linear_mma, plan_linear_mma
from pascaline.kernels.cuda.linear_product import Product
from pascaline.kernels.cuda.linear_rows import RowsGeometry, candidates_linear_rows, plan_linear_rows
from pascaline.kernels.cuda.linear_simt import SimtGeometry, candidates_linear_simt, plan_linear_simt
from pascaline.kernels.cuda.linear_tile import TileGeometry, candidates_linear_tile, plan_linear_tile
from pascaline.kernels.cuda.linear_wgmma import WgmmaGeometry, candidates_linear_wgmma, plan_linear_wgmma
from pascaline.kernels.cuda.order_input import ordered_shape, plan_order_input
from pascaline.kernels.cuda.quantise_input import InputForm, plan_quantise_input, quantised_shapes
from pascaline.kernels.cuda.recipe import Buffers, Described, Recipe, Step
from pascaline.kernels.cuda.round_rows import plan_add_products, plan_round_rows
from pascaline.kernels.cuda.scale_back import plan_scale_back
from pascaline.kernels.cuda.scale_rows import plan_scale_rows
from pascaline.kernels.cuda.specialisation import LaunchPlan
from pascaline.workload.limits import DENSE_ELEMENTS, PARTIAL_BYTES
from pascaline.workload.slab_form import TILE_OUTPUTS

Geometry = TypeVar("Geometry")

_WIDE = torch.float32


def decode(product: Product, inputs: InputForm, geometry: object) -> Recipe:
    """One launch: inputs become integers on the way."""
    plan = plan_linear_decode(
        product.form, product.call, product.chip, inputs, cast(DecodeGeometry | None, geometry)
    )
    return Recipe((plan,))


def decode_candidates(product: Product, inputs: InputForm) -> list[LaunchPlan]:
    return candidates_linear_decode(product.form, product.call, product.chip, inputs)


def tile(product: Product, inputs: InputForm, geometry: object) -> Recipe:
    """The input is quantised by a launch of its own: every block of the product reads all of it."""
    call = product.call
    plan = _planned(
        lambda chosen: plan_linear_tile(product.form, call, product.chip, inputs, cast(TileGeometry, chosen)),
        geometry,
        tile_candidates,
        product,
        inputs,
    )
    shapes = quantised_shapes(call.rows, call.columns, inputs.planes)
    return Recipe((_quantising(product, inputs), plan), shapes)


def tile_candidates(product: Product, inputs: InputForm) -> list[LaunchPlan]:
    return _modest(candidates_linear_tile(product.form, product.call, product.chip, inputs))


def rows(product: Product, inputs: InputForm, geometry: object) -> Recipe:
    """As `tile`, for a few rows; one launch where inputs are not quantised."""
    return _rows(product, inputs, geometry, rows_candidates, by_tensor_cores=False)


def rows_candidates(product: Product, inputs: InputForm) -> list[LaunchPlan]:
    return _rows_candidates(product, inputs, by_tensor_cores=False)


def matrix_rows(product: Product, inputs: InputForm, geometry: object) -> Recipe:
    """As `rows`, by tensor cores."""
    return _rows(product, inputs, geometry, matrix_rows_candidates, by_tensor_cores=True)


def matrix_rows_candidates(product: Product, inputs: InputForm) -> list[LaunchPlan]:
    return _rows_candidates(product, inputs, by_tensor_cores=True)


def _rows(
    product: Product,
    inputs: InputForm,
    geometry: object,
    candidates: Callable[..., list[LaunchPlan]],
    *,
    by_tensor_cores: bool,
) -> Recipe:
    call = product.call
    plan = _planned(
        lambda chosen: plan_linear_rows(
            product.form,
            call,
            product.chip,
            inputs.planes,
            cast(RowsGeometry, chosen),
            has_permutation=product.is_permuted,
            by_tensor_cores=by_tensor_cores,
        ),
        geometry,
        candidates,
        product,
        inputs,
    )
    if not inputs.is_quantised:
        return Recipe((plan,))
    return Recipe(
        (_quantising(product, inputs), plan),
        quantised_shapes(call.rows, call.columns, inputs.planes),
    )


def _rows_candidates(product: Product, inputs: InputForm, *, by_tensor_cores: bool) -> list[LaunchPlan]:
    return _modest(
        candidates_linear_rows(
            product.form,
            product.call,
            product.chip,
            inputs.planes,
            has_permutation=product.is_permuted,
            by_tensor_cores=by_tensor_cores,
        )
    )


def _quantising(product: Product, inputs: InputForm) -> LaunchPlan:
    call = product.call
    return plan_quantise_input(
        call.rows,
        call.columns,
        call.input_dtype,
        inputs.planes,
        inputs.scale_group,
        has_permutation=product.is_permuted,
    )


def simt(product: Product, geometry: object) -> Recipe:
    """One launch in fp32, of weights of any kind."""
    plan = _planned(
        lambda chosen: _simt_plan(product, cast(SimtGeometry, chosen)), geometry, simt_candidates, product
    )
    return Recipe((plan,))


def _simt_plan(product: Product, geometry: SimtGeometry) -> LaunchPlan:
    return plan_linear_simt(
        product.stored, product.call, product.chip, geometry, has_permutation=product.is_permuted
    )


def simt_candidates(product: Product) -> list[LaunchPlan]:
    return _modest(
        candidates_linear_simt(
            product.stored, product.call, product.chip, has_permutation=product.is_permuted
        )
    )


def mma(product: Product, geometry: object) -> Recipe:
    """Tensor cores read fp16: rows of fp32 are scaled so that nothing overflows, and their products back."""
    call = product.call
    inner = _of_scaled_rows(call)
    plan = _planned(
        lambda chosen: plan_linear_mma(
            product.form,
            inner,
            product.chip,
            cast(MmaGeometry, chosen),
            is_permuted=product.is_permuted,
        ),
        geometry,
        mma_candidates,
        product,
    )
    if inner is call:
        return Recipe((plan,))
    before = plan_scale_rows(call.rows, call.columns, call.input_dtype)
    return Recipe((before, _renamed(plan, {"x": "scaled"}), plan_scale_back(call)), _scaled_shapes(product))


def _of_scaled_rows(call: LinearCall) -> LinearCall:
    """What tensor cores are given: of fp32 rows those that were scaled; the bias is added after them."""
    return replace(call, input_dtype=torch.float16, bias_dtype=None) if call.input_dtype == _WIDE else call


def mma_candidates(product: Product) -> list[LaunchPlan]:
    return _modest(
        candidates_linear_mma(product.form, product.call, product.chip, is_permuted=product.is_permuted)
    )


def wgmma(product: Product, geometry: object) -> Recipe:
    """As `mma`, of rows that are put in the order of the products by a launch of their own."""
    call = product.call
    inner = _of_scaled_rows(call)
    plan = _planned(
        lambda chosen: plan_linear_wgmma(product.form, inner, product.chip, cast(WgmmaGeometry, chosen)),
        geometry,
        wgmma_candidates,
        product,
    )
    ordered = {"ordered": ordered_shape(call.rows, call.columns)}
    if inner is call:
        order = plan_order_input(call.rows, call.columns, torch.float16, is_permuted=product.is_permuted)
        return Recipe((order, plan), ordered)
    steps: tuple[Step, ...] = (
        plan_scale_rows(call.rows, call.columns, call.input_dtype, is_permuted=product.is_permuted),
        _renamed(plan_order_input(call.rows, call.columns, torch.float16), {"x": "scaled"}),
        plan,
        plan_scale_back(call),
    )
    return Recipe(steps, _scaled_shapes(product) | ordered)


def wgmma_candidates(product: Product) -> list[LaunchPlan]:
    return _modest(candidates_linear_wgmma(product.form, product.call, product.chip))


def dequantised(product: Product, geometry: object) -> Recipe:
    """The weight made dense in fp16, piece by piece, and a library's product by tensor cores."""
    call = product.call
    outputs = _piece_outputs(call)
    is_scaled = call.input_dtype == _WIDE or product.is_permuted
    steps: list[Step] = []
    if is_scaled:
        steps.append(
            plan_scale_rows(call.rows, call.columns, call.input_dtype, is_permuted=product.is_permuted)
        )
    for start in range(0, call.outputs, outputs):
        stop = min(start + outputs, call.outputs)
        steps.append(
            plan_dequantise(product.form, call.outputs, call.columns, torch.float16, start=start, stop=stop)
        )
        x = "scaled" if is_scaled else "x"
        steps.append(functools.partial(_multiply_piece, x=x, start=start, stop=stop))
    if is_scaled:
        steps.append(plan_scale_back(call))
    elif call.bias_dtype is not None:
        steps.append(_add_bias)
    shapes: dict[str, Described] = {"dense": ((outputs, call.columns), torch.float16)}
    return Recipe(tuple(steps), shapes | (_scaled_shapes(product) if is_scaled else {}))


def dense_decode(product: Product, geometry: object) -> Recipe:
    """One launch, in fp32."""
    plan = plan_linear_dense_decode(
        product.call, product.dtype, product.chip, cast(DenseDecodeGeometry | None, geometry)
    )
    return Recipe((plan,))


def dense_decode_candidates(product: Product) -> list[LaunchPlan]:
    return candidates_linear_dense_decode(product.call, product.dtype, product.chip)


def dense_columns(product: Product, geometry: object) -> Recipe:
    """One launch, in fp32, of one row whose inputs stay in registers."""
    plan = plan_linear_dense_columns(
        product.call, product.dtype, product.chip, cast(DenseColumnsGeometry | None, geometry)
    )
    return Recipe((plan,))


def dense_columns_candidates(product: Product) -> list[LaunchPlan]:
    return candidates_linear_dense_columns(product.call, product.dtype, product.chip)


def dense_half(product: Product, geometry: object) -> Recipe:
    """A library's product by tensor cores, of rows that are scaled into fp16's range."""
    call = product.call
    before = plan_scale_rows(call.rows, call.columns, call.input_dtype)
    multiply = functools.partial(_multiply_whole, x="scaled", y="y")
    return Recipe((before, multiply, plan_scale_back(call)), _scaled_shapes(product))


def dense_brain(product: Product, geometry: object) -> Recipe:
    """x as a sum of two bf16 numbers, which has its first 16 bits: twice the rows, and no range is lost."""
    call = product.call
    shapes: dict[str, Described] = {
        "halves": ((2 * call.rows, call.columns), torch.bfloat16),
        "products": ((2 * call.rows, call.outputs), _WIDE),
    }
    multiply = functools.partial(_multiply_whole, x="halves", y="products")
    return Recipe((_rounding(call, 2), multiply, plan_add_products(call, 2)), shapes)


def dense_brain_rounded(product: Product, geometry: object) -> Recipe:
    """x rounded to bf16, as engines that keep activations so have it: half of the work."""
    call = product.call
    steps: tuple[Step, ...] = (_rounding(call, 1), functools.partial(_multiply_whole, x="halves", y="y"))
    if call.bias_dtype is not None:
        steps = (*steps, plan_add_products(call, 1))
    return Recipe(steps, {"halves": ((call.rows, call.columns), torch.bfloat16)})


def _rounding(call: LinearCall, numbers: int) -> LaunchPlan:
    return plan_round_rows(call.rows, call.columns, call.input_dtype, numbers)


def _planned(
    plan: Callable[[object], LaunchPlan],
    geometry: object,
    candidates: Callable[..., list[LaunchPlan]],
    product: Product,
    *more: object,
) -> LaunchPlan:
    """With `geometry`, or where that is None with the best of `candidates(product, *more)`.

    Both are those of the next of the steps of rows, so that all up to it share machine code. Where they want
    more scratch memory for these rows than was planned for, the best for just these takes their place.
    """
    taken_over = plan(geometry or _first(candidates, product.stepped(), *more).geometry)
    if taken_over.scratch_bytes <= PARTIAL_BYTES:
        return taken_over
    return plan(_first(candidates, product, *more).geometry)


@functools.lru_cache(maxsize=4096)
def _first(candidates: Callable[..., list[LaunchPlan]], product: Product, *more: object) -> LaunchPlan:
    return candidates(product, *more)[0]


def _modest(plans: list[LaunchPlan]) -> list[LaunchPlan]:
    """Those whose scratch memory is no more than planned for; where all want more, what wants least."""
    modest = [plan for plan in plans if plan.scratch_bytes <= PARTIAL_BYTES]
    return modest or [min(plans, key=lambda plan: plan.scratch_bytes)]


def _renamed(plan: LaunchPlan, names: dict[str, str]) -> LaunchPlan:
    """A plan that takes other buffers."""
    arguments = tuple(names.get(each, each) if isinstance(each, str) else each for each in plan.arguments)
    return replace(plan, arguments=arguments)


def _scaled_shapes(product: Product) -> dict[str, Described]:
    call = product.call
    return {
        "scaled": ((call.rows, call.columns), torch.float16),
        "factors": ((call.rows, 1), torch.float32),
    }


def _piece_outputs(call: LinearCall) -> int:
    """Of pieces that are all about as large."""
    pieces = -(-call.outputs * call.columns // DENSE_ELEMENTS)
    return min(call.outputs, -(-call.outputs // pieces // TILE_OUTPUTS) * TILE_OUTPUTS)


def _given(buffers: Buffers, name: str) -> torch.Tensor:
    found = buffers[name]
    assert found is not None, name  # noqa: S101 - steps name what recipes hand on
    return found


def _multiply(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    """x · weightᵀ, sums and result in the dtype of `out`."""
    if out.dtype == x.dtype:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.mm(x, weight.t(), out_dtype=out.dtype, out=out)


def _multiply_piece(buffers: Buffers, x: str, start: int, stop: int) -> None:
    dense, y = _given(buffers, "dense"), _given(buffers, "y")
    _multiply(_given(buffers, x), dense[: stop - start], y[:, start:stop])


def _multiply_whole(buffers: Buffers, x: str, y: str) -> None:
    _multiply(_given(buffers, x), _given(buffers, "weight"), _given(buffers, y))


def _add_bias(buffers: Buffers) -> None:
    bias = buffers["bias"]
    if bias is not None:
        _given(buffers, "y").add_(bias)
