"""A plan that memory does not have after all: fewer pages, and an error where the fewest are too many."""

from __future__ import annotations

import pytest
import torch

from pascaline.core.errors import CudaError, OutOfMemoryError
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.shrinking import least_pages, made_to_fit, weights_must_fit
from pascaline.plan.memory import MemoryPlan

PAGE_BYTES = 1 << 20
PLAN = MemoryPlan(5 << 30, 1 << 30, 1 << 29, PAGE_BYTES, 1000, 4096, ("the first note",))


class Memory:
    """Room for so many pages; remembers what was tried and lets go of."""

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self.room = room
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmuch more")
        self.tried: list[int] = []

    def make(self, plan: MemoryPlan) -> str:
        self.tried.append(plan.pages)
        if plan.pages > self.room:
            raise self.error
        return f"{plan.pages} pages"


def test_what_fits_is_as_planned() -> None:
    memory = Memory(1000)
    assert made_to_fit(PLAN, 16, memory.make) == ("1000 pages", PLAN)
    assert memory.tried == [1000]


@pytest.mark.parametrize("error", [None, CudaError("out of memory", code=2)])
def test_pages_become_fewer_until_they_fit(error: Exception | None) -> None:
    memory = Memory(700, error)
    made, plan = made_to_fit(PLAN, 16, memory.make)
    assert memory.tried == [1000, 850, 722, 613]
    assert made == "613 pages"
    assert (plan.pages, plan.max_model_len) == (613, 4096)
    assert plan.notes[0] == "the first note"
    assert "613.0 MiB instead of 1000.0 MiB" in plan.notes[1]
    assert "context" not in plan.notes[1]


def test_a_cache_of_less_than_a_context_shortens_it() -> None:
    made, plan = made_to_fit(PLAN, 16, Memory(20).make)
    assert made == f"{plan.pages} pages"
    assert plan.pages <= 20
    assert plan.max_model_len == plan.pages * 16
    assert f"limited to {plan.max_model_len} tokens" in plan.notes[-1]


def test_the_least_is_tried_and_then_it_is_an_error() -> None:
    memory = Memory(0)
    with pytest.raises(OutOfMemoryError, match=r"with 900 KV pages .*CUDA out of memory") as raised:
        made_to_fit(PLAN, 900, memory.make)
    assert memory.tried == [1000, 900]
    assert "--max-batch-tokens" in raised.value.remedy
    assert "much more" not in str(raised.value)


def test_other_errors_are_not_memory() -> None:
    memory = Memory(0, CudaError("invalid value", code=1))
    with pytest.raises(CudaError, match="invalid value"):
        made_to_fit(PLAN, 16, memory.make)
    assert memory.tried == [1000]


def test_what_was_asked_for_is_not_shrunk() -> None:
    assert least_pages(EngineConfig("m"), PLAN) == 16
    assert least_pages(EngineConfig("m", max_model_len=1000), PLAN) == 63
    assert least_pages(EngineConfig("m", pages=70), PLAN) == 70


def test_weights_that_do_not_fit_are_an_error() -> None:
    message = r"while weights of 5\.0 GiB are loaded: CUDA out of memory"
    with pytest.raises(OutOfMemoryError, match=message), weights_must_fit(PLAN):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmuch more")
