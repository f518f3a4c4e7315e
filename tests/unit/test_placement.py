"""Whether a model fits: the longest context and the most sequences are those that the formulas allow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pascaline.core.errors import ConfigError
from pascaline.models import llama
from pascaline.plan.placement import Device, Placement, largest
from pascaline.plan.what_ifs import form_named, in_format, remedies
from pascaline.workload.holdings import HeldWeight, held_matrix, held_vector
from pascaline.workload.places import weight_places
from pascaline.workload.weight_form import TENSOR_FORMS

GIB = 1 << 30
SEVEN_B = replace(
    llama.FAMILY.tiny,
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    max_position_embeddings=4096,
    tie_word_embeddings=False,
)


def held(form: str) -> list[HeldWeight]:
    return [
        held_vector(place.module, place.parts)
        if place.is_vector
        else held_matrix(place.module, place.parts, TENSOR_FORMS[form])
        for place in weight_places(SEVEN_B)
    ]


def placement(gib: float, form: str = "Q4_0", sequences: int = 1, element_bytes: int = 4) -> Placement:
    device = Device("a card", "cuda", int(gib * GIB), is_free_now=False)
    return Placement(SEVEN_B, held(form), device, element_bytes, sequences)


def test_the_largest_that_fits() -> None:
    for limit in range(3, 20):
        assert largest(limit.__ge__, 3, 15) == min(limit, 15)


@pytest.mark.parametrize("gib", [6.0, 7.0, 8.0])
@pytest.mark.parametrize("sequences", [1, 3])
def test_one_page_more_would_not_fit(gib: float, sequences: int) -> None:
    placed = placement(gib, sequences=sequences)
    longest = placed.longest_context()
    if longest == 0:
        assert not placed.fits(256)
    else:
        assert placed.fits(longest)
        assert longest == 4096 or not placed.fits(longest + 16)
    most = replace(placed, sequences=1).most_sequences(512, 64)
    assert not replace(placed, sequences=most + 1).fits(512)
    assert most == 0 or replace(placed, sequences=most).fits(512)


def test_seven_billion_parameters() -> None:
    linears = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    tables = 2 * 32000 * 4096
    gains = 4 * 4096 * (2 * 32 + 1)
    placed = placement(24)
    assert placed.weights_bytes == (linears + tables) * 18 // 32 + gains
    assert placed.kv_bytes_per_token == 2 * 32 * 32 * 128 * 4
    at = placed.at(4096)
    assert at.kv_bytes == 4096 * placed.kv_bytes_per_token
    assert at.total_bytes == at.weights_bytes + at.kv_bytes + at.activation_bytes + at.runtime_bytes


@pytest.mark.parametrize(
    ("placed", "first"),
    [
        (placement(8, "Q4_0"), "--kv-dtype fp16"),
        (placement(7, "Q4_0", element_bytes=2), "--kv-dtype int8"),
        (placement(10.5, "Q8_0", element_bytes=2), "--context"),
        (placement(12, "F16", element_bytes=2), "--format Q8_0"),
        (placement(12, "Q4_0", sequences=4), "--concurrency 1"),
        (placement(1, "Q4_0"), "--gpu"),
    ],
)
def test_the_smallest_change_is_told_first_and_all_fit(placed: Placement, first: str) -> None:
    assert not placed.fits(4096)
    found = remedies(placed, 4096)
    assert first in [each.arguments[: len(first)] for each in found], found
    assert [each.loss for each in found] == sorted(each.loss for each in found)
    assert all(
        each.total_bytes <= placed.device.usable_bytes for each in found if "--gpu" not in each.arguments
    )


def test_a_card_to_buy_is_not_part_of_another_machine() -> None:
    for gib in (2, 4, 8, 10, 12, 16, 24, 32, 40, 80):
        for found in remedies(placement(gib, "F16", sequences=8), 4096):
            if found.arguments.startswith("--gpu"):
                assert not any(part in found.change for part in ("Laptop", "Max-Q", "Jetson", "GB10", "GB2"))


def test_formats_by_name() -> None:
    assert form_named("q4_k_m") == form_named("Q4_K_S") == TENSOR_FORMS["Q4_K"]
    assert form_named("iq4_xs") == TENSOR_FORMS["IQ4_XS"]
    for name in ("", "Q4", "_M", "Q4_K_MM", "\x1b[31m"):
        with pytest.raises(ConfigError, match="no format is called"):
            form_named(name)


def test_inputs_that_no_block_divides_stay_as_they_are() -> None:
    narrow = next(item for item in held("F16") if item.module.endswith("down_proj"))
    narrow = replace(narrow, columns=11008 - 32)
    table = held("F16")[0]
    assert in_format([narrow, table], TENSOR_FORMS["Q4_K"]) == [narrow, table]
    assert in_format([narrow], TENSOR_FORMS["Q4_0"])[0].form == TENSOR_FORMS["Q4_0"]
