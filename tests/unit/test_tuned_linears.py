"""What was measured on a card: kept, found again, passed over where kernels have changed, and chosen by."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tune_linears import FORMS, main, random_slabbed

from pascaline.core.errors import ConfigError
from pascaline.engine import card
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


def read(card: str = CARD) -> TunedLinears:
    """All is in order: nothing is said."""
    return TunedLinears.of(card, pytest.fail)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_what_is_shipped_is_of_the_kernels_as_they_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "SHIPPED", SHIPPED)
    data = json.loads(path.read_text())
    assert path.name == file_name(data["card"])
    assert len(read(data["card"])) == len(data["linears"]) > 0


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
    again = read()
    assert len(again) == len(known) > 2
    for rows in (1, 50, 63, 64):
        product = product_of(weight, rows, LIMITS)
        for way in LINEAR_WAYS:
            assert again.get(way, product) == known.get(way, product)
    assert known.get(WAYS["tile_two_planes"], product_of(weight, 50, LIMITS)) is not None
    assert known.get(WAYS["tile_two_planes"], product_of(weight, 65, LIMITS)) is None
    other = replace(product_of(weight, 1, LIMITS), stored=replace(weight.form, zero=9))
    assert known.get(WAYS["decode_two_planes"], other) is None
    assert len(read("another card")) == 0


def test_what_is_of_other_sources_is_passed_over_and_a_damaged_file_is_named(weight: Slabbed) -> None:
    path = found_by_grid(weight, (1,)).write(CARD)
    text = path.read_text()
    path.write_text(text.replace('"schema": 2', '"schema": 1'))
    assert len(read()) == 0
    data = json.loads(text)
    data["linears"][0]["source"] = "0" * 16
    path.write_text(json.dumps(data))
    assert len(read()) == len(data["linears"]) - 1
    for damaged in (
        *("", "{}", text[:-20], "[]", "null", "[" * 100_000),
        text.replace(CARD, "NVIDIA H200"),
        '{"schema": 2, "card": 5, "linears": []}',
        json.dumps({"schema": 2, "card": CARD, "linears": 7}),
        json.dumps({"schema": 2, "card": CARD, "linears": [7]}),
    ):
        path.write_text(damaged)
        said: list[str] = []
        assert len(TunedLinears.of(CARD, said.append)) == 0
        [message] = said
        assert message.startswith(f"{path} is passed over, it cannot be read ("), damaged[:50]
        assert "Deleting the file ends this message" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("blocks", value) for value in (0, -1, 3, 1.0, "1", True, None, [1])),
        *(("seconds", value) for value in (0, -1.0, 1e-6, math.nan, math.inf, "1e-5x", None)),
        *(("rows", 2), ("stored", "\x1b[2J"), ("geometry", None), ("geometry", {"unheard_of": 3})),
    ],
)
def test_an_entry_that_was_changed_is_named_and_its_kernel_chooses_for_itself(
    weight: Slabbed, name: str, value: object
) -> None:
    path = found_by_grid(weight, (1,)).write(CARD)
    data = json.loads(path.read_text())
    entry = data["linears"][1]
    (entry if name in entry else entry["geometry"])[name] = value
    path.write_text(json.dumps(data))
    said: list[str] = []
    known = TunedLinears.of(CARD, said.append)
    assert len(known) == len(data["linears"]) - 1
    [message] = said
    assert message.startswith(f"{path}: entry 1, {entry['way']} of 512×1024, ")
    assert message.isprintable()
    product = product_of(weight, 1, LIMITS)
    assert known.geometry(WAYS[entry["way"]], product) is None
    assert known.geometry(WAYS[data["linears"][0]["way"]], product) is not None


def test_an_entry_whose_geometry_has_other_fields_by_now_is_passed_over(weight: Slabbed) -> None:
    path = found_by_grid(weight, (1,)).write(CARD)
    data = json.loads(path.read_text())
    entry = data["linears"][1]
    entry["geometry"]["former"] = entry["geometry"].pop("blocks")
    entry["digest"] = tuned._digest(entry)
    path.write_text(json.dumps(data))
    known, product = read(), product_of(weight, 1, LIMITS)
    assert len(known) == len(data["linears"]) - 1
    assert known.get(WAYS[entry["way"]], product) is None


def test_an_engine_that_starts_tells_of_it(weight: Slabbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "KernelSet", lambda _device: SimpleNamespace(limits=LIMITS))
    monkeypatch.setattr(card, "_roofline", lambda _device: ROOFLINE)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: CARD)
    path = found_by_grid(weight, (1,)).write(CARD)
    chip, _, notes = card.settle_chip(torch.device("cuda", 0))
    assert (len(chip.tuned), notes) == (len(read()), [])
    path.write_text(path.read_text()[:-20])
    chip, _, notes = card.settle_chip(torch.device("cuda", 0))
    assert len(chip.tuned) == 0
    assert [str(path) in note for note in notes] == [True]


def test_a_file_of_changed_entries_is_one_message_and_whoever_ships_it_mends_it(
    weight: Slabbed, tmp_path: Path
) -> None:
    path = found_by_grid(weight, (1,)).write(CARD, tmp_path / "shipped")
    data = json.loads(path.read_text())
    for entry in data["linears"]:
        entry["seconds"] *= 2
    path.write_text(json.dumps(data))
    said: list[str] = []
    assert len(TunedLinears.of(CARD, said.append)) == 0
    [message] = said
    assert message.startswith(f"{path}: {len(data['linears'])} entries, the first of them entry 0, ")
    assert message.endswith("Installing Pascaline anew ends this message")


def test_a_cache_that_cannot_be_written_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PASCALINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot make .*Not a directory.*Point PASCALINE_CACHE"):
        TunedLinears().write(CARD)
    assert len(read()) == 0
    monkeypatch.setattr("os.access", lambda _path, _mode: False)  # root may write everywhere
    with pytest.raises(ConfigError, match=r"shipped cannot be written to\. Name a folder"):
        TunedLinears().write(CARD, tmp_path / "shipped")


@pytest.mark.parametrize(
    ("cache", "arguments", "message"),
    [
        ("file", (), r"cannot make .*/file/tuned: Not a directory\. Point PASCALINE_CACHE"),
        ("cache", ("--copy-to", "file/below"), r"cannot make file/below: Not a directory\. Name a folder"),
    ],
    ids=["cache", "--copy-to"],
)
def test_it_is_a_message_before_anything_is_measured(
    cache: str, arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PASCALINE_CACHE", str(tmp_path / cache))
    monkeypatch.setattr("sys.argv", ["tune_linears.py", *arguments])
    with pytest.raises(ConfigError, match=message):
        main()


def test_this_machines_findings_replace_those_that_come_with_the_package(
    weight: Slabbed, tmp_path: Path
) -> None:
    product, way = product_of(weight, 1, LIMITS), WAYS["decode_two_planes"]
    geometry = way.candidates(product)[0].geometry
    TunedLinears().with_found(way, product, Found(geometry, 2.0)).write(CARD, tmp_path / "shipped")
    assert read().get(way, product) == Found(geometry, 2.0)
    TunedLinears().with_found(way, product, Found(geometry, 1.0)).write(CARD)
    assert read().get(way, product) == Found(geometry, 1.0)


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
    assert kernel.recipe(chip, sizes, operands, {}).main.specialisation == other.specialisation


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
        if seconds < slowest[recipe.main.specialisation.file]:
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
        file = recipe.main.specialisation.file
        if rounds > 1 and file not in failed:
            failed.append(file)
            raise CandidateError("on purpose")
        return by_grid(product, recipe)

    known = tune_product(product, weight.resident_bytes, ROOFLINE, TunedLinears(), fails_again)
    assert failed
    assert known.get(WAYS["decode_two_planes"], product) is not None
