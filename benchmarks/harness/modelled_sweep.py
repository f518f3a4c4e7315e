"""The timing model against measured kernels of a card at hand, whose machine code the emulator does not
execute.

Paths are walked instead (`walk.walk`): every warp of a launch takes as many trips of the main loop as its
share of the launch's dot products, and the widest loads bring its weights from memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from linears.cases import SHAPES
from loops import main_loop
from program import Traffic, default_traffic
from recording import Recording
from timing_model import Card, Kernel, model_share, occupancy, read_kernel, simulate_wave
from walk import walk

from pascaline.hardware.gpus import find_gpu
from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.compiler import Compiler
from pascaline.kernels.cuda.specialisation import Specialisation

_CODES_PER_DOT, _LANES, _INT4_BYTES = 4, 32, 0.5
_TRIPS = (3, 6)
FAMILIES = ("linear_decode", "linear_tile")

GRAPH_NODE_S = 0.69e-6
"""What an empty kernel of a recorded graph takes on an H200, measured: a sweep's times have it in them."""


@dataclass(frozen=True)
class Compared:
    """One measured launch."""

    name: str
    shape: str
    rows: int
    family: str
    measured_s: float
    modelled_s: float

    @property
    def error(self) -> float:
        return self.modelled_s / self.measured_s - 1


def compare_sweep(path: Path, fastest: int) -> Iterator[Compared]:
    """The fastest ways by dot products of each sweep that `cuda_linears.py --sweep` has written."""
    result = json.loads(path.read_text(encoding="utf-8"))
    gpu = find_gpu(result["card"]["gpu"], memory_gib=result["card"]["memory_gib"])
    card = Card(gpu, gpu.max_mhz)
    shapes = {shape.name: shape for shape in SHAPES}
    for sweep in result["sweep"]:
        if sweep["family"] not in FAMILIES:
            continue
        shape = shapes[sweep["shape"]]
        dots = {
            name: way
            for name, way in sweep["ways"].items()
            if "median_s" in way and way["details"].get("arithmetic") == "dp4a"
        }
        for name, way in sorted(dots.items(), key=lambda item: item[1]["median_s"])[:fastest]:
            details = way["details"]
            if sweep["family"] == "linear_tile":
                modelled_s = _tile_s(details, shape.inputs, card)
            else:
                modelled_s = _decode_s(details, sweep["rows"], shape.inputs * shape.outputs, card)
            yield Compared(name, shape.label, sweep["rows"], sweep["family"], way["median_s"], modelled_s)


def _kernel(family: str, details: Mapping[str, Any], card: Card) -> Kernel:
    architecture = "sm_" + card.gpu.compute_capability.replace(".", "")
    specialisation = Specialisation(f"{family}.cu", family, tuple(details["definitions"].items()))
    return read_kernel(Compiler(find_nvrtc(architecture), architecture).compile(specialisation), family)


def _trips(kernel: Kernel, rows: int, planes: int, weights: float, warps: int) -> float:
    """Of one warp, of the main loop."""
    loop = main_loop(kernel.code)
    if loop is None:
        raise ValueError(f"{kernel.code.name} has no loop of dot products")
    return rows * planes * weights / _CODES_PER_DOT / _LANES / warps / loop.count("IDP")


def _traces(kernel: Kernel, trips: int, warps: int, blocks: int, traffic: Mapping[int, Traffic]) -> Recording:
    loop = main_loop(kernel.code)
    trace = tuple(walk(kernel.code, {loop.first: trips} if loop else {}))
    return Recording(((trace,) * warps,) * blocks, traffic, 0.0)


def _decode_s(details: Mapping[str, Any], rows: int, weights: int, card: Card) -> float:
    kernel = _kernel("linear_decode", details, card)
    blocks, warps = -(-details["grid"][0] // card.gpu.sms), details["block"][0] // _LANES
    average = _trips(kernel, rows, details["planes"], weights, details["grid"][0] * warps)
    trips = max(1, math.ceil(average))  # the busiest warp's: what is left over of its last trip is masked
    recording = _traces(kernel, trips, warps, blocks, {})
    streamed = _streamed(kernel, recording, weights * _INT4_BYTES / (details["grid"][0] * warps))
    held = occupancy(kernel, details["block"][0], details["shared_bytes"]).blocks
    return model_share(kernel, replace(recording, traffic=streamed), held, card).time_s


def _streamed(kernel: Kernel, recording: Recording, nbytes: float) -> dict[int, Traffic]:
    """So many bytes a warp come from memory, by the widest loads that it executes."""
    trace = recording.blocks[0][0]
    loads = [i for i in trace if kernel.code.instructions[i].name == "LDG"]
    sizes = {i: default_traffic(kernel.code.instructions[i]).nbytes for i in loads}
    wide = [i for i in loads if sizes[i] == max(sizes.values())]
    return {i: Traffic(nbytes / len(wide), memory_share=1, from_l2=0, from_memory=1) for i in wide}


def _tile_s(details: Mapping[str, Any], columns: int, card: Card) -> float:
    kernel = _kernel("linear_tile", details, card)
    definitions = details["definitions"]
    tile_rows, tile_outputs = 32 * definitions["WARPS_M"], 32 * definitions["WARPS_N"]
    along_rows, along_outputs, splits = details["grid"]
    warps = details["block"][0] // _LANES
    blocks = -(-along_rows * along_outputs * splits // card.gpu.sms)
    resident = min(blocks, occupancy(kernel, details["block"][0], details["shared_bytes"]).blocks)
    trips = _trips(kernel, tile_rows, details["planes"], columns / splits * tile_outputs, warps)
    recordings = [(each, _traces(kernel, each, warps, resident, {})) for each in _TRIPS]
    return simulate_wave(kernel, resident, recordings, card).modelled(trips, blocks, card).time_s
