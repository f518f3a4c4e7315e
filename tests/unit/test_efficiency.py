"""The shares of their limits that cards reach: the fit behind them, and looking them up."""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from typing import Any, get_args

import numpy as np
import pytest
from harness.efficiency_file import efficiency_toml
from harness.published import FIGURES, read_figures, read_library_figures
from harness.speed_model import (
    Case,
    Factors,
    cases_of,
    errors,
    errors_of_unseen_cards,
    fit,
    group_of,
    halves,
    predicted_s,
    roof_s,
)

from pascaline.core.errors import UnsupportedError
from pascaline.hardware.architectures import Arithmetic, architectures
from pascaline.hardware.efficiency import efficiency_of, library_efficiency
from pascaline.plan.chips import gpu_chip
from pascaline.plan.latency import Model, predict_decode, predict_prefill
from pascaline.workload.holdings import held_matrix, held_vector
from pascaline.workload.places import weight_places
from pascaline.workload.weight_form import TENSOR_FORMS

COMMITTED = tomllib.loads((files("pascaline.hardware") / "efficiency.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return cases_of(read_figures())


@pytest.fixture(scope="module")
def fitted() -> tuple[Factors, list[Case]]:
    """Factors fitted on one half, and the other half."""
    fit_half, held_out = (cases_of(half) for half in halves(read_figures()))
    return fit(fit_half), held_out


def test_figures_are_of_many_cards_architectures_and_formats() -> None:
    counted = [figure for figure in read_figures() if not figure.not_counted]
    assert len(counted) >= 60
    assert len({figure.card.name for figure in counted}) >= 25
    assert len({figure.card.architecture.name for figure in counted}) >= 6
    assert len({figure.format.name for figure in counted}) >= 8
    assert min(Counter(figure.phase for figure in counted).values()) >= 30


def test_every_figure_is_quoted_from_its_source() -> None:
    for figure in read_figures():
        assert figure.url.startswith("https://")
        number = f"{figure.tokens_per_s:.7g}".rstrip("0").rstrip(".")
        stated_as_time = "time of the first token" in figure.engine
        expected = f"{figure.tokens / figure.tokens_per_s * 1e3:.0f}" if stated_as_time else number
        assert expected in figure.read.replace(",", ""), figure.name


def test_no_figure_is_there_twice() -> None:
    assert Counter(repr(figure) for figure in read_figures()).most_common(1)[0][1] == 1


def test_model_shapes_have_the_parameters_that_their_authors_state() -> None:
    for model in {figure.model.name: figure.model for figure in read_figures()}.values():
        config = model.config
        kv_size = config.num_key_value_heads * config.head_dim
        query_size = config.num_attention_heads * config.head_dim
        attention = config.hidden_size * (2 * query_size + 2 * kv_size)
        layer = attention + 3 * config.hidden_size * config.intermediate_size
        tables = 1 if config.tie_word_embeddings else 2
        total = config.num_hidden_layers * layer + tables * config.vocab_size * config.hidden_size
        assert total == pytest.approx(model.parameters, rel=0.015), model.name


@pytest.mark.parametrize(
    ("model", "format_", "gib"),
    [
        # as llama-bench and the model's files state them
        ("Llama-2-7B", "Q4_0", 3.56),
        ("Llama-2-7B", "Q4_K_M", 3.80),
        ("Llama-2-7B", "Q8_0", 6.67),
        ("Llama-2-7B", "F16", 12.55),
        ("Llama-2-13B", "Q4_K_M", 7.33),
        ("Llama-3-8B", "Q4_K_M", 4.58),
        ("Llama-3-8B", "Q8_0", 7.95),
        ("Qwen3-8B", "Q1_0", 1.07),
        ("Gemma-3-27B", "Q8_0", 26.73),
        ("Qwen2.5-7B", "GPTQ-Int4", 5.2035),
    ],
)
def test_formats_give_the_sizes_of_files(model: str, format_: str, gib: float) -> None:
    data = tomllib.loads(FIGURES.read_text(encoding="utf-8"))
    shape = next(row for row in data["model"] if row["name"] == model)
    bits = next(row for row in data["format"] if row["name"] == format_)
    table = shape["vocab_size"] * shape["hidden_size"]
    tied = shape.get("tie_word_embeddings", False)
    layers = shape["parameters"] - table * (1 if tied else 2)
    embedding_bits = bits["head_bits"] if bits["head_bits"] in (8.5, 16.0) else bits["bits"]
    total = layers * bits["bits"] + table * bits["head_bits"] + (0 if tied else table * embedding_bits)
    assert total / 8 / 2**30 == pytest.approx(gib, rel=0.02)


def test_no_published_speed_is_above_a_roof(cases: list[Case]) -> None:
    above = [case.figure.name for case in cases if roof_s(case)[0] > case.published_s]
    assert above == []


def test_no_matrix_product_is_above_a_roof() -> None:
    assert [figure.card.name for figure in read_library_figures() if not 0 < figure.share <= 1] == []


def test_halves_are_of_all_phases_and_groups() -> None:
    strata = [
        Counter((figure.phase, group_of(figure.card)) for figure in half) for half in halves(read_figures())
    ]
    for stratum in strata[0].keys() | strata[1].keys():
        assert abs(strata[0][stratum] - strata[1][stratum]) <= 3, stratum


def test_the_half_that_was_held_out_is_predicted(fitted: tuple[Factors, list[Case]]) -> None:
    factors, held_out = fitted
    absolute = np.abs(errors(held_out, factors))
    assert np.median(absolute) <= 0.25
    for phase in ("prefill", "decode"):
        assert np.median(absolute[[case.figure.phase == phase for case in held_out]]) <= 0.25


def test_the_committed_file_is_what_the_fit_gives(fitted: tuple[Factors, list[Case]]) -> None:
    factors, _ = fitted
    counted = cases_of(figure for half in halves(read_figures()) for figure in half)
    unseen = errors_of_unseen_cards(counted)
    given = tomllib.loads(efficiency_toml(factors, unseen, read_library_figures()))
    for table in ("group", "library"):
        for row, committed in zip(given[table], COMMITTED[table], strict=True):
            assert _flat(row) == pytest.approx(_flat(committed), rel=1e-2)
            assert row["compute_capabilities"] == committed["compute_capabilities"]


def test_the_planner_predicts_what_the_fit_does(
    cases: list[Case], fitted: tuple[Factors, list[Case]]
) -> None:
    compared: Counter[str] = Counter()
    for case in cases:
        figure = case.figure
        form = TENSOR_FORMS.get(figure.format.name)
        if form is None or figure.format.bits != figure.format.head_bits:
            continue  # mixtures of formats
        if figure.half_accumulation or not figure.computes_logits:
            continue  # which our engine does not do
        held = [
            held_vector(place.module, place.parts)
            if place.is_vector
            else held_matrix(place.module, place.parts, form)
            for place in weight_places(figure.model.config)
        ]
        model, chip = Model(figure.model.config, held, 2), gpu_chip(figure.card)
        if figure.phase == "prefill":
            planned = predict_prefill(model, chip, figure.tokens, figure.microbatch)
        else:
            if figure.launches == "separate":
                chip = replace(
                    chip, launch_s=efficiency_of(figure.card.compute_capability, "fp32").separate_launch_s
                )
            planned = predict_decode(model, chip, 1, figure.tokens + 1)
        if figure.phase == "prefill" and planned.decisions[0].choice != _CHOICES.get(figure.arithmetic):
            continue  # the published engine did not use the unit that is the best
        # Shares of 0.14 and more are rounded to three decimals, and launches to three digits.
        assert planned.seconds == pytest.approx(predicted_s(case, fitted[0]), rel=5e-3), figure.name
        compared[figure.phase] += 1
    assert min(compared["prefill"], compared["decode"]) >= 5, compared


_CHOICES: dict[Arithmetic, str] = {
    "fp32": "fp32",
    "int8": "dp4a int8",
    "tensor_fp16": "fp16 tensor cores",
    "tensor_bf16": "bf16 tensor cores",
    "tensor_int8": "int8 tensor cores",
}


def _flat(row: dict[str, Any]) -> dict[str, float]:
    numbers = {name: value for name, value in row.items() if isinstance(value, float)}
    return numbers | {f"shares.{unit}": share for unit, share in row["shares"].items()}


@pytest.mark.parametrize("capability", architectures())
@pytest.mark.parametrize("arithmetic", get_args(Arithmetic))
def test_every_chip_has_shares_below_its_roof(capability: str, arithmetic: Arithmetic) -> None:
    known = efficiency_of(capability, arithmetic)
    assert 0 < known.compute < 1
    assert 0 < known.bandwidth < 1
    assert 0 < known.launch_s <= known.separate_launch_s < 1e-4
    assert 0 < known.spread < 1
    assert known.source


def test_a_capability_without_figures_takes_the_nearest_older_one() -> None:
    assert efficiency_of("8.8", "tensor_fp16") == efficiency_of("8.7", "tensor_fp16")
    assert library_efficiency("12.1", "fp32") == library_efficiency("12.0", "fp32")
    assert efficiency_of("99.0", "fp32") == efficiency_of("12.1", "fp32")
    assert library_efficiency("5.0", "fp32") == library_efficiency("5.2", "fp32")


def test_an_arithmetic_without_engines_takes_the_librarys_share() -> None:
    share, source = library_efficiency("6.1", "fp32")
    known = efficiency_of("6.1", "fp32")
    assert known.compute == share
    assert source in known.source


def test_what_no_figure_is_known_of_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="fp64"):
        library_efficiency("6.1", "fp64")
    for nonsense in ("cpu", "", "6", "6.1.2", "-1.0", "9" * 1000 + ".0", "６.１a"):
        with pytest.raises(UnsupportedError):
            efficiency_of(nonsense, "fp32")
