"""One case: ours, held against fp64, timed in turns with torch's and with plain reads of as many bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from linears.measure import Case
from linears.our_ways import chip_limits
from linears.probes import Probes
from linears.way import Way

from attention.cases import LEAST_STREAMED_BYTES, MOST_ERROR, DecodeCase, PrefillCase
from attention.operands import Operands
from attention.ways import library_ways, ours
from pascaline.kernels.cuda.kernel_set import KernelSet

_BUDGET_S, _ROUNDS = 0.25, (5, 15)
_DTYPES = (torch.float16, torch.int8)


class AttentionCases:
    """On one card; `announce` is told what is about to run."""

    def __init__(self, device: torch.device, announce: Callable[[str], None]) -> None:
        self._device = device
        self._announce = announce
        self._chip = chip_limits(device)

    @functools.cached_property
    def _kernels(self) -> KernelSet:
        return KernelSet(self._device)

    @functools.cached_property
    def _probes(self) -> Probes:
        return Probes(self._device)

    def decode(self, batch: int, context: int, width: int, skip: Sequence[str]) -> dict[str, Any]:
        """Ours with caches of fp16 and of int8, torch's, and reads of each cache's size."""
        case = DecodeCase(batch, context, width)
        operands = Operands.random(batch, 1, context, width, self._device)
        read_bytes = {"fp16": case.cache_bytes(2, 0), "int8": case.cache_bytes(1, 4)}
        reads = [
            replace(self._probes.read(nbytes, LEAST_STREAMED_BYTES), name=f"read {name}")
            for name, nbytes in read_bytes.items()
        ]
        found = self._measured(operands, reads, skip)
        for name, nbytes in read_bytes.items():
            found[f"read_{name}"] = found["ways"].pop(f"read {name}") | {"bytes": nbytes}
        return found

    def prefill(self, tokens: int, history: int, skip: Sequence[str]) -> dict[str, Any]:
        """Ours with caches of fp16 and of int8, and torch's."""
        case = PrefillCase(tokens, history)
        context = tokens + history
        operands = Operands.random(1, tokens, context, context, self._device)
        return self._measured(operands, [], skip) | {"operations": case.operations}

    def _measured(self, operands: Operands, reads: Sequence[Way], skip: Sequence[str]) -> dict[str, Any]:
        reference = operands.exact()
        case = Case(reference, self._announce, MOST_ERROR)
        for dtype in _DTYPES:
            name = f"ours {str(dtype).removeprefix('torch.')}"
            if name not in skip:
                case.add(name, partial(ours, self._kernels, self._chip, operands, dtype))
        refused: dict[str, str] = {}
        library = [way for way in library_ways(operands, reference, refused) if way.name not in skip]
        found = case.time([*reads, *library], _BUDGET_S, _ROUNDS)
        return found | {"refused": refused}
