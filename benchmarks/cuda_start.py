"""What CUDA kernels cost before they compute: compiling, loading and launching them.

    PYTHONPATH=src python benchmarks/cuda_start.py [--output FILE.json] [--gpu NAME]

Compiles what the linears of Qwen2.5-7B in int4 launch for any number of rows up to 512 into an empty cache,
then reads it back as a second start does. On a card it also loads it all, and measures a launch of an empty
kernel: prepared, built anew each time, and in a CUDA graph. Without one it compiles for --gpu.

Prints what each part took, and writes it as JSON. A part that fails says why, and the others go on.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from pascaline.cli.ending import run
from pascaline.core.progress import ignore_progress
from pascaline.core.threads import compute_threads
from pascaline.engine.card import recipes_of, specialisations_of
from pascaline.hardware.architectures import capability_numbers
from pascaline.hardware.cuda_driver import Argument
from pascaline.hardware.gpus import Gpu, find_gpu
from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels import KERNELS, Chip, Launcher, Policy
from pascaline.kernels.cuda.compiler import Compiler
from pascaline.kernels.cuda.cubin_cache import CubinCache
from pascaline.kernels.cuda.cubins import Cubins
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.specialisation import ChipLimits, Integer, LaunchPlan, Specialisation
from pascaline.kernels.packed_cases import PackedForm, random_packed
from pascaline.weights import Dense, Slabbed, Weight
from pascaline.weights.slab_layout import to_slabs

SHAPES = (  # Qwen2.5-7B's: outputs, columns, and whether there is a bias
    (4608, 3584, True),
    (3584, 3584, False),
    (37888, 3584, False),
    (3584, 18944, False),
)
VOCABULARY, HIDDEN = 152064, 3584
MOST_ROWS = 512
EMPTY = 'extern "C" __global__ void nothing(float* x, float* y, float* z, int m, int n, int k) {}\n'
LAUNCHES, ROUNDS = 1000, 15


def products() -> Iterator[tuple[Weight, torch.Tensor | None]]:
    """Weights without memory, and biases: int4 in groups of 128, and a head in fp16."""
    generator = torch.Generator().manual_seed(0)
    form = to_slabs(random_packed(PackedForm(4, 128, (2,), zeros=True), 8, 128, generator)).form
    for outputs, columns, has_bias in SHAPES:
        slabs = columns // 128
        weight = Slabbed(
            (outputs, columns),
            form,
            codes=torch.empty(slabs, outputs // 8, 512, dtype=torch.uint8, device="meta"),
            scales=torch.empty(slabs, outputs, 1, 1, dtype=torch.float16, device="meta"),
            zeros=torch.empty(slabs, outputs // 2, 1, dtype=torch.uint8, device="meta"),
        )
        yield weight, torch.empty(outputs, device="meta") if has_bias else None
    yield Dense(torch.empty(VOCABULARY, HIDDEN, dtype=torch.float16, device="meta")), None


def specialisations(gpu: Gpu) -> list[Specialisation]:
    """What the engine compiles at its start."""
    limits = ChipLimits(
        capability_numbers(gpu.compute_capability),
        gpu.sms,
        gpu.architecture.shared_memory_kib_per_block << 10,
    )
    chip = Chip(torch.device("cuda"), limits, gpu.roofline())
    return specialisations_of(recipes_of(products(), Launcher(Policy(chip, KERNELS)), MOST_ROWS))


def building(architecture: str, wanted: list[Specialisation], folder: Path) -> dict[str, Any]:
    """Seconds to the machine code of all, from an empty cache and from a full one."""
    found: dict[str, Any] = {"architecture": architecture, "threads": compute_threads()}
    for name in ("cold", "warm"):
        began, processor = time.perf_counter(), time.process_time()
        cubins = Cubins(Compiler(find_nvrtc(architecture), architecture), CubinCache(folder))
        cubins.build(wanted, ignore_progress)
        found[f"{name}_s"] = time.perf_counter() - began
        found[f"{name}_processor_s"] = time.process_time() - processor
        codes = {cubins.key(each): len(cubins.cubin(each)) for each in wanted}
        found |= {"kernels": len(codes), "bytes": sum(codes.values()), "notes": cubins.notes}
    return found


def starting(device: torch.device, wanted: list[Specialisation]) -> dict[str, float]:
    """Seconds to all kernels on the card from a full cache."""
    began = time.perf_counter()
    kernels = KernelSet(device)
    found_s = time.perf_counter() - began
    kernels.build(wanted, ignore_progress)
    return {"compiler_found_s": found_s, "all_loaded_s": time.perf_counter() - began}


def launching(device: torch.device, folder: Path) -> dict[str, float]:
    """Microseconds a launch, medians."""
    (folder / "nothing.cu").write_text(EMPTY)
    kernels = KernelSet(device, folder)
    specialisation = Specialisation("nothing.cu", "nothing", ())
    plan = LaunchPlan(
        specialisation, (1, 1, 1), (32, 1, 1), ("x", "y", "z", Integer(1), Integer(2), Integer(3))
    )
    x = torch.zeros(8, device=device)
    bound = kernels.bind(plan, dict.fromkeys("xyz", x.data_ptr()))
    pointer = bound.pointers["y"]
    index = torch.cuda.current_device() if device.index is None else device.index
    stream_of = torch._C._cuda_getCurrentRawStream
    function = kernels.function(specialisation)
    arguments: list[Argument] = [
        *(ctypes.c_void_p(x.data_ptr()) for _ in "xyz"),
        *map(ctypes.c_int, (1, 2, 3)),
    ]

    def prepared() -> None:
        pointer.value = x.data_ptr()
        bound(stream_of(index))

    def anew() -> None:
        function.launch((1, 1, 1), (32, 1, 1), arguments, stream=stream_of(index))

    def library() -> None:
        torch.add(x, x, out=x)

    graph = torch.cuda.CUDAGraph()
    prepared()
    torch.cuda.synchronize(device)
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES):
            prepared()
    found = {
        name: _launch_us(call)
        for name, call in (("prepared", prepared), ("anew", anew), ("torch.add", library))
    }
    found["in a graph"] = _graph_us(graph)
    return found


def _launch_us(call: Callable[[], None]) -> float:
    """Of the processor's time: the queue of a stream holds more than are put into it at once."""
    times = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(LAUNCHES // 2):
            call()
        times.append((time.perf_counter() - began) / (LAUNCHES // 2))
    return statistics.median(times) * 1e6


def _graph_us(graph: torch.cuda.CUDAGraph) -> float:
    times = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - began) / LAUNCHES)
    return statistics.median(times) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    parser.add_argument(
        "--gpu", default="TITAN X (Pascal)", help="to compile for without a card (%(default)s)"
    )
    options = parser.parse_args()
    without_card = find_gpu(options.gpu)
    if options.output is not None and options.output.is_dir():
        parser.error(f"--output {options.output} is a folder")
    results: dict[str, Any] = {}
    failed = False

    def part(name: str, measure: Callable[[], dict[str, Any]]) -> None:
        nonlocal failed
        try:
            results[name] = measure()
        except Exception as error:
            failed = True
            traceback.print_exc()
            results[name] = {"error": f"{type(error).__name__}: {error}"}
        print(name, json.dumps(results[name], indent=2), flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(temporary) / "cache"
        os.environ["PASCALINE_CACHE"] = str(cache)
        device = torch.device("cuda") if torch.cuda.is_available() else None
        gpu = without_card if device is None else find_gpu(torch.cuda.get_device_name(device))
        architecture = "sm_" + gpu.compute_capability.replace(".", "")
        wanted = specialisations(gpu)
        part("building", lambda: building(architecture, wanted, cache / "cubins"))
        if device is not None:
            part("starting", lambda: starting(device, wanted))
            part("launching", lambda: launching(device, Path(temporary)))
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=2) + "\n")
    return int(failed)


if __name__ == "__main__":
    run(main)
