"""From a launch plan to what the driver gets: against NVIDIA's own cuda.h, and with --gpu on a card."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pascaline.core.errors import CudaError, ShapeError
from pascaline.core.progress import ignore_progress
from pascaline.hardware import cuda_driver
from pascaline.hardware.cuda_driver import Function, Module
from pascaline.hardware.nvrtc import Nvrtc, nvrtc_libraries
from pascaline.kernels.cuda import compiler
from pascaline.kernels.cuda.bound_launch import BoundLaunch
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.scratch_memory import ScratchMemory
from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan, Scratch, Specialisation

SOURCE = Path(__file__).parents[1] / "native" / "stand_in_driver.c"
KERNEL = Specialisation("scale.cu", "scale", (("FACTOR", 3),))
PLAN = LaunchPlan(KERNEL, (7, 2, 3), (128, 4, 5), ("x", Integer(-5), "y", "bias"), shared_bytes=512)
LARGEST = 2**31 - 1


class Written(ctypes.Structure):
    """`struct Written` of the stand-in."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_uint),
        ("may_begin_early", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("arguments", ctypes.c_uint64 * 16),
        ("launches", ctypes.c_uint),
        ("allowed_shared_bytes", ctypes.c_uint),
    )


class StandIn:
    """A driver that writes launches down."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self.written = Written.in_dll(library, "stand_in_written")
        self._sizes = (ctypes.c_uint * 16).in_dll(library, "stand_in_sizes")
        self._count = ctypes.c_uint.in_dll(library, "stand_in_arguments")
        self.answer = ctypes.c_int.in_dll(library, "stand_in_answer")

    def function(self, *sizes: int) -> Function:
        """A kernel whose arguments have so many bytes."""
        self._sizes[: len(sizes)] = sizes
        self._count.value = len(sizes)
        return Module(b"").function("scale")


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    headers = next(filter(None, (Nvrtc(path).headers for path in nvrtc_libraries())), None)
    if headers is None or not (headers / "cuda.h").is_file() or shutil.which("gcc") is None:
        pytest.skip("no cuda.h here, or no C compiler")
    library = tmp_path / "libcuda-stand-in.so"
    subprocess.run(["gcc", "-shared", "-fPIC", f"-I{headers}", "-o", library, SOURCE], check=True)
    monkeypatch.setattr(cuda_driver, "_LIBRARY", str(library))
    cuda_driver._driver.cache_clear()
    yield StandIn(library)
    cuda_driver._driver.cache_clear()


def test_the_driver_gets_what_the_plan_says(driver: StandIn) -> None:
    function = driver.function(8, 4, 8, 8)
    launch = BoundLaunch(function, PLAN, {"x": 0x7F0123456780, "y": 2**40, "bias": None})
    assert driver.written.launches == 0
    launch(0x5500000000)
    written = driver.written
    assert tuple(written.grid) == PLAN.grid
    assert tuple(written.block) == PLAN.block
    assert written.shared_bytes == PLAN.shared_bytes
    assert written.stream == 0x5500000000
    assert written.attributes == 0
    assert not written.may_begin_early
    assert written.function == 0x7F1234567890
    assert written.arguments[:4] == [0x7F0123456780, 2**32 - 5, 2**40, 0]
    assert written.launches == 1


def test_launches_may_begin_early(driver: StandIn) -> None:
    launch = BoundLaunch(
        driver.function(8, 4, 8, 8), PLAN, {"x": 16, "y": 32, "bias": None}, begins_early=True
    )
    for launches in (1, 2):
        launch(0)
        assert (driver.written.attributes, driver.written.may_begin_early) == (1, 1)
        assert driver.written.launches == launches


def test_between_launches_addresses_and_streams_change(driver: StandIn) -> None:
    launch = BoundLaunch(driver.function(8, 4, 8, 8), PLAN, {"x": 16, "y": 32, "bias": 48})
    for index in range(100):
        launch.pointers["y"].value = 2**41 + index
        launch(index % 3)
        assert driver.written.arguments[:4] == [16, 2**32 - 5, 2**41 + index, 48]
        assert (driver.written.stream or 0) == index % 3
    assert driver.written.launches == 100


def test_a_buffer_may_be_two_arguments(driver: StandIn) -> None:
    plan = LaunchPlan(KERNEL, (1, 1, 1), (1, 1, 1), ("x", "x", Integer(LARGEST)))
    launch = BoundLaunch(driver.function(8, 8, 4), plan, {"x": 16})
    launch.pointers["x"].value = 32
    launch(0)
    assert driver.written.arguments[:3] == [32, 32, LARGEST]


def test_more_shared_memory_is_asked_for_once_and_only_where_needed(driver: StandIn) -> None:
    function = driver.function()

    def launched(shared_bytes: int) -> int:
        plan = LaunchPlan(KERNEL, (1, 1, 1), (32, 1, 1), (), shared_bytes)
        driver.written.allowed_shared_bytes = 0
        BoundLaunch(function, plan, {})(0)
        assert driver.written.shared_bytes == shared_bytes
        return driver.written.allowed_shared_bytes

    # 1 KiB of the 48 are the kernel's static ones.
    assert [launched(47 << 10), launched((47 << 10) + 4), launched(50 << 10)] == [0, (47 << 10) + 4, 50 << 10]
    assert [launched(50 << 10), launched(1024), launched(90 << 10)] == [0, 0, 90 << 10]
    with pytest.raises(CudaError, match="cuFuncSetAttribute: CUDA_ERROR_STAND_IN"):
        launched(100 << 10)


def test_what_cannot_be_launched_is_told(driver: StandIn) -> None:
    function = driver.function(8, 4, 8, 8)
    with pytest.raises(ShapeError, match="no address of 'bias' for scale"):
        BoundLaunch(function, PLAN, {"x": 16, "y": 32})
    for value in (LARGEST + 1, -LARGEST - 2):
        plan = LaunchPlan(KERNEL, (1, 1, 1), (1, 1, 1), (Integer(value),))
        with pytest.raises(ShapeError, match=f"{value} among the arguments of scale"):
            BoundLaunch(function, plan, {})
    for grid in ((0, 1, 1), (1, 2**31, 1)):
        with pytest.raises(CudaError, match="sizes from 1"):
            BoundLaunch(function, LaunchPlan(KERNEL, grid, (1, 1, 1), ()), {})
    launch = BoundLaunch(function, PLAN, {"x": 16, "y": 32, "bias": None})
    driver.answer.value = 700
    with pytest.raises(CudaError, match="cuLaunchKernelEx: CUDA_ERROR_STAND_IN") as caught:
        launch(0)
    assert caught.value.code == 700
    assert (function.registers, function.local_bytes) == (96, 40)


def test_scratch_lies_apart_and_stays(device: str) -> None:
    memory = ScratchMemory(torch.device(device))

    def plan(**scratch: Scratch) -> LaunchPlan:
        return LaunchPlan(KERNEL, (1, 1, 1), (1, 1, 1), tuple(scratch), scratch=scratch)

    assert memory.addresses(plan()) == {}
    first = memory.addresses(plan(a=Scratch(1000), b=Scratch(24), c=Scratch(8, is_zeroed=True)))
    assert first["b"] >= first["a"] + 1000
    assert first["b"] % 256 == first["a"] % 256
    assert memory.addresses(plan(d=Scratch(500))) == {"d": first["a"]}
    held_bytes = memory.nbytes
    grown = memory.addresses(plan(a=Scratch(5000), c=Scratch(9, is_zeroed=True)))
    assert grown["a"] != first["a"]
    assert grown["c"] == first["c"]
    assert memory.nbytes >= held_bytes + 5000
    if device == "cpu":
        assert ctypes.string_at(grown["c"], 9) == bytes(9)


CARD_SOURCE = """
#include "step.cuh"
extern "C" __global__ void scale(const float* x, float* y, int count, const int* zeros) {
    extern __shared__ float copy[];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    copy[SHARED / 4 - blockDim.x + threadIdx.x] = i < count ? x[i] : 0.0f;
    __syncthreads();
    if (i < count) y[i] = step(copy[SHARED / 4 - blockDim.x + threadIdx.x]) + zeros[0];
}
"""


def test_a_card_runs_bound_launches_and_graphs_of_them(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cpu":
        return
    monkeypatch.setenv("PASCALINE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "scale.cu").write_text(CARD_SOURCE)
    (tmp_path / "step.cuh").write_text("inline float step(float value) { return FACTOR * value + 1.0f; }\n")
    card = torch.device(device)
    kernels = KernelSet(card, tmp_path)
    shared = kernels.limits.shared_bytes_per_block
    specialisation = Specialisation("scale.cu", "scale", (("FACTOR", 3), ("SHARED", shared)))
    count = 1000
    plan = LaunchPlan(
        specialisation,
        (-(-count // 256), 1, 1),
        (256, 1, 1),
        ("x", "y", Integer(count), "zeros"),
        shared,
        {"zeros": Scratch(4, is_zeroed=True)},
    )
    kernels.build([specialisation], ignore_progress)
    assert kernels.notes == []
    assert len(list((tmp_path / "cache" / "cubins").iterdir())) == 1
    function = kernels.function(specialisation)
    assert function.registers > 0
    assert function.local_bytes == 0
    assert function.blocks_per_multiprocessor(256, shared) == 1

    x = torch.arange(count, dtype=torch.float32, device=card)
    y = torch.full((count + 8,), torch.nan, device=card)
    launch = kernels.bind(plan, {"x": x.data_ptr(), "y": y.data_ptr()})
    launch(torch._C._cuda_getCurrentRawStream(card.index or 0))
    assert torch.equal(y[:count], 3 * x + 1)
    assert y[count:].isnan().all()

    other, graph = torch.full_like(y, torch.nan), torch.cuda.CUDAGraph()
    launch.pointers["y"].value = other.data_ptr()
    with torch.cuda.graph(graph):
        launch(torch._C._cuda_getCurrentRawStream(card.index or 0))
        with pytest.raises(CudaError, match="while a CUDA graph is captured"):
            kernels.bind(
                LaunchPlan(specialisation, plan.grid, plan.block, (), 0, {"more": Scratch(1 << 20)}), {}
            )
    assert other.isnan().all()
    for step in range(3):
        x.fill_(step)
        graph.replay()
        assert (other[:count] == 3 * step + 1).all()
    assert y[1] == 4

    again = KernelSet(card, tmp_path)
    monkeypatch.setattr(compiler.Compiler, "compile", None)
    again.build([specialisation], ignore_progress)  # from disk: nothing can be compiled
