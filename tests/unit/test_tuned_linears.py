"""What was measured on a card: kept, found again, passed over where kernels have changed, and chosen by."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tune_linears import FORMS, random_slabbed

from pascaline.core.errors import ConfigError
from pascaline.hardware.gpus import find_gpu
from pascaline.kernels import KERNELS, OPS, Chip, Policy
from pascaline.kernels.cuda import tuned
from pascaline.kernels.cuda.autotune import CandidateError, tune_product, worth_trying
from pascaline.kernels.cuda.linear_product import Product, product_of
from pascaline.kernels.cuda.linear_runner import recipe_of
from pascaline.kernels.cuda.linear_ways import LINEAR_WAYS
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.cuda.tuned import Found, TunedLinears, file_name
from pascaline.kernels.packed_cases import random_packed
from pascaline.weights import Slabbed
from pascaline.weights.slab_layout import to_slabs

SHIPPED = tuned.SHIPPED
CARD = "NVIDIA TITAN X (Pascal)"
ROOFLINE = find_gpu("TITAN X (Pascal)").roofline()
LIMITS = ChipLimits((6, 1), 28)
WAYS = {way.name: way for way in LINEAR_WAYS}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PASCALINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuned, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "cache" / "tuned"


@pytest.fixture(scope="module")
def weight() -> Slabbed:
    return random_slabbed(FORMS["int4"], 512, 1024, torch.device("cpu"))


def by_grid(product: Product, recipe: Recipe, _rounds: int = 1) -> float:
    """Stands for a measurement: fewer blocks and fewer threads are better."""
    return sum(plan.grid[0] * plan.grid[1] * plan.grid[2] * plan.block[0] for plan in recipe.plans) * 1e-6


def found_by_grid(weight: Slabbed, rows: tuple[int, ...]) -> TunedLinears:
    known = TunedLinears()
    for each in rows:
        product = product_of(weight, each, LIMITS)
        known = tune_product(product, weight.resident_bytes, ROOFLINE, known, by_grid)
    return known


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_what_is_shipped_is_of_the_kernels_as_they_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "SHIPPED", SHIPPED)
    data = json.loads(path.read_text())
    assert path.name == file_name(data["card"])
    assert len(TunedLinears.of(data["card"])) == len(data["linears"]) > 0


def test_the_fastest_of_the_candidates_is_kept(weight: Slabbed) -> None:
    known = found_by_grid(weight, (1, 64))
    for rows in (1, 64):
        product = product_of(weight, rows, LIMITS)
        for way in worth_trying(product, weight.resident_bytes, ROOFLINE):
            found = known.get(way, product)
            assert found is not None
            times = [
                by_grid(product, way.recipe(product, plan.geometry)) for plan in way.candidates(product)[:40]
            ]
            assert found.seconds == min(times)
            assert found.seconds == by_grid(product, recipe_of(way, product, found.geometry))
            assert max(times) > min(times)


def test_it_is_found_again_for_all_rows_of_a_step(weight: Slabbed) -> None:
    known = found_by_grid(weight, (1, 64))
    known.write(CARD)
    again = TunedLinears.of(CARD)
    assert len(again) == len(known) > 2
    for rows in (1, 50, 63, 64):
        product = product_of(weight, rows, LIMITS)
        for way in LINEAR_WAYS:
            assert again.get(way, product) == known.get(way, product)
    assert known.get(WAYS["tile_two_planes"], product_of(weight, 50, LIMITS)) is not None
    assert known.get(WAYS["tile_two_planes"], product_of(weight, 65, LIMITS)) is None
    other = replace(product_of(weight, 1, LIMITS), stored=replace(weight.form, zero=9))
    assert known.get(WAYS["decode_two_planes"], other) is None
    assert len(TunedLinears.of("another card")) == 0


def test_what_is_of_other_sources_or_damaged_is_passed_over(
    weight: Slabbed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = found_by_grid(weight, (1,)).write(CARD)
    text = path.read_text()
    for damaged in ("", "{}", text[:-20], text.replace('"schema": 1', '"schema": 99'), "[]", "null"):
        path.write_text(damaged)
        assert len(TunedLinears.of(CARD)) == 0
    path.write_text(text)
    count = len(TunedLinears.of(CARD))
    data = json.loads(text)
    data["linears"][0]["source"] = "0" * 16
    path.write_text(json.dumps(data))
    assert len(TunedLinears.of(CARD)) == count - 1
    data["linears"][1]["geometry"] = {"unheard_of": 3}
    path.write_text(json.dumps(data))
    assert len(TunedLinears.of(CARD)) == 0


def test_what_makes_no_sense_or_is_of_another_card_is_passed_over(weight: Slabbed) -> None:
    path = found_by_grid(weight, (1,)).write(CARD)
    good = json.loads(path.read_text())
    assert good["linears"][0]["geometry"]["blocks"] >= 1

    def passed_over(text: str) -> bool:
        path.write_text(text)
        return len(TunedLinears.of(CARD)) == 0

    assert not passed_over(json.dumps(good))
    assert passed_over(json.dumps(good | {"card": "NVIDIA H200"}))
    for seconds in (0, -1.0, math.nan, math.inf, 10**400, "1e-5x", None):
        wrong = good["linears"][0] | {"seconds": seconds}
        assert passed_over(json.dumps(good | {"linears": [wrong, *good["linears"][1:]]})), seconds
    for blocks in (0, -1, 1.0, "1", True, None, [1]):
        geometry = good["linears"][0]["geometry"] | {"blocks": blocks}
        wrong = good["linears"][0] | {"geometry": geometry}
        assert passed_over(json.dumps(good | {"linears": [wrong]})), blocks
    for text in (
        "[" * 100_000,
        '{"schema": 1, "card": 5, "linears": []}',
        '{"schema": 1, "card": "", "linears": 7}',
    ):
        assert passed_over(text)


def test_a_cache_that_cannot_be_written_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PASCALINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot make .*Not a directory.*Point PASCALINE_CACHE"):
        TunedLinears().write(CARD)
    assert len(TunedLinears.of(CARD)) == 0


def test_this_machines_findings_replace_those_that_come_with_the_package(
    weight: Slabbed, tmp_path: Path
) -> None:
    product, way = product_of(weight, 1, LIMITS), WAYS["decode_two_planes"]
    geometry = way.candidates(product)[0].geometry
    TunedLinears().with_found(way, product, Found(geometry, 2.0)).write(CARD, tmp_path / "shipped")
    assert TunedLinears.of(CARD).get(way, product) == Found(geometry, 2.0)
    TunedLinears().with_found(way, product, Found(geometry, 1.0)).write(CARD)
    assert TunedLinears.of(CARD).get(way, product) == Found(geometry, 1.0)


def test_the_policy_goes_by_what_was_measured(weight: Slabbed) -> None:
    product = product_of(weight, 64, LIMITS)
    sizes, x = {"M": 64, "N": 512, "K": 1024}, torch.empty(64, 1024, device="meta")

    def decided(known: TunedLinears) -> str:
        chip = Chip(torch.device("cuda"), LIMITS, ROOFLINE, known)
        return Policy(chip, KERNELS).decide(OPS["linear"], sizes, (x, weight, None)).kernel.name

    assert decided(TunedLinears()) == "cuda.linear_tile_two_planes"
    slow = TunedLinears().with_found(WAYS["tile_two_planes"], product, Found(None, 1.0))
    assert decided(slow) == "cuda.linear_simt"


def test_measured_geometries_are_what_is_compiled(weight: Slabbed) -> None:
    way, product = WAYS["tile_two_planes"], product_of(weight, 64, LIMITS)
    plans = way.candidates(product)
    other = next(plan for plan in plans if plan.specialisation != plans[0].specialisation)
    known = TunedLinears().with_found(way, product, Found(other.geometry, 1e-9))
    chip = Chip(torch.device("cuda"), LIMITS, ROOFLINE, known)
    operands = (torch.empty(60, 1024, device="meta"), weight, None)
    sizes = {"M": 60, "N": 512, "K": 1024}
    kernel = Policy(chip, KERNELS).decide(OPS["linear"], sizes, operands).kernel
    assert kernel.name == "cuda.linear_tile_two_planes"
    assert kernel.recipe(chip, sizes, operands).plans[-1].specialisation == other.specialisation


@pytest.mark.parametrize("form", FORMS)
def test_weights_to_measure_have_the_shapes_of_real_ones(form: str) -> None:
    real = to_slabs(random_packed(FORMS[form], 32, 1024, torch.Generator().manual_seed(1)))
    made = random_slabbed(FORMS[form], 32, 1024, torch.device("cpu"))
    assert replace(made.form, table=None) == replace(real.form, table=None)
    assert {name: (each.shape, each.dtype) for name, each in made.buffers.items()} == {
        name: (each.shape, each.dtype) for name, each in real.buffers.items()
    }


def test_cards_files_are_named_for_them() -> None:
    assert file_name("NVIDIA TITAN X (Pascal)") == "titan-x-pascal.json"
    assert file_name("NVIDIA H200") == "h200.json"


def test_candidates_whose_numbers_are_wrong_are_no_candidates(weight: Slabbed) -> None:
    product = product_of(weight, 1, LIMITS)

    def wrong_where_fast(product: Product, recipe: Recipe, rounds: int) -> float:
        seconds = by_grid(product, recipe)
        if seconds < slowest[recipe.plans[-1].specialisation.file]:
            raise CandidateError("on purpose")
        return seconds

    slowest: dict[str, float] = {}
    for way in worth_trying(product, weight.resident_bytes, ROOFLINE):
        for plan in way.candidates(product):
            seconds = by_grid(product, way.recipe(product, plan.geometry))
            slowest[way.file] = max(slowest.get(way.file, 0.0), seconds)
    known = tune_product(product, weight.resident_bytes, ROOFLINE, TunedLinears(), wrong_where_fast)
    found = [known.get(way, product) for way in LINEAR_WAYS]
    assert {each.seconds for each in found if each is not None} == {slowest["linear_decode.cu"]}


def test_a_candidate_may_fail_when_it_is_measured_again(weight: Slabbed) -> None:
    product = product_of(weight, 1, LIMITS)
    failed: list[str] = []

    def fails_again(product: Product, recipe: Recipe, rounds: int) -> float:
        file = recipe.plans[-1].specialisation.file
        if rounds > 1 and file not in failed:
            failed.append(file)
            raise CandidateError("on purpose")
        return by_grid(product, recipe)

    known = tune_product(product, weight.resident_bytes, ROOFLINE, TunedLinears(), fails_again)
    assert failed
    assert known.get(WAYS["decode_two_planes"], product) is not None
