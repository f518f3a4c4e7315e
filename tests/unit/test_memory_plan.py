"""How memory is divided, over many models, memories and wishes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pascaline.checkpoint.model_config import ModelConfig, RopeScaling
from pascaline.core.errors import ConfigError, OutOfMemoryError, PascalineError
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.pages import PAGE_SIZE, page_bytes
from pascaline.models import llama
from pascaline.plan.memory import MemoryPlan, MemoryRequest, available_bytes, divide
from pascaline.workload.limits import SCORED_ELEMENTS

GIB = 1 << 30
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

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
)


def request(**changes: object) -> MemoryRequest:
    defaults = MemoryRequest(
        device_kind="cuda",
        available_bytes=24 * GIB,
        utilization=0.9,
        weights_bytes=4 * GIB,
        max_batch_tokens=512,
        max_sequences=64,
        max_model_len=None,
        pages=None,
        key_value_element_bytes=2,
    )
    return replace(defaults, **changes)  # type: ignore[arg-type]


configs = st.builds(
    lambda layers, kv_heads, repeat, head_dim, vocabulary, context: replace(
        SEVEN_B,
        num_hidden_layers=layers,
        num_key_value_heads=kv_heads,
        num_attention_heads=kv_heads * repeat,
        head_dim=head_dim,
        hidden_size=kv_heads * repeat * head_dim,
        vocab_size=vocabulary,
        max_position_embeddings=context,
    ),
    st.integers(1, 80),
    st.sampled_from((1, 2, 8, 32)),
    st.sampled_from((1, 3, 8)),
    st.sampled_from((32, 64, 128)),
    st.integers(100, 200_000),
    st.integers(2, 200_000),
)
requests = st.builds(
    lambda device, available, utilization, weights, sequences, batch, context, pages, element, threads: (
        MemoryRequest(
            device,
            available,
            utilization,
            weights,
            max(batch, sequences),
            sequences,
            context,
            pages,
            element,
            native_threads=threads,
        )
    ),
    st.sampled_from(("cpu", "cuda")),
    st.integers(0, 200 * GIB),
    st.floats(0.05, 1.0),
    st.integers(0, 100 * GIB),
    st.integers(1, 256),
    st.integers(1, 8192),
    st.none() | st.integers(2, 250_000),
    st.none() | st.none() | st.integers(1, 100_000),
    st.sampled_from((2, 4)),
    st.sampled_from((0, 1, 8)),
)


def capacity(text: str) -> float:
    number, unit = text.split()
    return float(number) * UNITS[unit]


def check(plan: MemoryPlan, config: ModelConfig, wish: MemoryRequest) -> None:
    if wish.pages is None:
        assert plan.total_bytes <= wish.available_bytes * wish.utilization
    else:
        assert plan.pages == wish.pages
    assert plan.kv_bytes == plan.pages * page_bytes(config, wish.key_value_element_bytes)
    # One sequence of the full context always fits, so none waits for ever.
    assert plan.pages * PAGE_SIZE >= plan.max_model_len
    assert 2 <= plan.max_model_len <= config.max_position_embeddings
    if wish.max_model_len is not None:
        assert plan.max_model_len == wish.max_model_len
        assert not plan.notes
    assert bool(plan.notes) == (plan.max_model_len < (wish.max_model_len or config.max_position_embeddings))


def plan_or_error(config: ModelConfig, wish: MemoryRequest) -> MemoryPlan | PascalineError:
    try:
        return divide(config, wish)
    except (ConfigError, OutOfMemoryError) as error:
        return error


@settings(max_examples=400)
@given(config=configs, wish=requests)
def test_a_plan_fits_or_says_what_would(config: ModelConfig, wish: MemoryRequest) -> None:
    outcome = plan_or_error(config, wish)
    if isinstance(outcome, MemoryPlan):
        check(outcome, config, wish)
        return
    told = str(outcome)
    # What is called enough is enough for a context of 256 tokens, or a shorter one that was asked for.
    useful = None if wish.max_model_len is None else min(wish.max_model_len, 256)
    if isinstance(outcome, ConfigError) and "trained for" in told:
        assert wish.max_model_len is not None
        assert wish.max_model_len > config.max_position_embeddings
        assert f"{config.max_position_embeddings} that the model was trained for" in told
        return
    if pages := re.findall(r"at least (\d+) pages", told):
        assert isinstance(outcome, ConfigError)
        fitting = replace(wish, pages=int(pages[0]), max_model_len=useful)
    elif shorter := re.findall(r"--max-model-len (\d+) fits", told):
        assert wish.max_model_len is not None
        assert int(shorter[0]) < wish.max_model_len
        fitting = replace(wish, max_model_len=int(shorter[0]))
    else:
        [needed] = re.findall(r"at least ([\d.]+ \w+) available", told)
        assert capacity(needed) > wish.available_bytes
        fitting = replace(wish, available_bytes=int(capacity(needed)), max_model_len=useful)
    check(divide(config, fitting), config, fitting)


def test_seven_billion_parameters_at_four_bits_on_24_gib() -> None:
    plan = divide(SEVEN_B, request())
    assert plan.page_bytes == 16 * 2 * 32 * 32 * 128 * 2
    assert plan.max_model_len == 4096
    assert 20 * GIB < plan.total_bytes <= 24 * GIB * 0.9


def test_a_longer_context_than_the_models_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a context of 4097 tokens was asked for .*4096"):
        divide(SEVEN_B, request(max_model_len=4097))


def test_weights_that_do_not_fit_are_named_with_what_they_need() -> None:
    with pytest.raises(OutOfMemoryError, match=r"weights 13\.0 GiB.*12\.0 GiB are available") as caught:
        divide(SEVEN_B, request(weights_bytes=13 * GIB, available_bytes=12 * GIB))
    assert "on the card" in str(caught.value)


def test_a_context_that_does_not_fit_is_answered_with_one_that_does() -> None:
    with pytest.raises(OutOfMemoryError, match=r"--max-model-len \d+ fits"):
        divide(SEVEN_B, request(available_bytes=7 * GIB + GIB // 4, max_model_len=4096))


def test_without_a_wish_the_context_shrinks_and_says_so() -> None:
    plan = divide(SEVEN_B, request(available_bytes=7 * GIB))
    assert plan.max_model_len < 4096
    assert plan.notes == (f"the context is limited to {plan.max_model_len} of 4096 tokens by memory",)


def test_a_model_of_long_contexts_runs_with_a_short_one_where_its_own_does_not_fit() -> None:
    long = replace(SEVEN_B, max_position_embeddings=1 << 20)
    plan = divide(long, request(available_bytes=8 * GIB))
    assert 256 <= plan.max_model_len < 1 << 20
    assert plan.total_bytes <= 8 * GIB * 0.9
    with pytest.raises(OutOfMemoryError):
        divide(long, request(available_bytes=8 * GIB, max_model_len=1 << 20))


def test_too_few_pages_are_refused_as_such() -> None:
    with pytest.raises(ConfigError, match=r"4 KV pages .* 64 tokens .*at least 16 pages"):
        divide(SEVEN_B, request(pages=4))
    assert divide(SEVEN_B, request(pages=4, max_model_len=64)).max_model_len == 64


def test_the_pool_on_the_cpu_is_bounded() -> None:
    plan = divide(SEVEN_B, request(device_kind="cpu", available_bytes=2000 * GIB))
    assert plan.pages == 8 * 4096 // PAGE_SIZE


def test_the_cache_takes_what_was_planned() -> None:
    config = llama.FAMILY.tiny
    plan = divide(config, request(device_kind="cpu", pages=20, key_value_element_bytes=4))
    cache = KeyValueCache(config, plan.pages, torch.float32, torch.device("cpu"))
    tensors = [*cache.keys, *cache.values]
    assert sum(tensor.nbytes for tensor in tensors) == cache.bytes == plan.kv_bytes
    assert all(not tensor.any() for tensor in tensors)


def test_this_machine_has_memory() -> None:
    assert 64 << 20 < available_bytes() < 1 << 50


def test_windows_with_a_theta_of_their_own_and_soft_caps_take_memory() -> None:
    plain = divide(SEVEN_B, request()).activation_bytes
    local = replace(
        SEVEN_B, rope_local_base_freq=1e4, sliding_window=512, layer_types=("sliding_attention",) * 32
    )
    assert divide(local, request()).activation_bytes == plain + 4 * 4096 * 128
    # 512 rows and 4096 columns of a mask; of scores as many, by 32 heads, but no more than the bound.
    capped = divide(replace(SEVEN_B, attn_logit_softcapping=50.0), request()).activation_bytes
    assert capped == plain + 8 * (SCORED_ELEMENTS - 512 * 4096)


@pytest.mark.parametrize(
    ("context", "message"),
    [(1024, "for contexts of up to 1024 tokens"), (1025, r"for long contexts .*--max-model-len 1024")],
)
def test_the_list_of_longrope_is_said(context: int, message: str) -> None:
    scaling = RopeScaling("longrope", 4.0, 1024, short_factor=(1.0,) * 64, long_factor=(2.0,) * 64)
    [note] = divide(replace(SEVEN_B, rope_scaling=scaling), request(max_model_len=context)).notes
    assert re.search(message, note)
