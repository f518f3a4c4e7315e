"""A step's launches on a card, as recorded and fused: the same bits of logits and cache."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from linear_harness import Execute, as_array
from test_cuda_ops import memory_of

from pascaline.hardware.roofline import Roofline
from pascaline.kernels import KERNELS, OPS, Chip, Launcher, Policy
from pascaline.kernels.cuda.fused_kernels import (
    ADD_NORM,
    NORM_ROTATE_AND_STORE,
    QUERY_KEY_VALUE,
    ROTATE_AND_STORE,
)
from pascaline.kernels.cuda.fusion import fuse
from pascaline.kernels.cuda.op_kernel import OUTPUT
from pascaline.kernels.cuda.program import CardProgram
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.recording import RecordedLaunch
from pascaline.weights import Dense

TOKENS, HIDDEN, HEADS, KEY_HEADS, HEAD_DIM, INNER, VOCABULARY = 3, 64, 4, 2, 16, 96, 50
LIMITS = ChipLimits((6, 1), 28)
ROOFLINE = Roofline(
    "P40", "cuda", "6.1", {"fp32": 1e13}, bytes_per_s=3e11, memory_bytes=24 << 30, launch_s=2e-6
)
CHIP = Chip(torch.device("cuda"), LIMITS, ROOFLINE)


NAMES = {
    ADD_NORM.name: ("x", "residual", "gain"),
    ROTATE_AND_STORE.name: QUERY_KEY_VALUE,
    NORM_ROTATE_AND_STORE.name: (*QUERY_KEY_VALUE, "query_gain", "key_gain"),
}
"""Of fused kernels' operands."""
CHANGED = ("cache", "key_cache", "value_cache", "residual")


@dataclass
class Style:
    """What families differ in."""

    heads_are_normalised: bool = False
    norms_around: bool = False


class Decoder:
    """The launches of a decoder of two layers, with queries in the place of what attention makes of them."""

    def __init__(self, launch: Launcher, style: Style) -> None:
        self._launch, self._style = launch, style
        self._generator = torch.Generator().manual_seed(0)
        self.positions, self.slots = torch.tensor([4, 0, 9]), torch.tensor([17, -1, 3])
        self.cosine, self.sine = torch.randn(2, 10, HEAD_DIM // 2, generator=self._generator)
        cache = torch.zeros(2, KEY_HEADS, 16, HEAD_DIM).half()
        self.caches = [cache.clone().transpose(1, 2) for _ in range(4)]

    def _weight(self, *shape: int) -> Dense:
        return Dense(torch.randn(shape, generator=self._generator).half() / shape[-1] ** 0.5)

    def _linear(self, x: torch.Tensor, outputs: int) -> torch.Tensor:
        return self._launch(OPS["linear"], "", x, self._weight(outputs, x.shape[1]), None)

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        return self._launch(OPS["rms_norm"], "", x, self._weight(x.shape[1]), epsilon=1e-5)

    def _attention(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        sizes = [HEADS * HEAD_DIM, KEY_HEADS * HEAD_DIM, KEY_HEADS * HEAD_DIM]
        parts = self._linear(x, sum(sizes)).split(sizes, dim=1)
        query, key, value = (part.view(TOKENS, -1, HEAD_DIM) for part in parts)
        if self._style.heads_are_normalised:
            query, key = (
                self._launch(OPS["head_norm"], "", each, self._weight(HEAD_DIM), epsilon=1e-6)
                for each in (query, key)
            )
        query, key = (
            self._launch(OPS["rotary"], "", each, self.positions, self.cosine, self.sine)
            for each in (query, key)
        )
        for rows, cache in zip((key, value), self.caches[2 * layer :], strict=False):
            self._launch(OPS["store_rows"], "", rows, self.slots, cache)
        return self._linear(query.flatten(1), HIDDEN)

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self._linear(x, 2 * INNER).split(INNER, dim=1)
        return self._linear(self._launch(OPS["silu_and_mul"], "", gate, up), HIDDEN)

    def _after(self, x: torch.Tensor) -> torch.Tensor:
        return self._norm(x) if self._style.norms_around else x

    def record(self) -> tuple[list[RecordedLaunch], torch.Tensor]:
        with self._launch.recording() as recorder:
            token_ids = torch.tensor([7, 49, 0])
            x = self._launch(OPS["embedding"], "", token_ids, self._weight(VOCABULARY, HIDDEN))
            for layer in range(2):
                x = self._launch(OPS["add"], "", self._after(self._attention(self._norm(x), layer)), x)
                x = self._launch(OPS["add"], "", self._after(self._feed_forward(self._norm(x))), x)
            wanted = self._launch(OPS["select_rows"], "", x, torch.tensor([2, 0]))
            logits = self._linear(self._norm(wanted), VOCABULARY)
        return recorder.launches, logits


def run(launches: list[RecordedLaunch], result: torch.Tensor, execute: Execute) -> torch.Tensor:
    """What the launches compute, in memory that they share."""
    program = CardProgram(launches, result)
    placed, result = program.placed(torch.full((program.nbytes,), 0x7F, dtype=torch.uint8))
    for launch in placed:
        is_fused = launch.kernel.name in NAMES
        names = NAMES[launch.kernel.name] if is_fused else tuple(launch.op.inputs)
        buffers = {OUTPUT: as_array(memory_of(launch.out))}
        for name, value in zip(names, launch.inputs, strict=True):
            tensor = value.tensor if isinstance(value, Dense) else value
            if isinstance(tensor, torch.Tensor):
                buffers[name] = as_array(memory_of(tensor))
        changed = tuple(name for name in CHANGED if name in buffers and launch.op.name != "add")
        outputs = () if launch.op.in_place is not None and not is_fused else (OUTPUT,)
        for plan in launch.kernel.recipe(CHIP, {}, launch.inputs, launch.parameters).plans:
            execute(plan, buffers, outputs, updates=changed)
    return result.clone()


@pytest.mark.parametrize("norms_around", [False, True])
@pytest.mark.parametrize("heads_are_normalised", [False, True])
def test_fused_steps_have_the_same_bits(
    heads_are_normalised: bool, norms_around: bool, execute: Execute
) -> None:
    style = Style(heads_are_normalised, norms_around)
    results, caches, counts = [], [], []
    for is_fused in (False, True):
        decoder = Decoder(Launcher(Policy(CHIP, KERNELS)), style)
        launches, logits = decoder.record()
        if is_fused:
            launches, logits = fuse(launches, logits)
        results.append(run(launches, logits, execute))
        caches.append(decoder.caches)
        counts.append([each.kernel.ops for each in launches])
    assert results[0].isfinite().all()
    assert torch.equal(*results)
    assert all(torch.equal(one, other) for one, other in zip(*caches, strict=True))
    assert all(cache.any() for cache in caches[0])
    kernel = NORM_ROTATE_AND_STORE if heads_are_normalised else ROTATE_AND_STORE
    assert counts[1].count(kernel.ops) == 2
    # All sums but the last, from which rows are selected before they are normalised.
    assert counts[1].count(ADD_NORM.ops) == 3
    assert sum(map(len, counts[1])) == len(counts[0])


def _launches_of_a_sum(*, reads_again: bool) -> list[tuple[str, ...]]:
    launch = Launcher(Policy(CHIP, KERNELS))
    gain = Dense(torch.ones(HIDDEN))
    with launch.recording() as recorder:
        x, y = (
            launch(OPS["embedding"], "", torch.tensor([seed]), Dense(torch.ones(2, HIDDEN)))
            for seed in range(2)
        )
        result = launch(OPS["rms_norm"], "", launch(OPS["add"], "", x, y), gain, epsilon=1e-6)
        if reads_again:
            result = launch(OPS["add"], "", result, y)
    return [each.kernel.ops for each in fuse(recorder.launches, result)[0]]


def test_a_sum_does_not_take_the_place_of_what_is_read_again() -> None:
    assert ADD_NORM.ops in _launches_of_a_sum(reads_again=False)
    assert ADD_NORM.ops not in _launches_of_a_sum(reads_again=True)


@pytest.mark.parametrize("different", ["positions", "slots", "cache", "key is read again", "nothing"])
def test_only_queries_keys_and_values_that_belong_together_are_one_launch(different: str) -> None:
    launch = Launcher(Policy(CHIP, KERNELS))
    tables = torch.ones(2, 10, HEAD_DIM // 2)
    keys, values = (torch.zeros(2, KEY_HEADS, 16, HEAD_DIM).transpose(1, 2) for _ in range(2))
    if different == "cache":
        values = torch.zeros(2, 16, KEY_HEADS, HEAD_DIM)
    ones, others = torch.ones(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    with launch.recording() as recorder:
        qkv = launch(OPS["embedding"], "", ones, Dense(torch.ones(2, 3 * KEY_HEADS * HEAD_DIM)))
        query, key, value = qkv.view(1, 3 * KEY_HEADS, HEAD_DIM).split(KEY_HEADS, dim=1)
        query = launch(OPS["rotary"], "", query, ones, *tables)
        key = launch(OPS["rotary"], "", key, others if different == "positions" else ones, *tables)
        launch(OPS["store_rows"], "", key, ones, keys)
        launch(OPS["store_rows"], "", value, others if different == "slots" else ones, values)
        again = key if different == "key is read again" else query
        result = launch(OPS["add"], "", query.flatten(1), again.flatten(1))
    fused, _ = fuse(recorder.launches, result)
    assert (ROTATE_AND_STORE.ops in [each.kernel.ops for each in fused]) == (different == "nothing")
