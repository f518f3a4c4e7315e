"""Kernels that do the work of several launches, against those launches: the same bits."""

from __future__ import annotations

import pytest
import torch
from fusion_harness import Launch, gate_as_input, heads_and_caches, norm_as_input, sum_and_norm
from linear_harness import Execute

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.elementwise import Operation
from pascaline.kernels.cuda.input_memory import BrainForm, Form, ScaledForm
from pascaline.kernels.cuda.quantise_input import InputForm
from pascaline.kernels.cuda.rms_norm import plan_rms_norm
from pascaline.kernels.cuda.rotate_and_store import HeadNorm, plan_rotate_and_store
from pascaline.kernels.cuda.store_rows import plan_store_rows

FORMS = [InputForm(planes, group) for planes in (1, 2) for group in (32, 64, 128)]
PERMUTED = InputForm(2, 32, has_permutation=True)
SCALED = (ScaledForm(), ScaledForm(has_permutation=True))
BRAIN = (BrainForm(1), BrainForm(2))


@pytest.mark.parametrize("columns", [3584, 576, 200, 33, 9000])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_sum_and_its_norm(rows: int, columns: int, execute: Execute) -> None:
    sum_and_norm(rows, columns).check(execute)


@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("columns", [3584, 576, 100, 9000])
@pytest.mark.parametrize("form", [*FORMS[::3], PERMUTED, *SCALED, *BRAIN], ids=str)
def test_a_norm_that_a_linear_takes(form: Form, columns: int, has_residual: bool, execute: Execute) -> None:
    norm_as_input(form, columns, has_residual=has_residual).check(execute)


@pytest.mark.parametrize("form", [*FORMS[1::3], PERMUTED, *SCALED, *BRAIN], ids=str)
@pytest.mark.parametrize("operation", [Operation.SILU_AND_MUL, Operation.GELU_AND_MUL], ids=str)
@pytest.mark.parametrize("columns", [1536, 200, 33])
def test_a_gate_that_a_linear_takes(columns: int, operation: Operation, form: Form, execute: Execute) -> None:
    gate_as_input(form, columns, operation).check(execute)


CACHE_DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8]


@pytest.mark.parametrize("dtype", CACHE_DTYPES, ids=str)
@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize(("head_dim", "half"), [(128, 64), (64, 32), (256, 128), (24, 8), (10, 5)])
def test_queries_keys_and_values(
    head_dim: int, half: int, has_norm: bool, dtype: torch.dtype, execute: Execute
) -> None:
    case = heads_and_caches(head_dim, half, dtype, has_norm=has_norm)
    before = case.got["key_cache"].clone()
    case.check(execute)
    assert not torch.equal(case.got["key_cache"], before)


@pytest.mark.parametrize("head_dim", [128, 6])
def test_bytes_in_the_cache(head_dim: int, execute: Execute) -> None:
    """The nearest multiples of max|x| / 127; rows of zeros, and NaN that stays."""
    rows = torch.randn(4, 2, head_dim, generator=torch.Generator().manual_seed(head_dim)).exp()
    rows[1, 0], rows[1, 1, 0], rows[2] = 0, torch.nan, rows[2] * -1e30
    slots = torch.tensor([17, 2, 31, -1])
    cache = torch.zeros(2, 2, 16, head_dim, dtype=torch.int8)
    changed = {"cache": cache.transpose(1, 2), "scales": torch.zeros(2, 2, 16)}
    plan = plan_store_rows(rows, changed["cache"])
    Launch(plan, {"rows": rows, "slots": slots}, changed=changed)(execute)
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
