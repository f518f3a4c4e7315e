"""Attention of several new tokens by tensor cores against fp64."""

from __future__ import annotations

from dataclasses import replace

import host_card
import pytest
import torch
from attention_harness import AttentionCase, check_prefill, compare_prefill, make_attention
from linear_harness import Execute

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.attention_prefill import PrefillGeometry, geometries, plan_attention_prefill
from pascaline.kernels.cuda.specialisation import ChipLimits

CHIP = ChipLimits((8, 0), 4, 163 << 10)
HOPPER = ChipLimits((9, 0), 4, 227 << 10)
SMALL = PrefillGeometry(2, 1, 32, 2, 1)
LONG = 70
CASES = (
    AttentionCase(((9, 9),)),
    AttentionCase(((2, 133),), heads=7, key_value_heads=1, head_dim=128),
    AttentionCase(((LONG, LONG),), heads=14, key_value_heads=2, head_dim=128),
    AttentionCase(((65, 97),), heads=8, key_value_heads=1, head_dim=96),
    AttentionCase(((64, 64),), heads=2, key_value_heads=2),
    AttentionCase(((17, 40),), heads=2, key_value_heads=1, head_dim=256),
    AttentionCase(((5, 66), (33, 33), (0, 0), (2, 2), (16, 48))),
    AttentionCase(((35, 130),), window=20),
    AttentionCase(((40, 140), (7, 7)), window=64, heads=3, key_value_heads=1),
    AttentionCase(((35, 130),), window=1),
    AttentionCase(((12, 70),), softcap=2.0, scale=1.0),
    AttentionCase(((50, 90),), softcap=30.0, window=33),
)
TYPES = (torch.bfloat16, torch.int8)
GEOMETRIES = (
    PrefillGeometry(4, 2, 64, 4, 2),
    PrefillGeometry(4, 2, 32, 4, 2),
    PrefillGeometry(8, 2, 64, 2, 1),
    PrefillGeometry(8, 1, 32, 4, 2),
    PrefillGeometry(1, 1, 64, 2, 3),
    SMALL,
)


def _check(
    case: AttentionCase, geometry: PrefillGeometry | None, execute: Execute, chip: ChipLimits = CHIP
) -> None:
    check_prefill(plan_attention_prefill(case.call, chip, geometry), case, execute)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_prefill(case: AttentionCase, execute: Execute) -> None:
    _check(case, None, execute)


@pytest.mark.parametrize(
    ("case", "warps", "stages"),
    [
        *((case, 4 + index % 2 * 4, 2) for index, case in enumerate(CASES) if case.head_dim in (64, 128)),
        (AttentionCase(((33, 700), (2, 2), (40, 330)), 3, 1, window=500), 4, 3),
        (AttentionCase(((33, 700), (20, 20)), 2, 1, 128, torch.bfloat16, softcap=20.0), 4, 2),
        (AttentionCase(((90, 200),), 2, 1, 128, torch.bfloat16), 8, 3),
    ],
    ids=str,
)
def test_attention_by_warpgroups(case: AttentionCase, warps: int, stages: int, execute: Execute) -> None:
    geometry = PrefillGeometry(warps, 1, 64, stages, 1, by_warpgroups=True)
    _check(case, geometry, execute, replace(HOPPER, multiprocessors=30))


def test_which_heads_go_by_warpgroups() -> None:
    for case, is_wide in (
        (AttentionCase(((9, 9),)), True),
        (AttentionCase(((9, 9),), head_dim=128, cache_dtype=torch.bfloat16), True),
        (AttentionCase(((9, 9),), head_dim=96), False),
        (AttentionCase(((9, 9),), head_dim=256), False),
        (AttentionCase(((9, 9),), cache_dtype=torch.int8), False),
    ):
        entry = plan_attention_prefill(replace(case.call, tokens=4096), HOPPER).specialisation.entry
        assert entry == ("attention_wgmma" if is_wide else "attention_prefill")


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("case", [CASES[2], CASES[5], CASES[11]], ids=str)
def test_types_of_caches(case: AttentionCase, dtype: torch.dtype, execute: Execute) -> None:
    _check(replace(case, cache_dtype=dtype), None, execute)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.int8], ids=str)
def test_geometries(geometry: PrefillGeometry, dtype: torch.dtype, execute: Execute) -> None:
    _check(AttentionCase(((41, 170),), 6, 2, 80, dtype, window=90), geometry, execute)


@pytest.mark.parametrize("head_dim", range(16, 257, 48))
def test_sizes_of_heads(head_dim: int, execute: Execute) -> None:
    _check(AttentionCase(((11, 50),), 2, 1, head_dim), SMALL, execute)


def test_pages_beyond_those_that_a_warp_holds(execute: Execute) -> None:
    _check(AttentionCase(((3, 1700),), 2, 1, 16), SMALL, execute)


def test_many_sequences(execute: Execute) -> None:
    """More than a warp has lanes; the sequences with tiles lie at both ends and between."""
    sequences = [(0, 0)] * 75
    for index in (0, 31, 32, 50, 74):
        sequences[index] = (2 + index % 5, 20 + index % 7)
    _check(AttentionCase(tuple(sequences), 2, 1, 16), SMALL, execute)


@pytest.mark.parametrize(
    "case",
    [
        AttentionCase(((33, 1000), (2, 2), (1 + 1, 300)), 2, 1, 32),
        AttentionCase(((40, 1300),), 3, 1, 16, window=900),
        AttentionCase(((5, 530), (9, 700)), 2, 2, 16, torch.int8, softcap=5.0),
        AttentionCase(((20, 511), (20, 512)), 2, 1, 64, torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.parametrize("multiprocessors", [20, 200])
def test_shared_tiles(case: AttentionCase, multiprocessors: int, execute: Execute) -> None:
    """Some tiles have as many shares as the launch allows, and others less, or none."""
    chip = replace(CHIP, multiprocessors=multiprocessors)
    plan = plan_attention_prefill(case.call, chip, SMALL)
    assert plan.scratch
    _check(case, SMALL, execute, chip)


def test_sequences_of_one_new_token_are_left() -> None:
    """Their rows are not written, and all others are."""
    case = AttentionCase(((1, 30), (6, 6), (1, 1), (1, 47), (5, 40), (1, 9)))
    operands = make_attention(case)
    plan = plan_attention_prefill(case.call, CHIP)
    left = 4 * case.heads * case.head_dim
    with pytest.raises(
        host_card.KernelFault, match=f" {left} of {operands.buffers['y'].size} elements not written"
    ):
        host_card.run_plan(plan, operands.buffers)
    compare_prefill(plan, case, operands)


def test_what_it_refuses() -> None:
    call = CASES[0].call
    for other, words in (
        (replace(call, cache_dtype=torch.float32), "over keys of torch.float32"),
        (replace(call, head_dim=72, query_stride=4 * 72), "heads of 72"),
        (replace(call, head_dim=272, query_stride=4 * 272), "heads of 272"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            plan_attention_prefill(other, CHIP)
    by_warpgroups = PrefillGeometry(8, 1, 64, 2, 1, by_warpgroups=True)
    with pytest.raises(UnsupportedError, match=r"wgmma\.mma_async of heads of 64 .* on sm_80"):
        plan_attention_prefill(call, CHIP, by_warpgroups)
    with pytest.raises(UnsupportedError, match=r"over keys of torch\.int8 on sm_90"):
        plan_attention_prefill(replace(call, cache_dtype=torch.int8), HOPPER, by_warpgroups)
    with pytest.raises(UnsupportedError, match="sm_75"):
        plan_attention_prefill(call, ChipLimits((7, 5), 40, 64 << 10))


def test_few_rows_go_in_more_tiles() -> None:
    def rows(tokens: int) -> int:
        call = replace(CASES[2].call, tokens=tokens)
        geometry = plan_attention_prefill(call, replace(CHIP, multiprocessors=132)).geometry
        assert isinstance(geometry, PrefillGeometry)
        return geometry.block_rows

    assert rows(64) == 64
    assert rows(4096) == 128


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("kibibytes", [99, 163, 227])
def test_geometries_fit_their_chip(head_dim: int, kibibytes: int) -> None:
    chip = ChipLimits((8, 0), 40, kibibytes << 10)
    call = replace(CASES[0].call, head_dim=head_dim, query_stride=4 * head_dim)
    found = list(geometries(call, chip))
    assert found
    assert found[0].block_rows >= 64
    for geometry in found:
        assert geometry.shared_bytes(call) + 1024 <= (kibibytes + 1 << 10) // geometry.blocks_together(
            call, chip
        )
