"""What a request may ask for."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pascaline.core.errors import ConfigError
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.sampling_params import SamplingParams


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("n", 0),
        ("n", 65),
        ("n", 1.0),
        ("n", True),
        ("n", None),
        ("max_tokens", 0),
        ("max_tokens", 2.5),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "1"),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_k", None),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_p", "0.5"),
        ("min_p", -0.01),
        ("min_p", 1.01),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
        ("repetition_penalty", "1"),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("logprobs", -1),
        ("logprobs", 21),
        ("logprobs", 1.5),
        ("prompt_logprobs", 21),
        ("seed", 2**63),
        ("seed", 1.5),
        ("stop", "text"),
        ("stop", ("",)),
        ("stop", (3,)),
        ("stop_token_ids", (1.5,)),
        ("stop_token_ids", (-1,)),
        ("logit_bias", {"5": 1.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {5: 101.0}),
        ("logit_bias", {5: math.nan}),
    ],
)
def test_wrong_values_are_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=setting):
        SamplingParams(**{setting: value})


def test_the_limits_themselves_are_fine() -> None:
    SamplingParams(n=64, temperature=0, top_p=1, min_p=1, repetition_penalty=100, logprobs=20, seed=-(2**63))
    SamplingParams(max_tokens=1, top_k=0, presence_penalty=-2, frequency_penalty=2, logit_bias={0: -100})


def test_a_seed_is_drawn_where_none_is_given() -> None:
    params = SamplingParams(top_k=3)
    drawn = [params.seeded().seed for _ in range(5)]
    assert None not in drawn
    assert len(set(drawn)) == 5
    assert params.seeded().top_k == 3
    assert SamplingParams(seed=0).seeded().seed == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_model_len": 1}, "max_model_len is 1"),
        ({"gpu_memory_utilization": 0.0}, "gpu_memory_utilization"),
        ({"gpu_memory_utilization": 1.1}, "gpu_memory_utilization"),
        ({"max_sequences": 0}, "max_sequences"),
        ({"max_batch_tokens": 63}, "max_batch_tokens is 63"),
    ],
)
def test_engine_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineConfig("model.gguf", **settings)
