"""Decode kernels of packed and of dense weights, and the quantisation of inputs, against fp64."""

from __future__ import annotations

import numpy
import pytest
import torch
from linear_harness import (
    FORMS,
    Execute,
    LinearCase,
    as_array,
    check_linear,
    compare,
    from_array,
    linear_cases,
    make_operands,
    stored_inputs,
)

from pascaline.core.errors import ShapeError, UnsupportedError
from pascaline.kernels.cuda.linear_bounds import Arithmetic, call_bound
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.linear_decode import (
    DecodeGeometry,
    candidates_linear_decode,
    plan_linear_decode,
)
from pascaline.kernels.cuda.linear_dense_columns import (
    DenseColumnsGeometry,
    candidates_linear_dense_columns,
    plan_linear_dense_columns,
)
from pascaline.kernels.cuda.linear_dense_decode import DenseDecodeGeometry, plan_linear_dense_decode
from pascaline.kernels.cuda.quantise_input import InputForm, plan_quantise_input, quantised_shapes
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kernels.op import FP32_ROUNDING, summation_error

CHIP = ChipLimits((6, 1), 3)
HALVES_OF_TILES = 32  # outputs of gated cases: both halves in whole tiles


def _cases(rows: tuple[int, ...]) -> list[LinearCase]:
    every = linear_cases(rows)
    return [
        LinearCase(
            each.form, each.rows, HALVES_OF_TILES, each.columns, bias_dtype=each.bias_dtype, is_gated=True
        )
        if each.is_gated
        else each
        for each in every
    ]


def _check(
    case: LinearCase, inputs: InputForm, execute: Execute, geometry: DecodeGeometry | None = None
) -> None:
    permuted = "GPTQ 4 bits" in case.form
    form = InputForm(inputs.planes, inputs.scale_group, permuted, inputs.is_quantised)
    # fp32: code / 2^FIELD_BITS + 1, which is 256 codes at most.
    arithmetic = Arithmetic(inputs.planes, inputs.scale_group, code_excess=0.0 if inputs.planes else 384.0)
    check_linear(
        lambda weight, call: plan_linear_decode(weight, call, CHIP, form, geometry), arithmetic, case, execute
    )


@pytest.mark.parametrize("case", _cases((1, 2, 3)), ids=str)
def test_linear_decode(case: LinearCase, execute: Execute) -> None:
    _check(case, InputForm(2, 32), execute)


@pytest.mark.parametrize("form", FORMS)
def test_linear_decode_fp32(form: str, execute: Execute) -> None:
    _check(LinearCase(form, 2), InputForm(0), execute)


@pytest.mark.parametrize("form", FORMS)
def test_linear_decode_copies_ahead(form: str, execute: Execute) -> None:
    geometry = DecodeGeometry(4, 2, 1, 1, ring_batches=2)
    _check(LinearCase(form, 1, 150), InputForm(2, 32), execute, geometry)


@pytest.mark.parametrize("inputs", [InputForm(1, 128), InputForm(1, 32), InputForm(2, 128)], ids=str)
@pytest.mark.parametrize("form", ["AWQ", "Q4_K", "Q6_K", "GPTQ 4 bits"])
def test_linear_decode_planes(form: str, inputs: InputForm, execute: Execute) -> None:
    _check(LinearCase(form, 2), inputs, execute)


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("form", ["AWQ", "Q2_K", "MXFP4", "GPTQ 4 bits", "GPTQ 8 bits"])
def test_linear_decode_of_quantised_inputs(form: str, planes: int, execute: Execute) -> None:
    _check(LinearCase(form, 4), InputForm(planes, 32, is_quantised=True), execute)


GEOMETRIES = (
    DecodeGeometry(2, 2, 1, 1),
    DecodeGeometry(4, 3, 2, 2),
    DecodeGeometry(8, 5, 1, 1),
    DecodeGeometry(8, 1, 3, 1),
    DecodeGeometry(4, 3, 2, 1, ring_batches=2),
    DecodeGeometry(2, 12, 1, 1, ring_batches=5),
    DecodeGeometry(4, 3, 1, 2, parts=5),
    DecodeGeometry(2, 2, 2, 1, parts=2),
    DecodeGeometry(8, 3, 1, 2, ring_batches=2, parts=4),
)


@pytest.mark.parametrize(
    ("geometry", "form", "is_gated"),
    [
        (geometry, form, (i + j) % 2 == 1)  # each of both with each
        for i, geometry in enumerate(GEOMETRIES)
        for j, form in enumerate(("AWQ", "Q5_K"))
    ],
    ids=str,
)
def test_linear_decode_geometries(
    form: str, geometry: DecodeGeometry, is_gated: bool, execute: Execute
) -> None:
    _check(
        LinearCase(form, 2, 208, 1500, output_dtype=torch.float32, is_gated=is_gated),
        InputForm(2, 32),
        execute,
        geometry,
    )


def test_linear_decode_in_chunks(execute: Execute) -> None:
    """More outputs a block than have room in shared memory, with one slab a warp and with several."""
    for geometry in (DecodeGeometry(4, 7, 1, 1), DecodeGeometry(4, 4, 2, 1)):
        _check(LinearCase("AWQ", 2, 1480, 896), InputForm(2, 32), execute, geometry)


def test_linear_decode_refuses() -> None:
    operands = make_operands(LinearCase("AWQ", 1))
    with pytest.raises(UnsupportedError, match="26 outputs"):
        plan_linear_decode(operands.form, LinearCall(1, 26, 400, is_gated=True), CHIP, InputForm())
    with pytest.raises(ShapeError):
        InputForm(0, is_quantised=True)
    with pytest.raises(ShapeError):
        LinearCall(0, 26, 400)


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("shape", [(37888, 3584), (3584, 18944), (512, 3584), (8, 128)])
def test_candidates_differ_and_fit(rows: int, shape: tuple[int, int]) -> None:
    form = make_operands(LinearCase("AWQ", 1)).form
    chip = ChipLimits((6, 1), 30)
    plans = candidates_linear_decode(form, LinearCall(rows, *shape), chip, InputForm())
    assert plans[0] == plan_linear_decode(form, LinearCall(rows, *shape), chip, InputForm())
    assert 1 < len({plan.specialisation for plan in plans}) == len(plans) <= 24
    for plan in plans:
        assert plan.shared_bytes <= chip.shared_bytes_per_block
        assert plan.block[0] <= 1024


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("planes", "scale_group"), [(1, 32), (1, 64), (1, 128), (2, 32), (2, 128)])
@pytest.mark.parametrize("columns", [400, 1, 386])
def test_quantise_input(
    dtype: torch.dtype, planes: int, scale_group: int, columns: int, execute: Execute
) -> None:
    """What codes and scales stand for is within half a unit, and sums are the codes' own."""
    generator = torch.Generator().manual_seed(columns + planes)
    x = torch.randn(3, columns, generator=generator).exp().to(dtype)
    x[0, : columns // 3] = 0
    buffers = _quantised(x, planes, scale_group, execute)
    codes, scales = buffers["input_codes"].astype(numpy.int64), buffers["input_scales"].astype(float)
    integers = codes[:, :, 0] if planes == 1 else 256 * codes[:, :, 0] + codes[:, :, 1]
    assert (buffers["input_sums"] == integers.reshape(*integers.shape[:2], 8, 16).sum(axis=3)).all()
    padded = torch.nn.functional.pad(x.double(), (0, -columns % 128)).numpy()
    expected = padded.reshape(3, -1, 128).swapaxes(0, 1)
    largest = 32512 if planes == 2 else 127
    groups = numpy.abs(expected).reshape(*expected.shape[:2], -1, scale_group).max(axis=3)
    wanted_scales = groups.repeat(scale_group // 32, axis=2) / largest
    assert (numpy.abs(scales - wanted_scales) <= 2 * FP32_ROUNDING * wanted_scales).all()
    values = integers * scales.repeat(32, axis=2)
    allowed = (0.5 + 4 * FP32_ROUNDING * largest) * wanted_scales.repeat(32, axis=2)
    assert (numpy.abs(values - expected) <= allowed).all()


def test_quantise_input_keeps_nan_and_infinity(execute: Execute) -> None:
    """A group that has one has it as its scale, so that no output hides it."""
    x = torch.ones(2, 128)
    x[0, 5], x[1, 40] = float("nan"), float("inf")
    scales = _quantised(x, 2, 32, execute)["input_scales"]
    assert numpy.isnan(scales[0, 0, 0])
    assert numpy.isinf(scales[0, 1, 1])
    assert numpy.isfinite(scales[0, 0, 1:]).all()


def test_permuted_inputs_are_gathered(execute: Execute) -> None:
    operands = make_operands(LinearCase("GPTQ 4 bits", 2))
    found = _quantised(operands.x, 2, 32, execute, operands.buffers["inputs"])
    stored = stored_inputs(operands).reshape(2, -1, 4, 32).swapaxes(0, 1)
    scales = numpy.abs(stored).max(axis=3) / 32512
    assert numpy.allclose(found["input_scales"], scales, rtol=3 * FP32_ROUNDING, atol=0)


def _quantised(
    x: torch.Tensor, planes: int, scale_group: int, execute: Execute, inputs: numpy.ndarray | None = None
) -> dict[str, numpy.ndarray]:
    rows, columns = x.shape
    plan = plan_quantise_input(
        rows, columns, x.dtype, planes, scale_group, has_permutation=inputs is not None
    )
    shapes = quantised_shapes(rows, columns, planes)
    found = {name: as_array(torch.zeros(shape, dtype=dtype)) for name, (shape, dtype) in shapes.items()}
    execute(plan, {"x": as_array(x), **({} if inputs is None else {"inputs": inputs}), **found}, tuple(found))
    return found


DENSE = (
    (LinearCall(1, 37, 520), torch.float16, None),
    (
        LinearCall(3, 37, 516, output_dtype=torch.float32, bias_dtype=torch.float16, has_residual=True),
        torch.float32,
        None,
    ),
    (LinearCall(8, 38, 521, torch.float32, is_gated=True), torch.float16, DenseDecodeGeometry(4, 2, 2)),
    (
        LinearCall(5, 38, 264, is_gated=True, bias_dtype=torch.float32),
        torch.bfloat16,
        DenseDecodeGeometry(2, 4, 3),
    ),
    (LinearCall(8, 37, 1040, torch.bfloat16, torch.bfloat16), torch.bfloat16, DenseDecodeGeometry(4, 2, 2)),
    (LinearCall(2, 1, 8, torch.float32, torch.float32), torch.float32, DenseDecodeGeometry(1, 8, 4)),
    (LinearCall(7, 3, 2, torch.float16, torch.float32), torch.float16, None),
)


@pytest.mark.parametrize(("call", "dtype", "geometry"), DENSE, ids=str)
def test_linear_dense_decode(
    call: LinearCall, dtype: torch.dtype, geometry: DenseDecodeGeometry | None, execute: Execute
) -> None:
    check_dense(plan_linear_dense_decode(call, dtype, CHIP, geometry), call, dtype, execute)


WIDE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16
DENSE_COLUMNS = (
    (LinearCall(1, 1, 8, WIDE, WIDE), BRAIN, None),
    (LinearCall(1, 61, 520, WIDE, WIDE, HALF), HALF, DenseColumnsGeometry(4, 1, 2)),
    (LinearCall(1, 45, 1032, WIDE, WIDE, None, has_residual=True), BRAIN, DenseColumnsGeometry(2, 2, 1)),
    (LinearCall(1, 30, 516, WIDE, HALF), WIDE, DenseColumnsGeometry(1, 3, 1)),
    (LinearCall(1, 90, 264, WIDE, WIDE, WIDE, is_gated=True), BRAIN, DenseColumnsGeometry(8, 2, 1)),
    (LinearCall(1, 22, 3584, WIDE, WIDE, is_gated=True), HALF, None),
    (LinearCall(1, 9, 18944, WIDE, WIDE), BRAIN, None),
)


@pytest.mark.parametrize(("call", "dtype", "geometry"), DENSE_COLUMNS, ids=str)
def test_linear_dense_columns(
    call: LinearCall, dtype: torch.dtype, geometry: DenseColumnsGeometry | None, execute: Execute
) -> None:
    """Blocks that have several batches of outputs, parts of one, and none in the second half of a turn."""
    check_dense(plan_linear_dense_columns(call, dtype, CHIP, geometry), call, dtype, execute)


def test_what_linear_dense_columns_does_not_take() -> None:
    for call in (LinearCall(2, 8, 64, WIDE), LinearCall(1, 8, 64, HALF), LinearCall(1, 8, 60, WIDE)):
        with pytest.raises(ShapeError, match="it takes "):
            plan_linear_dense_columns(call, BRAIN, CHIP)
    with pytest.raises(ShapeError, match="32768 columns at most"):
        plan_linear_dense_columns(LinearCall(1, 8, 40000, WIDE), BRAIN, CHIP)


def test_candidates_of_linear_dense_columns_have_room_for_what_they_hold() -> None:
    for columns in (64, 3584, 18944, 32768):
        for is_gated in (False, True):
            call = LinearCall(1, 4608, columns, WIDE, WIDE, is_gated=is_gated)
            plans = candidates_linear_dense_columns(call, BRAIN, CHIP)
            assert plans
            for plan in plans:
                assert isinstance(plan.geometry, DenseColumnsGeometry)
                assert plan.geometry.outputs > is_gated
                assert plan.block[0] * plan.geometry.blocks <= 2048


def check_dense(plan: LaunchPlan, call: LinearCall, dtype: torch.dtype, execute: Execute) -> None:
    generator = torch.Generator().manual_seed(call.rows + call.outputs + call.columns)
    weight = torch.randn(call.outputs, call.columns, generator=generator).to(dtype)
    x = torch.randn(call.rows, call.columns, generator=generator).to(call.input_dtype)
    buffers = {"weight": as_array(weight), "x": as_array(x)}
    bias = residual = None
    if call.bias_dtype is not None:
        bias = torch.randn(call.outputs, generator=generator).to(call.bias_dtype)
        buffers["bias"] = as_array(bias)
    if call.has_residual:
        residual = torch.randn(call.rows, call.outputs, generator=generator).to(call.output_dtype)
        buffers["residual"] = as_array(residual)
    outputs = call.outputs // 2 if call.is_gated else call.outputs
    buffers["y"] = as_array(torch.empty(call.rows, outputs, dtype=call.output_dtype))
    execute(plan, buffers, ("y",))
    product = x.double().numpy() @ weight.double().numpy().T
    sizes = x.double().abs().numpy() @ weight.double().abs().numpy().T
    expected, bound = call_bound(
        product,
        FP32_ROUNDING * summation_error(call.columns) * sizes,
        call,
        None if bias is None else bias.double().numpy(),
        None if residual is None else residual.double().numpy(),
    )
    compare(from_array(buffers["y"], call.output_dtype), expected, bound)
