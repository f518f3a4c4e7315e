"""Attention of single new tokens by tensor cores, against the op's reference in fp64."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy
import pytest
import torch
from linear_harness import Execute, as_array, compare

from pascaline.kernels import paged_attention
from pascaline.kernels.cuda.attention_bounds import decode_bound
from pascaline.kernels.cuda.attention_call import PAGE_SIZE, AttentionCall
from pascaline.kernels.cuda.attention_decode import (
    AttentionDecodeGeometry,
    plan_attention_decode,
)
from pascaline.kernels.cuda.specialisation import ChipLimits

HALF, BRAIN, BYTES = torch.float16, torch.bfloat16, torch.int8


@dataclass(frozen=True)
class DecodeCase:
    """One launch.

    Parameters
    ----------
    contexts : tokens of each sequence.
    rows : new tokens of each sequence; 1 where there are none given.
    multiprocessors : which share the work.
    """

    contexts: tuple[int, ...]
    heads: int = 4
    key_value_heads: int = 2
    head_dim: int = 64
    cache_dtype: torch.dtype = HALF
    window: int = 0
    softcap: float = 0.0
    scale: float = 0.125
    rows: tuple[int, ...] = ()
    most_rows: int = 1
    multiprocessors: int = 3
    geometry: AttentionDecodeGeometry = field(default=AttentionDecodeGeometry(2, 2, least_pages=1))
    query_size: float = 1.0

    def __str__(self) -> str:
        parts = [f"{self.heads}over{self.key_value_heads}x{self.head_dim}", str(self.cache_dtype)[6:]]
        parts += [f"{len(self.contexts)}of{max(self.contexts)}", f"window{self.window}", f"cap{self.softcap}"]
        parts += [f"rows{self.most_rows}", f"{self.multiprocessors}sm", f"q{self.query_size}"]
        geometry = self.geometry
        return "-".join([*parts, f"{geometry.warps}x{geometry.stages}x{geometry.step_pages}x{geometry.blocks}"])


CASES = [
    # Ends of pages, padding, and contexts of which some blocks have several and some share one.
    DecodeCase((1, 15, 16, 17, 0, 33, 300), rows=(1, 1, 1, 1, 0, 1, 1)),
    DecodeCase((700,), multiprocessors=7),
    DecodeCase((1,), multiprocessors=2),
    DecodeCase((0, 5, 0), rows=(0, 1, 0)),
    # As many blocks as tiles, and as many for each: one run a tile.
    DecodeCase((100, 97, 64), key_value_heads=1, multiprocessors=3),
    DecodeCase((200, 190), key_value_heads=1, multiprocessors=4),
    DecodeCase(tuple(range(1, 36))),
    # Page numbers beyond the first 32 of a warp.
    DecodeCase((1500,), 2, 1, geometry=AttentionDecodeGeometry(1, 3, least_pages=1), multiprocessors=1),
    # Groups.
    DecodeCase((40, 3), 3, 3),
    DecodeCase((40, 3), 7, 1),
    DecodeCase((40, 3), 8, 1),
    DecodeCase((40, 77), 9, 1),
    DecodeCase((40, 77), 32, 2),
    # Types and sizes of heads.
    *(DecodeCase((50, 9), head_dim=size) for size in (16, 80, 96, 112, 128, 192, 256)),
    *(DecodeCase((50, 9), head_dim=size, cache_dtype=BYTES) for size in (16, 64, 80, 96, 112, 128, 192, 256)),
    *(DecodeCase((150, 9), head_dim=size, cache_dtype=BRAIN) for size in (64, 128)),
    DecodeCase((400, 21), 7, 1, 128, geometry=AttentionDecodeGeometry(4, 3, 2)),
    # Two pages a step, of which the last has one.
    DecodeCase((700, 300, 20), geometry=AttentionDecodeGeometry(2, 2, 2, least_pages=1)),
    DecodeCase((1700, 33), 7, 1, 128, BYTES, geometry=AttentionDecodeGeometry(3, 3, 2)),
    DecodeCase((1500, 40), 2, 1, 64, BRAIN, geometry=AttentionDecodeGeometry(1, 3, 2), multiprocessors=1),
    # Windows and caps.
    DecodeCase((100, 5, 33), window=24),
    DecodeCase((100, 5, 33), window=1),
    DecodeCase((100, 5, 33), window=16),
    DecodeCase((200, 9, 150), window=100, softcap=20.0, scale=1.0),
    DecodeCase((100, 5), softcap=2.0, scale=1.0),
    DecodeCase((100, 5), softcap=30.0, scale=3.0, cache_dtype=BYTES),
    DecodeCase((300, 5), scale=4.0, cache_dtype=BRAIN),
    # Queries of other sizes.
    DecodeCase((100, 5), query_size=1e-6),
    DecodeCase((100, 5), query_size=1e5, scale=1e-5),
    # Sequences of more new tokens, the last ones, are left to others, or computed too.
    DecodeCase((40, 60, 30, 70), rows=(1, 1, 3, 2)),
    DecodeCase((40, 60, 30, 9), 7, 1, rows=(1, 3, 8, 9), most_rows=8),
    DecodeCase((140, 60, 30), 4, 2, rows=(5, 2, 1), most_rows=8, window=20, cache_dtype=BYTES),
]


class DecodeInputs:
    """Operands as the op has them, in fp64, and as buffers; the same for the same case."""

    def __init__(self, case: DecodeCase) -> None:
        generator = torch.Generator().manual_seed(zlib.crc32(str(case).encode()))
        self.case = case
        contexts = torch.tensor(case.contexts)
        rows = torch.tensor(case.rows or (1,) * len(case.contexts))
        width = -(-int(contexts.max()) // PAGE_SIZE) + 1
        pages = len(case.contexts) * width + 3
        self.call = AttentionCall(
            tokens=int(rows.sum()),
            sequences=len(case.contexts),
            table_width=width,
            heads=case.heads,
            key_value_heads=case.key_value_heads,
            head_dim=case.head_dim,
            query_stride=(case.heads + 2) * case.head_dim,
            cache_dtype=case.cache_dtype,
            window=case.window,
            softcap=case.softcap,
            scale=case.scale,
        )
        table = torch.randperm(pages, generator=generator)[: len(case.contexts) * width].view(-1, width)
        # What nobody wrote is no number: other pages, the rest of a last page.
        own = torch.zeros(pages, PAGE_SIZE, dtype=torch.bool)
        own[table] = (torch.arange(width * PAGE_SIZE) < contexts[:, None]).view(*table.shape, -1)
        # Beyond the last page a table has anything.
        beyond = torch.arange(width) >= -(-contexts[:, None] // PAGE_SIZE)
        table[beyond] = -12345
        wide = torch.randn(self.call.tokens, case.heads + 2, case.head_dim, generator=generator)
        self.query = wide[:, : case.heads] * case.query_size
        start = torch.cat((torch.zeros(1, dtype=torch.int64), rows.cumsum(0))).int()
        self.taken = int(rows[rows <= case.most_rows].sum())
        self.buffers = {
            "query": as_array((wide * case.query_size).contiguous()),
            "page_table": as_array(table.int()),
            "query_start": as_array(start),
            "context_lengths": as_array(contexts.int()),
            # Rows of sequences that are left to others are missing: a write to them is found.
            "y": numpy.empty((self.taken, case.heads, case.head_dim), numpy.float32),
        }
        shape = (pages, case.key_value_heads, PAGE_SIZE, case.head_dim)
        caches, self.scales = [], None
        for name in ("key", "value"):
            numbers = torch.randn(shape, generator=generator)
            stale = ~own[:, None, :, None]
            if case.cache_dtype == BYTES:
                scales = numbers.abs().amax(-1, keepdim=True) / 127
                codes = (numbers / scales).round().to(torch.int8)
                scales = scales.masked_fill(stale, float("nan"))
                self.buffers[f"{name}_cache"] = as_array(codes)
                self.buffers[f"{name}_scales"] = as_array(scales)
                self.scales = scales.double().transpose(1, 2)
                caches.append((codes.double() * scales.double()).transpose(1, 2))
            else:
                stored = numbers.masked_fill(stale, float("nan")).to(case.cache_dtype)
                self.buffers[f"{name}_cache"] = as_array(stored)
                caches.append(stored.double().transpose(1, 2))
        table = table.clamp(min=0).int()
        self.operands = (self.query.double(), *caches, table, start, contexts.int())


def check(case: DecodeCase, execute: Execute) -> None:
    inputs = DecodeInputs(case)
    chip = ChipLimits((8, 0), case.multiprocessors, 160 << 10)
    plan = plan_attention_decode(inputs.call, chip, case.geometry, most_rows=case.most_rows)
    options = {"scale": case.scale, "window": case.window, "softcap": case.softcap}
    execute(plan, inputs.buffers, ("y",))
    expected = paged_attention.reference(*inputs.operands, **options)
    bound = decode_bound(
        *inputs.operands, **options, cache_dtype=case.cache_dtype, value_scales=inputs.scales
    )
    compare(
        torch.from_numpy(inputs.buffers["y"]), expected[: inputs.taken].numpy(), bound[: inputs.taken].numpy()
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_decode(case: DecodeCase, execute: Execute) -> None:
    check(case, execute)
