"""A step's launches on a card, as recorded and fused: the same bits of logits and cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import pytest
import torch
from linear_harness import Execute, as_array
from test_cuda_ops import memory_of

from pascaline.hardware.roofline import Roofline
from pascaline.kernels import KERNELS, OPS, Chip, Kernel, Launcher, Policy
from pascaline.kernels.cuda import program
from pascaline.kernels.cuda.fused_kernels import (
    ADD_NORM,
    NORM_ROTATE_AND_STORE,
    ROTATE_AND_STORE,
)
from pascaline.kernels.cuda.fusion import fuse
from pascaline.kernels.cuda.linear_product import product_of
from pascaline.kernels.cuda.linear_way import LinearWay
from pascaline.kernels.cuda.program import CardProgram
from pascaline.kernels.cuda.quantise_input import QUANTISED_BUFFERS
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.cuda_linear import in_slabs
from pascaline.kernels.kernel import Workspace
from pascaline.kernels.packed_cases import PackedForm, random_packed
from pascaline.kernels.recording import RecordedLaunch
from pascaline.weights import Dense, Slabbed, Weight

TOKENS, HIDDEN, HEADS, KEY_HEADS, HEAD_DIM, INNER, VOCABULARY = 5, 64, 4, 2, 16, 96, 50
LIMITS = ChipLimits((6, 1), 28)
ROOFLINE = Roofline(
    "P40", "cuda", "6.1", {"fp32": 1e13, "int8": 4e13}, bytes_per_s=3e11, memory_bytes=24 << 30, launch_s=2e-6
)
CHIP = Chip(torch.device("cuda"), LIMITS, ROOFLINE)


CHANGED = ("cache", "scales", "key_cache", "value_cache", "key_scales", "value_scales", "residual")
"""Buffers of which launches change some."""


@dataclass
class Style:
    """What families differ in."""

    heads_are_normalised: bool = False
    norms_around: bool = False
    packed: PackedForm | None = None
    gate: str = "silu_and_mul"
    cache_dtype: torch.dtype = torch.float16


class Decoder:
    """The launches of a decoder of two layers, with queries in the place of what attention makes of them."""

    def __init__(self, launch: Launcher, style: Style) -> None:
        self._launch, self._style = launch, style
        self._generator = torch.Generator().manual_seed(0)
        self.positions, self.slots = torch.tensor([4, 0, 9, 3, 5]), torch.tensor([17, -1, 3, 4, 31])
        self.cosine, self.sine = torch.randn(2, 10, HEAD_DIM // 2, generator=self._generator)
        cache = torch.zeros(2, KEY_HEADS, 16, HEAD_DIM).to(style.cache_dtype)
        self.caches = [cache.clone().transpose(1, 2) for _ in range(4)]
        has_scales = style.cache_dtype == torch.int8
        self.scales = [torch.zeros(cache.shape[:3]) if has_scales else None for _ in self.caches]

    def _weight(self, *shape: int) -> Dense:
        return Dense(torch.randn(shape, generator=self._generator).half() / shape[-1] ** 0.5)

    def _linear(self, x: torch.Tensor, outputs: int) -> torch.Tensor:
        weight: Weight = self._weight(outputs, x.shape[1])
        if self._style.packed is not None:
            weight = in_slabs(random_packed(self._style.packed, *weight.shape, self._generator))
        return self._launch(OPS["linear"], "", x, weight, None)

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
        for rows, index in zip((key, value), (2 * layer, 2 * layer + 1), strict=True):
            cache, scales = self.caches[index], self.scales[index]
            self._launch(OPS["store_rows"], "", rows, self.slots, cache, scales)
        return self._linear(query.flatten(1), HIDDEN)

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self._linear(x, 2 * INNER).split(INNER, dim=1)
        return self._linear(self._launch(OPS[self._style.gate], "", gate, up), HIDDEN)

    def _after(self, x: torch.Tensor) -> torch.Tensor:
        return self._norm(x) if self._style.norms_around else x

    def record(self) -> tuple[list[RecordedLaunch], torch.Tensor]:
        with self._launch.recording() as recorder:
            token_ids = torch.tensor([7, 49, 0, 7, 1])
            x = self._launch(OPS["embedding"], "", token_ids, self._weight(VOCABULARY, HIDDEN))
            for layer in range(2):
                x = self._launch(OPS["add"], "", self._after(self._attention(self._norm(x), layer)), x)
                x = self._launch(OPS["add"], "", self._after(self._feed_forward(self._norm(x))), x)
            wanted = self._launch(OPS["select_rows"], "", x, torch.tensor([2, 0, 4, 1, 3]))
            logits = self._linear(self._norm(wanted), VOCABULARY)
        return recorder.launches, logits


class StandIn:
    """In the place of a `Workspace`, its `OpRunner` and `LinearRunner`: recipes run as `execute` does."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self.ops, self.limits = self, LIMITS
        self._made: dict[object, Recipe] = {}

    def __call__(
        self, key: object, make: Callable[[], Recipe], buffers: Mapping[str, torch.Tensor | None]
    ) -> None:
        recipe = make()
        assert self._made.setdefault(key, recipe) == recipe, "launches that are not alike are bound as one"
        self._run(recipe, buffers)

    def linears(
        self,
        way: LinearWay,
        x: torch.Tensor,
        weight: Dense | Slabbed,
        bias: torch.Tensor | None,
        out: torch.Tensor,
        *,
        is_gated: bool = False,
    ) -> None:
        recipe = way.recipe(product_of(weight, x.shape[0], LIMITS, is_gated=is_gated), None)
        stored = {"weight": weight.tensor} if isinstance(weight, Dense) else weight.buffers
        handed_on = {
            name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in recipe.handed_on.items()
        }
        self._run(recipe, {**stored, **handed_on, "x": x, "bias": bias, "y": out})

    def _run(self, recipe: Recipe, buffers: Mapping[str, torch.Tensor | None]) -> None:
        arrays = {name: as_array(memory_of(each)) for name, each in buffers.items() if each is not None}
        for plan in recipe.plans:
            file = plan.specialisation.file
            written = ("y",) if file.startswith("linear") else ("y", *QUANTISED_BUFFERS)
            changed = CHANGED if file in ("rms_norm.cu", "store_rows.cu", "rotate_and_store.cu") else ()
            outputs, updates = (
                [name for name in names if name in plan.arguments] for names in (written, changed)
            )
            self._execute(plan, arrays, outputs, updates=updates)


def run(step: CardProgram, execute: Execute) -> torch.Tensor:
    """What the launches compute, in memory that they share."""
    placed, result = step.placed(torch.full((step.nbytes,), 0x7F, dtype=torch.uint8))
    workspace = cast(Workspace, StandIn(execute))
    for each in placed:
        each.kernel.launch(*each.inputs, out=each.out, workspace=workspace, **each.parameters)
    return result.clone()


QUANTISING = tuple(
    kernel
    for kernel in KERNELS
    if kernel.ops != ("linear",) or kernel.name.endswith(("tile_two_planes", "tile_one_plane"))
)
"""Linears of packed weights by those alone that quantise their inputs by a launch."""


def both_ways(
    style: Style, kernels: tuple[Kernel, ...], execute: Execute
) -> tuple[list[RecordedLaunch], list[RecordedLaunch]]:
    """The launches as recorded and fused; raises unless they compute the same."""
    results, caches, launched = [], [], []
    for is_fused in (False, True):
        decoder = Decoder(Launcher(Policy(CHIP, kernels)), style)
        with pytest.MonkeyPatch.context() as patch:
            if not is_fused:
                patch.setattr(program, "fuse", lambda launches, logits, _: (launches, logits))
            made = program.CardProgram(*decoder.record(), CHIP)
        results.append(run(made, execute))
        caches.append([*decoder.caches, *(each for each in decoder.scales if each is not None)])
        launched.append(made.launches)
    assert results[0].isfinite().all()
    assert results[0].any()
    assert torch.equal(*results)
    assert all(torch.equal(one, other) for one, other in zip(*caches, strict=True))
    assert all(cache.any() for cache in caches[0])
    return launched[0], launched[1]


@pytest.mark.parametrize("norms_around", [False, True])
@pytest.mark.parametrize("heads_are_normalised", [False, True])
def test_fused_steps_have_the_same_bits(
    heads_are_normalised: bool, norms_around: bool, execute: Execute
) -> None:
    recorded, fused = both_ways(Style(heads_are_normalised, norms_around), KERNELS, execute)
    covered = [each.kernel.ops for each in fused]
    kernel = NORM_ROTATE_AND_STORE if heads_are_normalised else ROTATE_AND_STORE
    assert covered.count(kernel.ops) == 2
    # All sums but the last, from which rows are selected before they are normalised.
    assert covered.count(ADD_NORM.ops) == 3
    assert covered.count(("linear", "silu_and_mul")) == 2
    assert sum(map(len, covered)) == len(recorded)


@pytest.mark.parametrize("heads_are_normalised", [False, True])
def test_fused_steps_store_codes_and_their_scales(heads_are_normalised: bool, execute: Execute) -> None:
    style = Style(heads_are_normalised, cache_dtype=torch.int8)
    _, fused = both_ways(style, KERNELS, execute)
    kernel = NORM_ROTATE_AND_STORE if heads_are_normalised else ROTATE_AND_STORE
    assert [each.kernel.ops for each in fused].count(kernel.ops) == 2


@pytest.mark.parametrize("gate", ["silu_and_mul", "gelu_and_mul"])
@pytest.mark.parametrize("form", ["Q4_0", "in an order of its own"])
def test_what_linears_quantise_is_written_so(form: str, gate: str, execute: Execute) -> None:
    packed = PackedForm(4, 32, (2,), zero=8, permutation=form != "Q4_0")
    recorded, fused = both_ways(Style(packed=packed, gate=gate), QUANTISING, execute)
    launched = [len(each.kernel.recipe(CHIP, {}, each.inputs, each.parameters).steps) for each in recorded]
    assert launched.count(2) == 9  # the linears
    saved = [len(each.kernel.recipe(CHIP, {}, each.inputs, each.parameters).steps) for each in fused]
    # In each layer the output's linear, whose inputs are attention's, quantises by itself.
    assert saved.count(2) == 2
    names = [each.kernel.name for each in fused]
    assert sum("to_" in name for name in names) == sum("of_quantised" in name for name in names) == 7


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
    return [each.kernel.ops for each in fuse(recorder.launches, result, CHIP)[0]]


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
        launch(OPS["store_rows"], "", key, ones, keys, None)
        launch(OPS["store_rows"], "", value, others if different == "slots" else ones, values, None)
        again = key if different == "key is read again" else query
        result = launch(OPS["add"], "", query.flatten(1), again.flatten(1))
    fused, _ = fuse(recorder.launches, result, CHIP)
    assert (ROTATE_AND_STORE.ops in [each.kernel.ops for each in fused]) == (different == "nothing")
