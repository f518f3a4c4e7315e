"""What the card gives in this run: plain reads of a size, dp4a and multiply-adds, a graph's empty node."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

from linears.graph_timer import time_in_turns
from linears.way import Way, copies_of
from pascaline.hardware.cuda_driver import Argument, Dimensions, Function, Module
from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.compiler import FOLDER, OPTIONS

_SOURCE = Path(__file__).parent / "probes.cu"
_READ_THREADS = 512
_READ_GEOMETRIES = tuple((unroll, per_sm) for unroll in (2, 4, 8) for per_sm in (1, 2, 3, 4))
_RATE_THREADS, _RATE_BLOCKS_PER_SM, _RATE_ROUNDS, _RATE_STEPS = 256, 8, 400, 128
_NODES = 2000


class Probes:
    """Compiled for the card that torch computes on."""

    def __init__(self, device: torch.device) -> None:
        properties = torch.cuda.get_device_properties(device)
        self._device = device
        self._multiprocessors = properties.multi_processor_count
        self._architecture = f"sm_{properties.major}{properties.minor}"
        self._modules: dict[int, Module] = {}
        self._reads: dict[int, Way] = {}
        torch.zeros(1, device=device)  # torch's context is the current one from here on

    def read(self, nbytes: int, least_streamed_bytes: int) -> Way:
        """Reading `nbytes`, by whichever geometry is fastest."""
        if nbytes in self._reads:
            return self._reads[nbytes]
        copies = copies_of(nbytes, least_streamed_bytes)
        words = nbytes // 16
        source = torch.randint(0, 2**31 - 1, (copies, words * 4), dtype=torch.int32, device=self._device)
        found = torch.zeros(4, dtype=torch.int32, device=self._device)
        ways = [self._read_way(source, found, words, *geometry) for geometry in _READ_GEOMETRIES]
        for way in ways:
            way.launch(0)
        torch.cuda.synchronize()
        timed, _ = time_in_turns(ways, 0.05, rounds=(3, 5))
        self._reads[nbytes] = min(ways, key=lambda way: timed[way.name].median_s)
        return self._reads[nbytes]

    def rates(self) -> dict[str, float]:
        """Operations a second: "dp4a" (8 a lane) and "ffma" (2); and seconds of an empty node, "node_s"."""
        found = torch.ones(4, dtype=torch.int32, device=self._device)
        blocks = self._multiprocessors * _RATE_BLOCKS_PER_SM
        ways = []
        for name in ("dp4a_rate", "ffma_rate"):
            launch = self._launch(
                name, (blocks, 1, 1), _RATE_THREADS, [_pointer(found), ctypes.c_int(_RATE_ROUNDS)]
            )
            ways.append(Way(name, "library", "exact", 1, 1, launch, found))
        nothing = self._launch("nothing", (1, 1, 1), 32, [ctypes.c_int(0)])
        ways.append(Way("nothing", "library", "exact", _NODES, 1, nothing, found))
        for way in ways:
            way.launch(0)
        torch.cuda.synchronize()
        timed, _ = time_in_turns(ways, 0.3)
        steps = blocks * _RATE_THREADS * _RATE_ROUNDS * _RATE_STEPS
        return {
            "dp4a": steps * 8 / timed["dp4a_rate"].median_s,
            "ffma": steps * 2 / timed["ffma_rate"].median_s,
            "node_s": timed["nothing"].median_s,
        }

    def _read_way(
        self, source: torch.Tensor, found: torch.Tensor, words: int, unroll: int, per_sm: int
    ) -> Way:
        grid = (self._multiprocessors * per_sm, 1, 1)
        function = self._function("read_only", unroll)
        launches = [
            function.prepare(
                grid, (_READ_THREADS, 1, 1), [_pointer(part), _pointer(found), ctypes.c_int64(words)], 0
            )
            for part in source
        ]

        def launch(copy: int) -> None:
            launches[copy](torch.cuda.current_stream().cuda_stream)

        name = f"read, {unroll} in flight, {per_sm} blocks"
        return Way(
            name, "library", "exact", len(source), words * 16, launch, found, details={"source": source}
        )

    def _launch(
        self, name: str, grid: Dimensions, threads: int, arguments: list[Argument]
    ) -> Callable[[int], None]:
        prepared = self._function(name, 1).prepare(grid, (threads, 1, 1), arguments, 0)

        def launch(_copy: int) -> None:
            prepared(torch.cuda.current_stream().cuda_stream)

        return launch

    def _function(self, name: str, unroll: int) -> Function:
        if unroll not in self._modules:
            nvrtc = find_nvrtc(self._architecture)
            headers = {"platform.cuh": (FOLDER / "platform.cuh").read_text()}
            options = (*OPTIONS, f"-DUNROLL={unroll}")
            compiled = nvrtc.compile(
                _SOURCE.read_text(), self._architecture, options=options, headers=headers
            )
            self._modules[unroll] = Module(compiled.cubin)
        return self._modules[unroll].function(name)


def _pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
