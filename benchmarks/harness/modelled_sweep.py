"""The timing model against measured kernels of a card at hand, whose machine code the emulator does not
execute.

Paths are walked instead (`walk.walk`): every warp of a launch takes as many trips of the main loop as its
share of the launch's dot products, and the widest loads bring its weights from memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from linears.cases import SHAPES, Shape
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
_SHAPES = {shape.name: shape for shape in SHAPES}

COMPARED = {"linear_decode": ("decode_", (1, 2)), "linear_tile": ("tile_", (512, 2048))}
"""Of comparisons: what the names of a family's ways begin with, and the rows that are modelled."""

GRAPH_NODE_S = 0.69e-6
"""What an empty kernel of a recorded graph takes on an H200, measured: measured times have it in them."""


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


@dataclass(frozen=True)
class _Measured:
    name: str
    shape: Shape
    rows: int
    family: str
    planes: int
    way: Mapping[str, Any]

    @property
    def details(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.way["details"]
        return found


def compare_measured(path: Path, fastest: int) -> Iterator[Compared]:
    """Dot products that `cuda_linears.py` measured: of comparisons `COMPARED`, of each sweep the fastest."""
    result = json.loads(path.read_text(encoding="utf-8"))
    gpu = find_gpu(result["card"]["gpu"], memory_gib=result["card"]["memory_gib"])
    card = Card(gpu, gpu.max_mhz)
    for each in (*_of_comparisons(result["compare"]), *_of_sweeps(result["sweep"], fastest)):
        if each.family == "linear_tile":
            modelled_s = _tile_s(each, card) + _quantised_s(each, card)
        else:
            modelled_s = _decode_s(each, card)
        modelled_s += GRAPH_NODE_S * each.details.get("launches", 1)
        yield Compared(each.name, each.shape.label, each.rows, each.family, each.way["median_s"], modelled_s)


def _of_comparisons(comparisons: Sequence[Mapping[str, Any]]) -> Iterator[_Measured]:
    for family, (start, compared_rows) in COMPARED.items():
        for comparison in comparisons:
            for name, way in comparison["ways"].items() if comparison["rows"] in compared_rows else ():
                if name.startswith(start) and "median_s" in way and way["details"]["unit"] == "int8":
                    planes = way["details"]["products"]
                    yield _Measured(
                        name, _SHAPES[comparison["shape"]], comparison["rows"], family, planes, way
                    )


def _of_sweeps(sweeps: Sequence[Mapping[str, Any]], fastest: int) -> Iterator[_Measured]:
    for sweep in sweeps:
        if sweep["family"] not in COMPARED:
            continue
        dots = {
            name: way
            for name, way in sweep["ways"].items()
            if "median_s" in way and way["details"].get("unit") == "int8"
        }
        for name, way in sorted(dots.items(), key=lambda item: item[1]["median_s"])[:fastest]:
            planes = way["details"]["products"]
            yield _Measured(name, _SHAPES[sweep["shape"]], sweep["rows"], sweep["family"], planes, way)


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


def _decode_s(measured: _Measured, card: Card) -> float:
    details, weights = measured.details, measured.shape.inputs * measured.shape.outputs
    kernel = _kernel("linear_decode", details, card)
    grid, warps = math.prod(details["grid"]), details["block"][0] // _LANES
    blocks = -(-grid // card.gpu.sms)
    average = _trips(kernel, measured.rows, measured.planes, weights, grid * warps)
    trips = max(1, math.ceil(average))  # the busiest warp's: what is left over of its last trip is masked
    recording = _traces(kernel, trips, warps, blocks, {})
    streamed = _streamed(kernel, recording, weights * _INT4_BYTES / (grid * warps))
    held = occupancy(kernel, details["block"][0], details["shared_bytes"]).blocks
    return model_share(kernel, replace(recording, traffic=streamed), held, card).time_s


def _streamed(kernel: Kernel, recording: Recording, nbytes: float) -> dict[int, Traffic]:
    """So many bytes a warp come from memory, by the widest loads that it executes."""
    trace = recording.blocks[0][0]
    loads = [i for i in trace if kernel.code.instructions[i].name == "LDG"]
    sizes = {i: default_traffic(kernel.code.instructions[i]).nbytes for i in loads}
    wide = [i for i in loads if sizes[i] == max(sizes.values())]
    return {i: Traffic(nbytes / len(wide), memory_share=1, from_l2=0, from_memory=1) for i in wide}


def _tile_s(measured: _Measured, card: Card) -> float:
    details, columns = measured.details, measured.shape.inputs
    kernel = _kernel("linear_tile", details, card)
    definitions = details["definitions"]
    tile_rows, tile_outputs = 32 * definitions["WARPS_M"], 32 * definitions["WARPS_N"]
    along_rows, along_outputs, splits = details["grid"]
    warps = details["block"][0] // _LANES
    blocks = -(-along_rows * along_outputs * splits // card.gpu.sms)
    resident = min(blocks, occupancy(kernel, details["block"][0], details["shared_bytes"]).blocks)
    trips = _trips(kernel, tile_rows, measured.planes, columns / splits * tile_outputs, warps)
    recordings = [(each, _traces(kernel, each, warps, resident, {})) for each in _TRIPS]
    return simulate_wave(kernel, resident, recordings, card).modelled(trips, blocks, card).time_s


def _quantised_s(measured: _Measured, card: Card) -> float:
    """The launch before, which makes the integers of an fp16 input: a plain read of as many bytes."""
    return card.read_s(measured.rows * measured.shape.inputs * (2 + measured.planes))
