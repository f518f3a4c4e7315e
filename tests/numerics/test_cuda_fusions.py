"""Kernels that do the work of several launches, against those launches: the same bits."""

from __future__ import annotations

import numpy
import pytest
import torch
from linear_harness import Execute, as_array
from test_cuda_ops import as_part, memory_of

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.elementwise import Operation, plan_elementwise
from pascaline.kernels.cuda.quantise_gated import plan_quantise_gated
from pascaline.kernels.cuda.quantise_input import InputForm, plan_quantise_input, quantised_shapes
from pascaline.kernels.cuda.rms_norm import plan_rms_norm
from pascaline.kernels.cuda.specialisation import LaunchPlan

Buffers = dict[str, torch.Tensor]

FORMS = [InputForm(planes, group) for planes in (1, 2) for group in (32, 64, 128)]
PERMUTED = InputForm(2, 32, has_permutation=True)


def launch(plan: LaunchPlan, given: Buffers, made: Buffers, execute: Execute) -> None:
    """Run `plan` on `given`, filling `made`."""
    arrays = {name: as_array(memory_of(tensor)) for name, tensor in (given | made).items()}
    execute(plan, arrays, tuple(made))


def made(shapes: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> Buffers:
    return {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}


def quantised(x: torch.Tensor, inputs: torch.Tensor | None, form: InputForm, execute: Execute) -> Buffers:
    """What quantise_input makes of x."""
    plan = plan_quantise_input(
        *x.shape, torch.float32, form.planes, form.scale_group, has_permutation=form.has_permutation
    )
    buffers = made(quantised_shapes(*x.shape, form.planes))
    launch(plan, {"x": x} | ({} if inputs is None else {"inputs": inputs}), buffers, execute)
    return buffers


def order_of(columns: int) -> torch.Tensor:
    """An order of inputs, padded to whole slabs."""
    order = torch.full((-(-columns // 128) * 128,), -1, dtype=torch.int32)
    order[:columns] = torch.randperm(columns, generator=torch.Generator().manual_seed(columns))
    return order


def random_rows(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).exp()
    x[0, : columns // 4] = 0
    return x


def assert_same(got: Buffers, expected: Buffers) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert numpy.array_equal(as_array(got[name]).view(numpy.uint8), as_array(tensor).view(numpy.uint8)), name


@pytest.mark.parametrize("columns", [3584, 576, 200, 33, 9000])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_sum_and_its_norm(rows: int, columns: int, execute: Execute) -> None:
    x, residual = as_part(random_rows(rows, columns), 4), as_part(random_rows(rows, columns, 1), 8)
    gain = torch.randn(columns, generator=torch.Generator().manual_seed(2)).half()
    total, normed = torch.empty(rows, columns), torch.empty(rows, columns)
    add = plan_elementwise(Operation.ADD, x, residual, names=("x", "residual", "y"))
    launch(add, {"x": x, "residual": residual}, {"y": total}, execute)
    norm = plan_rms_norm(total, gain.dtype, 1e-6)
    launch(norm, {"x": total, "gain": gain}, {"y": normed}, execute)
    got = {"sum": torch.empty(rows, columns), "y": torch.empty(rows, columns)}
    plan = plan_rms_norm(x, gain.dtype, 1e-6, residual=residual)
    launch(plan, {"x": x, "residual": residual, "gain": gain}, got, execute)
    assert_same(got, {"sum": total, "y": normed})


@pytest.mark.parametrize("has_rows", [False, True])
@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("columns", [3584, 576, 100, 9000])
@pytest.mark.parametrize("form", [*FORMS[::3], PERMUTED], ids=str)
def test_a_norm_that_a_linear_takes(
    form: InputForm, columns: int, has_residual: bool, has_rows: bool, execute: Execute
) -> None:
    rows = 3
    x, gain = as_part(random_rows(rows, columns), 4), torch.randn(columns)
    residual = random_rows(rows, columns, 1) if has_residual else None
    given: Buffers = {"x": x, "gain": gain}
    separate = {"y": torch.empty(rows, columns)}
    if residual is not None:
        given["residual"], separate["sum"] = residual, torch.empty(rows, columns)
    launch(plan_rms_norm(x, gain.dtype, 1e-6, residual=residual), given, separate, execute)
    inputs = order_of(columns) if form.has_permutation else None
    expected = quantised(separate["y"], inputs, form, execute)
    if inputs is not None:
        given["inputs"] = inputs
    if has_rows:
        expected["y"] = separate["y"]
    if has_residual:
        expected["sum"] = separate["sum"]
    got = {name: torch.empty_like(tensor) for name, tensor in expected.items()}
    plan = plan_rms_norm(x, gain.dtype, 1e-6, residual=residual, quantised=form, has_rows=has_rows)
    launch(plan, given, got, execute)
    assert_same(got, expected)


@pytest.mark.parametrize("form", [*FORMS[1::3], PERMUTED], ids=str)
@pytest.mark.parametrize("operation", [Operation.SILU_AND_MUL, Operation.GELU_AND_MUL], ids=str)
@pytest.mark.parametrize("columns", [1536, 200, 33])
def test_a_gate_that_a_linear_takes(
    columns: int, operation: Operation, form: InputForm, execute: Execute
) -> None:
    both = torch.randn(3, 2 * columns, generator=torch.Generator().manual_seed(columns)) * 4
    gate, up = both[:, :columns], both[:, columns:]
    gated = torch.empty(3, columns)
    plan = plan_elementwise(operation, gate, up, names=("gate", "up", "y"))
    launch(plan, {"gate": gate, "up": up}, {"y": gated}, execute)
    inputs = order_of(columns) if form.has_permutation else None
    expected = quantised(gated, inputs, form, execute)
    got = {name: torch.empty_like(tensor) for name, tensor in expected.items()}
    plan = plan_quantise_gated(operation, gate, up, form)
    given = {"gate": gate, "up": up} | ({} if inputs is None else {"inputs": inputs})
    launch(plan, given, got, execute)
    assert_same(got, expected)


def test_rows_that_a_norm_does_not_quantise() -> None:
    with pytest.raises(ShapeError, match="whole vectors"):
        plan_rms_norm(torch.empty(1, 33), torch.float32, 1e-6, quantised=FORMS[0])
    with pytest.raises(ShapeError, match="48 KiB"):
        plan_rms_norm(torch.empty(1, 16384), torch.float32, 1e-6, quantised=PERMUTED)
