"""Launches that begin before those before them end: with --gpu, on a card that overlaps them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.linear_runner import LinearRunner
from pascaline.kernels.cuda.linear_ways import LINEAR_WAYS
from pascaline.kernels.cuda.tuned import TunedLinears
from pascaline.kernels.cuda_linear import in_slabs
from pascaline.kernels.packed_cases import PackedForm, random_packed
from pascaline.weights import Slabbed

WAYS = {way.name: way for way in LINEAR_WAYS}
INT4 = PackedForm(4, 128, (2,), zero=8)
ROWS = {
    "decode_two_planes": 1,
    "rows_two_planes": 8,
    "rows_one_plane": 8,
    "matrix_two_planes": 8,
    "matrix_one_plane": 8,
    "mma": 16,
    "wgmma": 64,
    "tile_two_planes": 64,
}
WIDTHS = (512, 18944, 1024, 2048)
"""Short products and long ones, whose K several blocks share, in turns."""

DEPTH, REPEATS = 6, 50


def _weights(device: torch.device) -> list[Slabbed]:
    generator = torch.Generator().manual_seed(7)
    widths = [WIDTHS[i % len(WIDTHS)] for i in range(DEPTH + 1)]
    weights = []
    for columns, outputs in pairwise(widths):
        weight = random_packed(INT4, outputs, columns, generator)
        # So that values stay of one size along the chain.
        weight = replace(weight, scales=(weight.scales * (3 / columns**0.5)).half())
        slabbed = in_slabs(weight.to(device))
        assert isinstance(slabbed, Slabbed)
        weights.append(slabbed)
    torch.cuda.synchronize(device)
    return weights


@pytest.mark.parametrize("name", ROWS)
def test_each_launch_reads_what_the_one_before_wrote(name: str, device: str) -> None:
    """A chain of products, two buffers in turns: what is read too early, or written too early, shows."""
    if device == "cpu":
        return
    card = torch.device(device, torch.cuda.current_device())
    kernels = KernelSet(card)
    way, rows = WAYS[name], ROWS[name]
    if way.needs is not None and way.needs(kernels.limits) is not None:
        # Tensor cores' ways are of some chips alone: wgmma of 9.0.
        pytest.skip(f"not on {kernels.limits.architecture}")
    linears, weights = LinearRunner(kernels, TunedLinears()), _weights(card)
    buffers = [torch.empty(rows * max(WIDTHS), dtype=torch.float16, device=card) for _ in range(2)]
    generator = torch.Generator(card).manual_seed(1)

    def run(after_each: Callable[[], None]) -> torch.Tensor:
        """The last rows of the chain; `after_each` product something is done."""
        x = buffers[0][: rows * WIDTHS[0]].view(rows, WIDTHS[0])
        for i, weight in enumerate(weights):
            outputs = WIDTHS[(i + 1) % len(WIDTHS)]
            y = buffers[(i + 1) % 2][: rows * outputs].view(rows, outputs)
            linears(way, x, weight, None, y)
            after_each()
            x = y
        return x

    graph = torch.cuda.CUDAGraph()
    for repeat in range(REPEATS):
        first = torch.randn(rows, WIDTHS[0], device=card, generator=generator).half()

        def begin(first: torch.Tensor = first) -> None:
            for buffer in buffers:
                buffer.fill_(float("nan"))
            buffers[0][: first.numel()].copy_(first.flatten())

        begin()
        expected = run(lambda: torch.cuda.synchronize(card)).clone()
        assert expected.isfinite().all()
        begin()
        assert torch.equal(run(lambda: None), expected)
        if repeat == 0:
            with torch.cuda.graph(graph):
                last = run(lambda: None)
        begin()
        graph.replay()
        assert torch.equal(last, expected)
