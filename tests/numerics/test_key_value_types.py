"""A model over caches of other numbers than fp32: what is stored, how much memory it takes, who refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stepped_model import Part, SteppedModel
from test_tiny_models import TINY, tokens
from tiny_checkpoints import random_model

from pascaline.core.errors import ConfigError, UnsupportedError
from pascaline.core.progress import ignore_progress
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.runner import EagerRunner
from pascaline.engine.start import start
from pascaline.kernels.op import FP32_ROUNDING
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.pages import KEY_VALUE_BYTES, KeyValueDtype, page_bytes

CPU = torch.device("cpu")
PAGES = 20
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8, "fp32": torch.float32}
# Largest relative rounding of normal numbers, and half of the largest subnormals' distance.
ROUNDING = {"fp16": (2.0**-11, 2.0**-25), "bf16": (2.0**-8, 0.0), "fp32": (0.0, 0.0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    random_model(TINY["qwen3"]).save_pretrained(path)
    return path


def caches_of(folder: Path, dtype: torch.dtype) -> tuple[KeyValueCache, list[torch.Tensor]]:
    """After a prompt and two more tokens of another one; with all logits."""
    stepped = SteppedModel(folder, pages=PAGES)
    runner, config = stepped.started.runner, stepped.started.model_config
    assert isinstance(runner, EagerRunner)
    cache = KeyValueCache(config, PAGES, dtype, CPU)
    stepped.started = replace(stepped.started, runner=EagerRunner(runner._model, cache, CPU))
    first, second = stepped.pages_for(40), stepped.pages_for(20)
    ids = tokens(60, config.vocab_size)
    logits = stepped.step(Part(ids[:38], first), Part(ids[40:57], second))
    logits += stepped.step(Part(ids[38:39], first, 38), Part(ids[57:60], second, 17))
    return cache, logits


def numbers(codes: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
    return codes.double() if scales is None else codes.double() * scales.double().mT[..., None]


@pytest.mark.parametrize("name", KEY_VALUE_BYTES)
def test_the_first_layer_stores_what_its_numbers_can_say(name: str, folder: Path) -> None:
    """Keys and values of the first layer depend on no cache: each is the nearest number that there is."""
    exact, expected = caches_of(folder, torch.float32)
    cache, logits = caches_of(folder, DTYPES[name])
    for stored, scales, wanted in (
        (cache.keys[0], cache.key_scales[0], exact.keys[0]),
        (cache.values[0], cache.value_scales[0], exact.values[0]),
    ):
        assert wanted.any()
        error = (numbers(stored, scales) - wanted.double()).abs()
        if name == "int8":
            # Half a step, and the roundings of a quotient of up to 127.
            bound = wanted.double().abs().amax(-1, keepdim=True) * (0.5 / 127 + 4 * FP32_ROUNDING)
        else:
            relative, absolute = ROUNDING[name]
            bound = wanted.double().abs() * relative + absolute
        assert (error <= bound).all()
        assert error.any() == (name != "fp32")
    assert all(each.isfinite().all() for each in logits)
    assert all(torch.equal(one, other) for one, other in zip(logits, expected, strict=True)) == (
        name == "fp32"
    )


@pytest.mark.parametrize("name", KEY_VALUE_BYTES)
def test_memory_is_what_was_planned(name: str) -> None:
    config = TINY["qwen3"]
    cache = KeyValueCache(config, PAGES, DTYPES[name], CPU)
    tensors = [*cache.keys, *cache.values, *cache.key_scales, *cache.value_scales]
    held = sum(each.numel() * each.element_size() for each in tensors if each is not None)
    assert cache.bytes == held == PAGES * page_bytes(config, KEY_VALUE_BYTES[name])
    assert len({id(each) for each in tensors if each is not None}) == len(cache.keys) * (
        4 if name == "int8" else 2
    )


@pytest.mark.parametrize("name", ["bf16", "int8"])
def test_the_cpu_refuses_what_its_kernels_do_not_read(name: KeyValueDtype, folder: Path) -> None:
    for arithmetic in ("auto", "fp32"):
        config = EngineConfig(str(folder), device="cpu", arithmetic=arithmetic, key_value_dtype=name)
        with pytest.raises(
            UnsupportedError, match=f"key_value_dtype {name} on cpu.*a card, and heads .* for bf16 and int8"
        ):
            start(config, ignore_progress)


def test_types_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match=r"'fp8'.*auto or fp16 or bf16 or int8 or fp32"):
        EngineConfig("", key_value_dtype="fp8")  # type: ignore[arg-type]
