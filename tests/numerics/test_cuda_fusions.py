"""Kernels that do the work of several launches, against those launches: the same bits."""

from __future__ import annotations

import numpy
import pytest
import torch
from linear_harness import Execute, as_array
from stand_in_workspace import memory_of
from test_cuda_ops import as_part

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.elementwise import Operation, plan_elementwise
from pascaline.kernels.cuda.gated_input import plan_gated_input
from pascaline.kernels.cuda.input_memory import BrainForm, Form, ScaledForm, shapes_of
from pascaline.kernels.cuda.quantise_input import InputForm, plan_quantise_input
from pascaline.kernels.cuda.rms_norm import plan_rms_norm
from pascaline.kernels.cuda.rotary import plan_rotary
from pascaline.kernels.cuda.rotate_and_store import HeadNorm, plan_rotate_and_store
from pascaline.kernels.cuda.round_rows import plan_round_rows
from pascaline.kernels.cuda.scale_rows import plan_scale_rows
from pascaline.kernels.cuda.specialisation import LaunchPlan
from pascaline.kernels.cuda.store_rows import plan_store_rows

Buffers = dict[str, torch.Tensor]

FORMS = [InputForm(planes, group) for planes in (1, 2) for group in (32, 64, 128)]
PERMUTED = InputForm(2, 32, has_permutation=True)
SCALED = (ScaledForm(), ScaledForm(has_permutation=True))
BRAIN = (BrainForm(1), BrainForm(2))


def launch(
    plan: LaunchPlan, given: Buffers, made: Buffers, execute: Execute, changed: Buffers | None = None
) -> None:
    """Run `plan` on `given`, filling `made` and changing some of `changed`."""
    changed = changed or {}
    arrays = {name: as_array(memory_of(tensor)) for name, tensor in (given | made | changed).items()}
    execute(plan, arrays, tuple(made), updates=tuple(changed))


def made(shapes: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> Buffers:
    return {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}


def made_input(x: torch.Tensor, inputs: torch.Tensor | None, form: Form, execute: Execute) -> Buffers:
    """What a launch of its own makes of x."""
    rows, columns = x.shape
    if isinstance(form, InputForm):
        plan = plan_quantise_input(
            rows,
            columns,
            torch.float32,
            form.planes,
            form.scale_group,
            has_permutation=form.has_permutation,
        )
    elif isinstance(form, BrainForm):
        plan = plan_round_rows(rows, columns, torch.float32, form.numbers)
    else:
        plan = plan_scale_rows(rows, columns, torch.float32, is_permuted=form.has_permutation)
    buffers = made(shapes_of(form, rows, columns))
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
        assert numpy.array_equal(as_array(got[name]).view(numpy.uint8), as_array(tensor).view(numpy.uint8)), (
            name
        )


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
    got = {"y": torch.empty(rows, columns)}
    plan = plan_rms_norm(x, gain.dtype, 1e-6, residual=residual)
    launch(plan, {"x": x, "gain": gain}, got, execute, {"residual": residual})
    assert_same(got | {"residual": residual}, {"residual": total, "y": normed})


@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("columns", [3584, 576, 100, 9000])
@pytest.mark.parametrize("form", [*FORMS[::3], PERMUTED, *SCALED, *BRAIN], ids=str)
def test_a_norm_that_a_linear_takes(form: Form, columns: int, has_residual: bool, execute: Execute) -> None:
    rows = 3
    x, gain = as_part(random_rows(rows, columns), 4), torch.randn(columns)
    residual = random_rows(rows, columns, 1) if has_residual else None
    given: Buffers = {"x": x, "gain": gain}
    y = torch.empty(rows, columns)
    once, again = ({} if residual is None else {"residual": residual.clone()} for _ in range(2))
    launch(plan_rms_norm(x, gain.dtype, 1e-6, residual=residual), given, {"y": y}, execute, once)
    inputs = order_of(columns) if form.has_permutation else None
    expected = made_input(y, inputs, form, execute)
    if inputs is not None:
        given["inputs"] = inputs
    got = {name: torch.empty_like(tensor) for name, tensor in expected.items()}
    plan = plan_rms_norm(x, gain.dtype, 1e-6, residual=residual, form=form)
    launch(plan, given, got, execute, again)
    assert_same(got | again, expected | once)


@pytest.mark.parametrize("form", [*FORMS[1::3], PERMUTED, *SCALED, *BRAIN], ids=str)
@pytest.mark.parametrize("operation", [Operation.SILU_AND_MUL, Operation.GELU_AND_MUL], ids=str)
@pytest.mark.parametrize("columns", [1536, 200, 33])
def test_a_gate_that_a_linear_takes(columns: int, operation: Operation, form: Form, execute: Execute) -> None:
    both = torch.randn(3, 2 * columns, generator=torch.Generator().manual_seed(columns)) * 4
    gate, up = both[:, :columns], both[:, columns:]
    gated = torch.empty(3, columns)
    plan = plan_elementwise(operation, gate, up, names=("gate", "up", "y"))
    launch(plan, {"gate": gate, "up": up}, {"y": gated}, execute)
    inputs = order_of(columns) if form.has_permutation else None
    expected = made_input(gated, inputs, form, execute)
    got = {name: torch.empty_like(tensor) for name, tensor in expected.items()}
    plan = plan_gated_input(operation, gate, up, form)
    given = {"gate": gate, "up": up} | ({} if inputs is None else {"inputs": inputs})
    launch(plan, given, got, execute)
    assert_same(got, expected)


CACHE_DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8]


@pytest.mark.parametrize("dtype", CACHE_DTYPES, ids=str)
@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize(("head_dim", "half"), [(128, 64), (64, 32), (256, 128), (24, 8), (10, 5)])
def test_queries_keys_and_values(
    head_dim: int, half: int, has_norm: bool, dtype: torch.dtype, execute: Execute
) -> None:
    """As a merged linear leaves them; the last token has no place."""
    tokens, heads, key_heads, epsilon = 3, 5, 2, 1e-6
    generator = torch.Generator().manual_seed(head_dim)
    qkv = torch.randn(tokens, (heads + 2 * key_heads) * head_dim, generator=generator)
    query, key, value = (
        part.view(tokens, -1, head_dim)
        for part in qkv.split([heads * head_dim, key_heads * head_dim, key_heads * head_dim], dim=1)
    )
    given = {
        "positions": torch.tensor([0, 7, 3]),
        "slots": torch.tensor([31, 5, -1]),
        "cosine": torch.randn(8, half, generator=generator),
        "sine": torch.randn(8, half, generator=generator),
        "query_gain": torch.randn(head_dim, generator=generator).bfloat16(),
        "key_gain": torch.randn(head_dim, generator=generator).bfloat16(),
    }
    before = torch.randn(2, key_heads, 16, head_dim, generator=generator).to(dtype).transpose(1, 2)
    names = ("key_cache", "value_cache", *(("key_scales", "value_scales") if dtype == torch.int8 else ()))

    def updated() -> Buffers:
        scales = torch.zeros(2, key_heads, 16)
        return {name: scales.clone() if "scales" in name else before.clone() for name in names}

    expected = updated()
    rotated = []
    for name, x in (("query", query), ("key", key)):
        if has_norm:
            normed = torch.empty(x.shape)
            plan = plan_rms_norm(x, torch.bfloat16, epsilon)
            launch(plan, {"x": x, "gain": given[f"{name}_gain"]}, {"y": normed}, execute)
            x = normed
        rotated.append(torch.empty(x.shape))
        launch(plan_rotary(x, given["cosine"]), given | {"x": x}, {"y": rotated[-1]}, execute)
    for name, rows in (("key", rotated[1]), ("value", value)):
        changed = {"cache": expected[f"{name}_cache"]}
        if dtype == torch.int8:
            changed["scales"] = expected[f"{name}_scales"]
        launch(plan_store_rows(rows, before), {"rows": rows, "slots": given["slots"]}, {}, execute, changed)
    got = {"y": torch.empty(query.shape)}
    changed = updated()
    norm = HeadNorm(torch.bfloat16, epsilon) if has_norm else None
    plan = plan_rotate_and_store(query, key, value, given["cosine"], before, norm)
    launch(plan, given | {"query": query, "key": key, "value": value}, got, execute, changed)
    assert_same(got | changed, {"y": rotated[0]} | expected)
    assert not torch.equal(changed["key_cache"], before)


@pytest.mark.parametrize("head_dim", [128, 6])
def test_bytes_in_the_cache(head_dim: int, execute: Execute) -> None:
    """The nearest multiples of max|x| / 127; rows of zeros, and NaN that stays."""
    rows = torch.randn(4, 2, head_dim, generator=torch.Generator().manual_seed(head_dim)).exp()
    rows[1, 0], rows[1, 1, 0], rows[2] = 0, torch.nan, rows[2] * -1e30
    slots = torch.tensor([17, 2, 31, -1])
    cache = torch.zeros(2, 2, 16, head_dim, dtype=torch.int8)
    changed = {"cache": cache.transpose(1, 2), "scales": torch.zeros(2, 2, 16)}
    plan = plan_store_rows(rows, changed["cache"])
    launch(plan, {"rows": rows, "slots": slots}, {}, execute, changed)
    for row, slot in zip(rows[:3], slots.tolist(), strict=False):
        page, inside = divmod(slot, 16)
        for head in range(2):
            scale, codes = changed["scales"][page, head, inside], cache[page, head, inside]
            assert torch.allclose(scale, row[head].abs().max() / 127, rtol=2.0**-22, atol=0, equal_nan=True)
            # Half a step, and three roundings of a quotient of up to 127.
            bound = scale * (0.5 + 127 * 4 * 2.0**-24)
            if not scale.isnan():
                assert ((codes * scale - row[head]).abs() <= bound).all()
                assert codes.abs().max() == (127 if scale else 0)
    assert (cache != 0).any(dim=3).sum() == 4  # both heads of two tokens


def test_rows_that_a_norm_does_not_quantise() -> None:
    with pytest.raises(ShapeError, match="whole vectors"):
        plan_rms_norm(torch.empty(1, 33), torch.float32, 1e-6, form=FORMS[0])
    with pytest.raises(ShapeError, match="48 KiB"):
        plan_rms_norm(torch.empty(1, 16384), torch.float32, 1e-6, form=PERMUTED)
    heads, cache = torch.empty(1, 1, 512), torch.empty(1, 16, 1, 512)
    with pytest.raises(ShapeError, match="256 at most"):
        plan_rotate_and_store(heads, heads, heads, torch.empty(9, 256), cache, HeadNorm(torch.float32, 1e-6))
