"""Machine code of sm_61 of the linears, executed by the emulator: against fp64, as in every executor."""

from __future__ import annotations

import numpy
import pytest
import torch
from emulated_card import TITAN_X, emulate
from linear_harness import FORMS, LinearCase, as_array, check_linear, compare, from_array

from pascaline.hardware.nvrtc import nvrtc_libraries
from pascaline.kernels.cuda.dequantise import plan_dequantise
from pascaline.kernels.cuda.linear_bounds import Arithmetic, Terms
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.linear_decode import plan_linear_decode
from pascaline.kernels.cuda.linear_dense_decode import plan_linear_dense_decode
from pascaline.kernels.cuda.linear_rows import plan_linear_rows
from pascaline.kernels.cuda.linear_simt import SimtGeometry, plan_linear_simt
from pascaline.kernels.cuda.linear_tile import TileGeometry, plan_linear_tile
from pascaline.kernels.cuda.quantise_input import InputForm, plan_quantise_input, quantised_shapes
from pascaline.kernels.cuda.scale_rows import plan_scale_rows
from pascaline.kernels.cuda.specialisation import LaunchPlan
from pascaline.kernels.op import FP32_ROUNDING
from pascaline.kernels.packed_cases import random_packed
from pascaline.weights.slab_layout import to_slabs
from pascaline.weights.slabbed import SlabbedForm

pytestmark = pytest.mark.skipif(not nvrtc_libraries(), reason="no NVRTC is installed here")

EXACT = InputForm(planes=2, scale_group=32, is_quantised=True)
FAST = InputForm(planes=1, scale_group=64, is_quantised=True)


@pytest.mark.parametrize("planes", [2, 1, 0])
@pytest.mark.parametrize(
    "case",
    [
        LinearCase("Q4_0", 1, 150, 1100),
        LinearCase("Q6_K", 1, 13, 400),
        LinearCase("Q4_K", 2, 9, 400, torch.float32, torch.float32),
        LinearCase("GPTQ 4 bits", 2, 20, 300, bias_dtype=torch.float16, has_residual=True),
        LinearCase("MXFP4", 3, 16, 300, torch.bfloat16, torch.bfloat16),
        LinearCase("Q3_K", 1, 16, 300, is_gated=True),
    ],
    ids=str,
)
def test_linear_decode(case: LinearCase, planes: int) -> None:
    inputs = InputForm(planes, 32, has_permutation=FORMS[case.form].permutation)

    def plan(form: SlabbedForm, call: LinearCall) -> LaunchPlan:
        return plan_linear_decode(form, call, TITAN_X, inputs)

    check_linear(plan, Arithmetic(planes, 32), case, emulate)


@pytest.mark.parametrize("planes", [2, 1, 0])
@pytest.mark.parametrize(
    "case",
    [
        LinearCase("GPTQ 4 bits", 3, 13, 400),
        LinearCase("Q4_K", 16, 9, 300, torch.float32, torch.float32),
        LinearCase("Q6_K", 8, 150, 1100),
        LinearCase("Q5_0", 5, 26, 300, bias_dtype=torch.float16, has_residual=True),
        LinearCase("Q2_K", 7, 32, 300, is_gated=True),
    ],
    ids=str,
)
def test_linear_rows(case: LinearCase, planes: int) -> None:
    def plan(form: SlabbedForm, call: LinearCall) -> LaunchPlan:
        is_permuted = FORMS[case.form].permutation
        return plan_linear_rows(form, call, TITAN_X, planes, has_permutation=is_permuted)

    check_linear(plan, Arithmetic(planes, 32, code_excess=0.0 if planes else 128.0), case, emulate)


@pytest.mark.parametrize(
    ("case", "inputs", "geometry"),
    [
        (LinearCase("GPTQ 4 bits", 17, 13, 400), EXACT, None),
        (LinearCase("Q4_K", 33, 40, 300), FAST, None),
        (LinearCase("Q6_K", 1, 9, 300, torch.float32, torch.float32), EXACT, None),
        (LinearCase("Q5_0", 18, 13, 300, bias_dtype=torch.float16, has_residual=True), FAST, None),
        (LinearCase("AWQ", 35, 37, 640), EXACT, TileGeometry(1, 2, 4, splits=3)),
        (LinearCase("Q4_K", 35, 48, 640, is_gated=True), FAST, TileGeometry(2, 1, 4, splits=2)),
    ],
    ids=str,
)
def test_linear_tile(case: LinearCase, inputs: InputForm, geometry: TileGeometry | None) -> None:
    def plan(form: SlabbedForm, call: LinearCall) -> LaunchPlan:
        return plan_linear_tile(form, call, TITAN_X, inputs, geometry)

    check_linear(plan, Arithmetic(inputs.planes, inputs.scale_group), case, emulate)


@pytest.mark.parametrize(
    ("case", "geometry"),
    [
        (LinearCase("GPTQ 4 bits", 17, 13, 300), None),
        (LinearCase("Q6_K", 5, 9, 300, torch.float32, torch.float32, has_residual=True), None),
        (LinearCase("Q4_K", 35, 48, 512, is_gated=True), SimtGeometry(4, 1, 4, splits=2)),
    ],
    ids=str,
)
def test_linear_simt(case: LinearCase, geometry: SimtGeometry | None) -> None:
    def plan(form: SlabbedForm, call: LinearCall) -> LaunchPlan:
        permuted = FORMS[case.form].permutation
        return plan_linear_simt(form, call, TITAN_X, geometry, has_permutation=permuted)

    check_linear(plan, Arithmetic(), case, emulate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["Q4_0", "Q2_K", "Q5_K", "GPTQ 8 bits", "IQ4_XS"])
def test_dequantise(name: str, dtype: torch.dtype) -> None:
    """A piece of the outputs; two roundings of fp32 and one of the result's type."""
    columns = LinearCase(name, 1, columns=300).actual_columns
    weight = random_packed(FORMS[name], 27, columns, torch.Generator().manual_seed(columns))
    slabbed = to_slabs(weight)
    dense = torch.empty(11, columns, dtype=dtype)
    buffers = {key: as_array(tensor) for key, tensor in slabbed.buffers.items()} | {"dense": as_array(dense)}
    emulate(plan_dequantise(slabbed.form, 27, columns, dtype, start=8, stop=19), buffers, ("dense",))
    terms = Terms.of(weight)
    expected = terms.weight[8:19]
    unit = torch.finfo(dtype).eps / 2
    smallest = torch.finfo(dtype).smallest_normal * unit
    bound = 2 * FP32_ROUNDING * terms.magnitude[8:19] + unit * numpy.abs(expected) + smallest
    compare(from_array(buffers["dense"], dtype), expected, bound)


@pytest.mark.parametrize("is_permuted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scale_rows(dtype: torch.dtype, is_permuted: bool) -> None:
    """Powers of two, so that x = scaled · factor but for the rounding to fp16; a row of zeros, a huge one."""
    rows, columns = 4, 300
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, columns, generator=generator).exp()
    x[1], x[2] = 0, x[2] * 2.0**100
    x = x.to(dtype)
    order = torch.randperm(columns, generator=generator).int()
    scaled, factors = torch.empty(rows, columns, dtype=torch.float16), torch.empty(rows)
    results = {"scaled": scaled.numpy(), "factors": factors.numpy()}
    buffers = {"x": as_array(x), "inputs": order.numpy(), **results}
    emulate(plan_scale_rows(rows, columns, dtype, is_permuted=is_permuted), buffers, tuple(results))
    assert (torch.frexp(factors).mantissa == 0.5).all()
    expected = (x.double()[:, order.long()] if is_permuted else x.double()).numpy()
    size = numpy.abs(expected)
    bound = numpy.maximum(size * 2.0**-11, size.max(axis=1, keepdims=True) * 2.0**-25)
    compare(scaled.double() * factors.double()[:, None], expected, bound)
    assert (scaled[[0, 2, 3]].abs().amax(1) >= 1).all()
    assert (scaled.abs() <= 2).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("planes", "scale_group"), [(2, 32), (1, 64)])
def test_quantise_input(planes: int, scale_group: int, dtype: torch.dtype) -> None:
    """Integers are as near as fp32's reciprocal allows, their sums exact, padding is zero."""
    rows, columns = 5, 300
    generator = torch.Generator().manual_seed(planes)
    x = torch.randn(rows, columns, generator=generator).exp().to(dtype)
    x[0, 32:64] = 0
    order = torch.randperm(columns, generator=generator).int()
    inputs = torch.full((384,), -1, dtype=torch.int32)
    inputs[:columns] = order
    buffers = {
        name: as_array(torch.empty(shape, dtype=kind))
        for name, (shape, kind) in quantised_shapes(rows, columns, planes).items()
    }
    plan = plan_quantise_input(rows, columns, dtype, planes, scale_group, has_permutation=True)
    emulate(plan, {"x": as_array(x), "inputs": inputs.numpy(), **buffers}, tuple(buffers))
    stored = torch.nn.functional.pad(x.double()[:, order.long()], (0, 384 - columns)).numpy()
    codes = buffers["input_codes"].astype(int)
    integers = (codes[:, :, 0] * 256 + codes[:, :, 1] if planes == 2 else codes[:, :, 0]).swapaxes(0, 1)
    integers = integers.reshape(rows, -1)
    scales = buffers["input_scales"].swapaxes(0, 1).reshape(rows, -1).astype(float)
    largest = 32512 if planes == 2 else 127
    expected = numpy.abs(stored.reshape(rows, -1, scale_group)).max(axis=2) / largest
    assert numpy.allclose(scales, expected.repeat(scale_group // 32, axis=1), rtol=2**-22, atol=0)
    # The reciprocal and the product are each rounded: 4 · 2^-24 of the integer at most.
    bound = scales.repeat(32, axis=1) * (0.5 + largest * 2.0**-22)
    assert (numpy.abs(integers * scales.repeat(32, axis=1) - stored) <= bound).all()
    sums = buffers["input_sums"].swapaxes(0, 1).reshape(rows, -1)
    assert (sums == integers.reshape(rows, -1, 16).sum(axis=2)).all()


@pytest.mark.parametrize("weight_dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "outputs", "columns"), [(1, 13, 300), (4, 9, 72)])
def test_linear_dense_decode(weight_dtype: torch.dtype, rows: int, outputs: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(outputs, columns, generator=generator).to(weight_dtype)
    x = torch.randn(rows, columns, generator=generator).half()
    y = torch.empty(rows, outputs)
    call = LinearCall(rows, outputs, columns, torch.float16, torch.float32)
    buffers = {"weight": as_array(weight), "x": as_array(x), "y": as_array(y)}
    emulate(plan_linear_dense_decode(call, weight_dtype, TITAN_X), buffers, ("y",))
    terms = x.double().numpy()[:, None, :] * weight.double().numpy()[None]
    # `columns` products and as many sums, each rounded to fp32.
    bound = 2 * columns * 2.0**-24 * numpy.abs(terms).sum(axis=2)
    compare(y, terms.sum(axis=2), bound)
