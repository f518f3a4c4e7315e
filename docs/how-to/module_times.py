"""Times of every module of a torch model, as a tree that `pascaline compare` and `diagnose` read.

Copy this file to where the model runs: it needs torch and nothing else. On a GPU the times are those between
CUDA events, so that the stream is never waited for while the model runs; elsewhere they are the clock's.

    attach(model)
    model(**inputs)
    write(collect(model), "times.json", tokens=512, config=model.config.to_dict())

Only what is called as a module is seen: not inside a CUDA graph, and not inside a compiled region.
"""

from __future__ import annotations

import json
import platform
import time
from collections import defaultdict
from typing import Any

import torch


class _Times:
    """Start and end of each call of each module, until they are asked for."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._uses_cuda = any(parameter.is_cuda for parameter in model.parameters())
        self._began: dict[str, list[Any]] = defaultdict(list)
        self._calls: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        self._hooks = []
        for path, module in model.named_modules():
            self._hooks += [
                module.register_forward_pre_hook(self._before(path)),
                module.register_forward_hook(self._after(path)),
            ]

    def _now(self) -> Any:
        if not self._uses_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _before(self, path: str) -> Any:
        return lambda *_: self._began[path].append(self._now())

    def _after(self, path: str) -> Any:
        return lambda *_: self._calls[path].append((self._began[path].pop(), self._now()))

    def stop(self) -> dict[str, Any]:
        for hook in self._hooks:
            hook.remove()
        if self._uses_cuda:
            torch.cuda.synchronize()

        def seconds(start: Any, end: Any) -> float:
            return float(start.elapsed_time(end)) / 1e3 if self._uses_cuda else float(end - start)

        tree: dict[str, Any] = {
            "unit": "s",
            "modules": {path: sum(seconds(*c) for c in calls) for path, calls in self._calls.items()},
            "calls": {path: len(calls) for path, calls in self._calls.items()},
            "software": {"torch": torch.__version__},
        }
        if self._uses_cuda:
            major, minor = torch.cuda.get_device_capability()
            tree["gpu"] = torch.cuda.get_device_name()
            tree["compute_capability"] = f"{major}.{minor}"
        else:
            tree["cpu"] = platform.processor() or platform.machine()
        return tree


def attach(model: torch.nn.Module) -> None:
    """Time every call of every module of `model` from here on."""
    object.__setattr__(model, "_module_times", _Times(model))


def collect(model: torch.nn.Module) -> dict[str, Any]:
    """Stop, and give the times: {"modules": {path: seconds in all, what it calls included}, …}."""
    # Kept in the model itself, whose class knows nothing of it.
    return model.__dict__.pop("_module_times").stop()  # type: ignore[no-any-return]


def write(tree: dict[str, Any], path: str, **about: Any) -> None:
    """As JSON, with what you know of the run: model=, config=, tokens= (in all calls), batch=, phase=."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**tree, **about}, file, indent=1, default=str)
