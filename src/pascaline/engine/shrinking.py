"""Memory that runs short although the plan had it: with fewer pages it may do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch

from pascaline.core.errors import CudaError, OutOfMemoryError
from pascaline.core.units import format_bytes
from pascaline.engine.engine_config import EngineConfig
from pascaline.kv.pages import pages_for
from pascaline.plan.memory import MIN_USEFUL_CONTEXT, MemoryPlan

_KEPT = 0.85
"""Of the pages, each time that memory runs short."""
_CUDA_OUT_OF_MEMORY = 2
Made = TypeVar("Made")


def least_pages(config: EngineConfig, plan: MemoryPlan) -> int:
    """The fewest pages that are what was asked for, or useful."""
    if config.pages is not None:
        return config.pages
    return pages_for(config.max_model_len or min(plan.max_model_len, MIN_USEFUL_CONTEXT))


def made_to_fit(plan: MemoryPlan, least: int, make: Callable[[MemoryPlan], Made]) -> tuple[Made, MemoryPlan]:
    """What `make` allocates for a plan, or for one with fewer pages, down to `least`, and that plan.

    Raises
    ------
    OutOfMemoryError : not even the least fits.
    """
    tried = plan
    while True:
        made = _attempt(make, tried)
        if not isinstance(made, str):
            return made[0], tried if tried is plan else _noted(plan, tried)
        if tried.pages <= least:
            raise OutOfMemoryError(
                f"memory runs short with {tried.pages} KV pages ({format_bytes(tried.kv_bytes)}) beside "
                f"weights of {format_bytes(plan.weights_bytes)}: {made}",
                expected=f"{format_bytes(tried.total_bytes, round_up=True)} in all",
                remedy="End other programs that use the device, or lower --max-model-len, --max-sequences "
                "or --max-batch-tokens",
            )
        give_back_memory()
        tried = tried.with_pages(max(least, int(tried.pages * _KEPT)))


@contextmanager
def weights_must_fit(plan: MemoryPlan) -> Iterator[None]:
    """Raise OutOfMemoryError where memory runs short for weights: nothing of those can be left out."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"memory runs short while weights of {format_bytes(plan.weights_bytes)} are loaded: "
            f"{_first_line(error)}",
            remedy="End other programs that use the device, or take a smaller or more quantised model",
        ) from None


def give_back_memory() -> None:
    """Have torch give its device what it keeps for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or the driver has no memory to give."""
    if isinstance(error, CudaError):
        return error.code == _CUDA_OUT_OF_MEMORY
    return isinstance(error, torch.OutOfMemoryError)


def _attempt(make: Callable[[MemoryPlan], Made], plan: MemoryPlan) -> tuple[Made] | str:
    """What was made, or why it does not fit: then nothing of it is held any more."""
    try:
        return (make(plan),)
    except (torch.OutOfMemoryError, CudaError) as error:
        if not is_out_of_memory(error):
            raise
        return error.seen if isinstance(error, CudaError) else _first_line(error)


def _noted(plan: MemoryPlan, tried: MemoryPlan) -> MemoryPlan:
    note = (
        f"memory ran short of the plan: the KV cache has {format_bytes(tried.kv_bytes)} instead of "
        f"{format_bytes(plan.kv_bytes)}; do other programs use the device?"
    )
    if tried.max_model_len < plan.max_model_len:
        note += f" The context is limited to {tried.max_model_len} tokens"
    return replace(tried, notes=(*tried.notes, note))


def _first_line(error: torch.OutOfMemoryError) -> str:
    return str(error).partition("\n")[0]
