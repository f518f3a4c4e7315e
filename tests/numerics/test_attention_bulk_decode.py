"""Attention of single new tokens whose pages come by bulk copies, against the op's reference in fp64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from attention_harness import AttentionCase, make_attention
from linear_harness import Execute, as_array, compare

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.attention_bounds import decode_bound
from pascaline.kernels.cuda.attention_bulk_decode import (
    BulkDecodeGeometry,
    candidates_attention_bulk_decode,
    plan_attention_bulk_decode,
)
from pascaline.kernels.cuda.attention_decode import plan_attention_decode
from pascaline.kernels.cuda.representatives import attention_of, chip_limits
from pascaline.kernels.cuda.specialisation import ChipLimits

HALF, BRAIN, BYTES = torch.float16, torch.bfloat16, torch.int8
Geometry = BulkDecodeGeometry


@dataclass(frozen=True)
class BulkCase:
    """One launch, whose work `multiprocessors` share."""

    attention: AttentionCase
    multiprocessors: int = 3
    geometry: BulkDecodeGeometry = Geometry(2, 2)  # noqa: RUF009 - a frozen value
    most_rows: int = 1

    def __str__(self) -> str:
        each = self.geometry
        name = f"{self.attention}-{self.multiprocessors}x{each.warps}x{each.stages}-heads{each.heads}"
        return f"{name}-{each.key_pieces}-{each.value_pieces}-waves{each.waves}-rows{self.most_rows}"


def _of(*contexts: int, **options: object) -> AttentionCase:
    """One new token each, none of sequences without any context."""
    return AttentionCase(tuple((min(context, 1), context) for context in contexts), **options)  # type: ignore[arg-type]


CASES = [
    # Ends of pages, padding, and contexts of which some blocks have several and some share one.
    BulkCase(_of(1, 15, 16, 17, 0, 33, 300)),
    BulkCase(_of(700), 7),
    BulkCase(_of(1), 2),
    BulkCase(_of(0, 5, 0)),
    BulkCase(_of(*range(1, 36))),
    # As many blocks as tiles, and as many for each.
    BulkCase(_of(100, 97, 64, key_value_heads=1)),
    BulkCase(_of(200, 190, key_value_heads=1), 4),
    # Pages beyond the first 32 of a warp; one stage, and more than there are pages.
    BulkCase(_of(1500, heads=2, key_value_heads=1), 1, Geometry(1, 3)),
    BulkCase(_of(300, 20, heads=2, key_value_heads=1), 2, Geometry(2, 1)),
    BulkCase(_of(300, 20, heads=2, key_value_heads=1), 2, Geometry(2, 12)),
    # Pieces.
    *(
        BulkCase(_of(400, 21, 7, heads=7, key_value_heads=1, head_dim=128), 3, Geometry(4, 3, 1, *pieces))
        for pieces in ((1, 1), (2, 2), (2, 4), (4, 4))
    ),
    BulkCase(_of(200, 21, 7), 3, Geometry(2, 2, 1, 2, 4)),
    # Heads of a block, with one warp each and two, and more blocks than are at work at once.
    BulkCase(_of(300, 40, 7), 2, Geometry(2, 3, 2)),
    BulkCase(_of(300, 40, 7, heads=28, key_value_heads=4, head_dim=128), 2, Geometry(8, 2, 4)),
    BulkCase(_of(300, 40, 7, heads=28, key_value_heads=4), 2, Geometry(4, 3, 2, 2, 4, waves=4)),
    BulkCase(_of(900, heads=4, key_value_heads=4), 5, Geometry(4, 3, 4, waves=2)),
    # As many sharers of a tile as its length allows, and no more memory for their numbers.
    BulkCase(_of(1100, heads=8, key_value_heads=4), 90, Geometry(4, 2, 4, waves=2)),
    # Groups.
    *(BulkCase(_of(40, 77, heads=heads, key_value_heads=1)) for heads in (1, 7, 8, 9, 16)),
    BulkCase(_of(40, 3, heads=3, key_value_heads=3)),
    # bf16, windows and caps.
    *(BulkCase(_of(150, 9, head_dim=size, cache_dtype=BRAIN)) for size in (64, 128)),
    *(BulkCase(_of(100, 5, 33, window=window)) for window in (1, 16, 24)),
    BulkCase(_of(200, 9, 150, window=100, softcap=20.0, scale=1.0)),
    BulkCase(_of(300, 5, scale=4.0)),
    # Sequences of more new tokens, the last ones, are left to others, or computed too.
    BulkCase(AttentionCase(((1, 40), (1, 60), (3, 30), (2, 70)))),
    BulkCase(AttentionCase(((1, 40), (3, 60), (8, 30), (9, 9)), heads=7, key_value_heads=1), most_rows=8),
    BulkCase(AttentionCase(((5, 140), (2, 60), (1, 30)), window=20), 3, Geometry(4, 2, 2), most_rows=8),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_bulk_decode(case: BulkCase, execute: Execute) -> None:
    attention = case.attention
    operands = make_attention(attention)
    chip = ChipLimits((9, 0), case.multiprocessors, 227 << 10)
    plan = plan_attention_decode(attention.call, chip, case.geometry, most_rows=case.most_rows)
    assert plan.specialisation.entry == "attention_bulk_decode"
    # Rows of sequences that are left to others are missing: a write to them is found.
    taken = sum(new for new, _ in attention.sequences if new <= case.most_rows)
    y = torch.empty(taken, attention.heads, attention.head_dim)
    execute(plan, {**operands.buffers, "y": as_array(y)}, ("y",))
    bound = decode_bound(
        *operands.exact,
        **operands.parameters,  # type: ignore[arg-type]
        cache_dtype=attention.cache_dtype,
    )
    compare(y, operands.expected()[:taken].numpy(), bound[:taken].numpy())


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
    y = torch.empty(1, 1, attention.head_dim)
    plan = plan_attention_bulk_decode(attention.call, ChipLimits((9, 0), 3, 227 << 10), Geometry(2, 2))
    execute(plan, {**operands.buffers, "y": as_array(y)}, ("y",))
    bound = decode_bound(*operands.exact, **operands.parameters, cache_dtype=dtype)  # type: ignore[arg-type]
    compare(y, operands.expected().numpy(), bound.numpy())


def test_what_is_refused() -> None:
    chip = chip_limits("9.0")
    with pytest.raises(UnsupportedError, match="bulk copies on sm_80"):
        plan_attention_bulk_decode(attention_of(1, 1, HALF), chip_limits("8.0"), Geometry(8, 2))
    with pytest.raises(UnsupportedError, match="keys and values of torch"):
        plan_attention_bulk_decode(attention_of(1, 1, BYTES), chip, Geometry(8, 2))
    with pytest.raises(UnsupportedError, match="heads of 256 numbers"):
        plan_attention_bulk_decode(attention_of(1, 1, HALF, head_dim=256), chip, Geometry(8, 2))
    with pytest.raises(UnsupportedError, match="4 heads by 6 warps that have 3"):
        plan_attention_bulk_decode(attention_of(1, 1, HALF), chip, Geometry(6, 2, 3))


def test_launches_fit_the_chip() -> None:
    chip = chip_limits("9.0")
    call = attention_of(64, 64, HALF)
    geometries = list(candidates_attention_bulk_decode(call, chip))
    assert len(set(geometries)) == len(geometries) > 0
    for each in geometries:
        plan = plan_attention_bulk_decode(call, chip, each)
        # The source has barriers of its own, and the chip takes some of each block's.
        shared = plan.shared_bytes + 8 * each.warps * each.stages + 1024
        assert shared * each.blocks <= chip.shared_bytes_per_block + 1024
        assert plan.grid[0] * plan.grid[1] <= chip.multiprocessors * each.blocks * each.waves
