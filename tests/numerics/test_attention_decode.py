"""Attention of single new tokens by tensor cores, against the op's reference in fp64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from attention_harness import AttentionCase, AttentionOperands, check_decode, make_attention
from linear_harness import Execute, as_array

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.attention_call import AttentionCall
from pascaline.kernels.cuda.attention_decode import AttentionDecodeGeometry, plan_attention_decode
from pascaline.kernels.cuda.representatives import attention_of, chip_limits
from pascaline.kernels.cuda.specialisation import ChipLimits

HALF, BRAIN, BYTES = torch.float16, torch.bfloat16, torch.int8
Geometry = AttentionDecodeGeometry


@dataclass(frozen=True)
class DecodeCase:
    """One launch.

    Parameters
    ----------
    multiprocessors : which share the work.
    query_size : what random queries are multiplied by.
    """

    attention: AttentionCase
    multiprocessors: int = 3
    geometry: AttentionDecodeGeometry = Geometry(2, 2)  # noqa: RUF009 - a frozen value
    most_rows: int = 1
    query_size: float = 1.0

    def __str__(self) -> str:
        each = self.geometry
        name = f"{self.attention}-{self.multiprocessors}x{each.warps}x{each.stages}x{each.step_pages}"
        name += f"-rows{self.most_rows}" if self.most_rows > 1 else ""
        return name + (f"-q{self.query_size:g}" if self.query_size != 1 else "")


def _of(*contexts: int, **options: object) -> AttentionCase:
    """One new token each, none of sequences without any context."""
    return AttentionCase(tuple((min(context, 1), context) for context in contexts), **options)  # type: ignore[arg-type]


CASES = [
    # Ends of pages, padding, and contexts of which some blocks have several and some share one.
    DecodeCase(_of(1, 15, 16, 17, 0, 33, 300)),
    DecodeCase(_of(700), 7),
    DecodeCase(_of(1), 2),
    DecodeCase(_of(0, 5, 0)),
    DecodeCase(_of(*range(1, 36))),
    # As many blocks as tiles, and as many for each: one run a tile.
    DecodeCase(_of(100, 97, 64, key_value_heads=1)),
    DecodeCase(_of(200, 190, key_value_heads=1), 4),
    # Pages beyond the first 32 of a warp.
    DecodeCase(_of(1500, heads=2, key_value_heads=1), 1, Geometry(1, 3)),
    # Two pages a step, of which the last has one.
    DecodeCase(_of(700, 300, 20), 3, Geometry(2, 2, 2)),
    DecodeCase(_of(400, 21, heads=7, key_value_heads=1, head_dim=128), 3, Geometry(4, 3, 2)),
    DecodeCase(
        _of(1700, 33, heads=7, key_value_heads=1, head_dim=128, cache_dtype=BYTES), 3, Geometry(3, 3, 2)
    ),
    DecodeCase(_of(1500, 40, heads=2, key_value_heads=1, cache_dtype=BRAIN), 1, Geometry(1, 3, 2)),
    # Groups.
    *(DecodeCase(_of(40, 77, heads=heads, key_value_heads=1)) for heads in (1, 7, 8, 9, 16)),
    DecodeCase(_of(40, 3, heads=3, key_value_heads=3)),
    # Types and sizes of heads.
    *(DecodeCase(_of(50, 9, head_dim=size)) for size in (16, 80, 96, 112, 128, 192, 256)),
    *(
        DecodeCase(_of(50, 9, head_dim=size, cache_dtype=BYTES))
        for size in (16, 64, 80, 96, 112, 128, 192, 256)
    ),
    *(DecodeCase(_of(150, 9, head_dim=size, cache_dtype=BRAIN)) for size in (64, 128)),
    # Windows and caps.
    *(DecodeCase(_of(100, 5, 33, window=window)) for window in (1, 16, 24)),
    DecodeCase(_of(200, 9, 150, window=100, softcap=20.0, scale=1.0)),
    DecodeCase(_of(100, 5, softcap=2.0, scale=1.0)),
    DecodeCase(_of(100, 5, softcap=30.0, scale=3.0, cache_dtype=BYTES)),
    DecodeCase(_of(300, 5, scale=4.0, cache_dtype=BRAIN)),
    # Queries of other sizes.
    DecodeCase(_of(100, 5), query_size=1e-6),
    DecodeCase(_of(100, 5, scale=1e-5), query_size=1e5),
    # Sequences of more new tokens, the last ones, are left to others, or computed too.
    DecodeCase(AttentionCase(((1, 40), (1, 60), (3, 30), (2, 70)))),
    DecodeCase(AttentionCase(((1, 40), (3, 60), (8, 30), (9, 9)), heads=7, key_value_heads=1), most_rows=8),
    DecodeCase(AttentionCase(((5, 140), (2, 60), (1, 30)), window=20, cache_dtype=BYTES), most_rows=8),
]


def check(case: DecodeCase, operands: AttentionOperands, execute: Execute) -> None:
    attention = case.attention
    chip = ChipLimits((8, 0), case.multiprocessors, 160 << 10)
    plan = plan_attention_decode(attention.call, chip, case.geometry, most_rows=case.most_rows)
    check_decode(plan, attention, operands, case.most_rows, execute)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_decode(case: DecodeCase, execute: Execute) -> None:
    operands = make_attention(case.attention)
    if case.query_size != 1:
        query = operands.buffers["query"]
        query *= query.dtype.type(case.query_size)
        heads = query[:, : case.attention.heads * case.attention.head_dim]
        exact = torch.from_numpy(heads).double().view(operands.exact[0].shape)
        operands = AttentionOperands(operands.buffers, (exact, *operands.exact[1:]), operands.parameters)
    check(case, operands, execute)


@pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=str)
def test_both_parts_of_numbers_count(dtype: torch.dtype, execute: Execute) -> None:
    """Where roundings to 16 bits all go one way: a query's moves all scores alike, a weight's all of y."""
    attention = _of(64, heads=1, key_value_heads=1, cache_dtype=dtype)
    operands = make_attention(attention)
    unit = 2.0**-12 if dtype == HALF else 2.0**-9
    query, key, value = operands.exact[:3]
    table = operands.exact[3][0, : 64 // 16]
    query[:] = 1 + unit
    # Every other token has a larger score, and the others' values are seen by how little they weigh.
    key[:] = (torch.arange(16) % 2).double()[None, :, None, None]
    value[:] = 1 - key
    operands.buffers["query"][:] = 1 + unit
    for name, exact in (("key", key), ("value", value)):
        stored = torch.zeros(len(exact), 1, 16, attention.head_dim, dtype=dtype)
        stored[table] = exact[table].transpose(1, 2).to(dtype)
        operands.buffers[f"{name}_cache"] = as_array(stored)
    check(DecodeCase(attention), operands, execute)


def test_what_is_refused() -> None:
    chip = chip_limits("8.0")
    with pytest.raises(UnsupportedError, match="tensor cores on sm_75"):
        plan_attention_decode(attention_of(1, 1, HALF), chip_limits("7.5"))
    with pytest.raises(UnsupportedError, match="of fp32"):
        plan_attention_decode(attention_of(1, 1, torch.float32), chip)
    with pytest.raises(UnsupportedError, match="heads of 72 numbers"):
        plan_attention_decode(attention_of(1, 1, HALF, head_dim=72), chip)
    with pytest.raises(UnsupportedError, match="130 apart"):
        plan_attention_decode(AttentionCall(1, 1, 4, 2, 1, 64, 130), chip)


@pytest.mark.parametrize("compute_capability", ["8.0", "8.6", "9.0", "12.0"])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("cache_dtype", [HALF, BYTES], ids=str)
def test_launches_fit_the_chip(compute_capability: str, head_dim: int, cache_dtype: torch.dtype) -> None:
    chip = chip_limits(compute_capability)
    call = attention_of(256, 256, cache_dtype, head_dim=head_dim)
    plan = plan_attention_decode(call, chip)
    geometry = plan.geometry
    assert isinstance(geometry, AttentionDecodeGeometry)
    # The source has some of its own.
    assert plan.shared_bytes < chip.shared_bytes_per_block
    assert plan.grid[0] * plan.grid[1] <= chip.multiprocessors * geometry.blocks
    # One page of each head of one sequence is no more than a block each.
    single = AttentionCall(1, 1, 1, 28, 4, head_dim, 36 * head_dim, cache_dtype)
    assert plan_attention_decode(single, chip).grid == (4, 1, 1)
