"""A step's launches on a card, as recorded and fused: the same bits of logits and cache."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from linear_harness import Execute
from stand_in_workspace import run_step

from pascaline.hardware.roofline import Roofline
from pascaline.kernels import KERNELS, OPS, Chip, Kernel, Launcher, Policy
from pascaline.kernels.cuda import linear_recipes, program
from pascaline.kernels.cuda.fused_kernels import (
    ADD_NORM,
    NORM_ROTATE_AND_STORE,
    ROTATE_AND_STORE,
)
from pascaline.kernels.cuda.fusion import fuse
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.cuda_linear import in_slabs
from pascaline.kernels.packed_cases import PackedForm, random_packed
from pascaline.kernels.recording import RecordedLaunch
from pascaline.weights import Dense, Weight

TOKENS, HIDDEN, HEADS, KEY_HEADS, HEAD_DIM, INNER, VOCABULARY = 5, 64, 4, 2, 16, 96, 50
LIMITS = ChipLimits((8, 0), 28)
RATES: dict[str, float] = {"fp32": 1e13, "int8": 4e13, "tensor_fp16": 1e14, "tensor_bf16": 1e14}
ROOFLINE = Roofline("a card", "cuda", "8.0", RATES, bytes_per_s=1e12, memory_bytes=24 << 30, launch_s=2e-6)
CHIP = Chip(torch.device("cuda"), LIMITS, ROOFLINE)


@dataclass
class Style:
    """What families differ in."""

    heads_are_normalised: bool = False
    norms_around: bool = False
    packed: PackedForm | None = None
    gate: str = "silu_and_mul"
    cache_dtype: torch.dtype = torch.float16
    dense_dtype: torch.dtype = torch.float16
    has_biases: bool = False


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
        values = torch.randn(shape, generator=self._generator) / shape[-1] ** 0.5
        return Dense(values.to(self._style.dense_dtype))

    def _linear(self, x: torch.Tensor, outputs: int) -> torch.Tensor:
        weight: Weight = self._weight(outputs, x.shape[1])
        if self._style.packed is not None:
            weight = in_slabs(random_packed(self._style.packed, *weight.shape, self._generator))
        bias = torch.randn(outputs, generator=self._generator) if self._style.has_biases else None
        return self._launch(OPS["linear"], "", x, weight, bias)

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


def by_linears(*ways: str) -> tuple[Kernel, ...]:
    """Of linears those alone."""
    names = {f"cuda.linear_{way}" for way in ways}
    return tuple(kernel for kernel in KERNELS if kernel.ops != ("linear",) or kernel.name in names)


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
        results.append(run_step(made, LIMITS, execute))
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
@pytest.mark.parametrize("way", ["tile_two_planes", "mma"])
def test_inputs_are_written_as_linears_take_them(way: str, form: str, gate: str, execute: Execute) -> None:
    packed = PackedForm(4, 32, (2,), zero=8, permutation=form != "Q4_0")
    recorded, fused = both_ways(Style(packed=packed, gate=gate), by_linears(way), execute)
    check_made_inputs(recorded, fused, most=2 if way == "tile_two_planes" else 3)


@pytest.mark.parametrize("has_biases", [False, True])
@pytest.mark.parametrize(
    ("way", "dtype", "most"),
    [
        ("dense_half", torch.float16, 3),
        ("dense_brain", torch.bfloat16, 3),
        ("dense_brain_rounded", torch.bfloat16, 2),
    ],
)
def test_inputs_are_written_as_a_librarys_products_take_them(
    way: str,
    dtype: torch.dtype,
    most: int,
    has_biases: bool,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the CPU torch has no products of halves in fp32, and older ones have none on cards."""
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    monkeypatch.setattr(linear_recipes, "_multiply", multiply_in_fp32)
    style = Style(dense_dtype=dtype, has_biases=has_biases)
    recorded, fused = both_ways(style, by_linears(way), execute)
    check_made_inputs(recorded, fused, most + (way == "dense_brain_rounded" and has_biases))


def multiply_in_fp32(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    out.copy_((x.double() @ weight.double().T).to(out.dtype))


def check_made_inputs(recorded: list[RecordedLaunch], fused: list[RecordedLaunch], most: int) -> None:
    """Each linear takes `most` launches, and one less where a norm or gate makes its input."""

    def launches(step: list[RecordedLaunch]) -> list[int]:
        recipes = (each.kernel.recipe(CHIP, {}, each.inputs, each.parameters) for each in step)
        names = (each.op.name for each in step)
        return [len(recipe.steps) for name, recipe in zip(names, recipes, strict=True) if name == "linear"]

    assert launches(recorded) == [most] * 9
    # In each layer the output's linear, whose inputs are attention's, makes them by itself.
    assert sorted(launches(fused)) == [most - 1] * 7 + [most] * 2
    names = [each.kernel.name for each in fused]
    assert sum("_to_" in name for name in names) == sum("of_made_input" in name for name in names) == 7


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
