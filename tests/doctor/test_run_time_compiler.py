"""NVRTC and the CUDA driver: the real ones, where they are installed."""

from __future__ import annotations

import ctypes
import struct
from array import array
from pathlib import Path

import pytest

from pascaline.core.errors import CompileError, CudaError, UnsupportedError
from pascaline.doctor.kernel_trial import WITHOUT_A_CARD, try_kernel
from pascaline.hardware import cuda_driver
from pascaline.hardware import nvrtc as nvrtc_module
from pascaline.hardware.cuda_driver import Device, Event, Memory, Module, device_count
from pascaline.hardware.nvrtc import HEADER, Nvrtc, find_nvrtc, nvrtc_libraries

ELF_MACHINE_CUDA = 190  # EM_CUDA, in the registry of ELF machines
SOURCE = """
#include <cuda_fp16.h>
namespace ours {
template <class T, int FACTOR> __global__ void scale(T* x, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] = x[i] * T(FACTOR);
}
}
"""

needs_nvrtc = pytest.mark.skipif(not nvrtc_libraries(), reason="no NVRTC is installed here")


@needs_nvrtc
def test_machine_code_comes_for_every_architecture_of_every_compiler() -> None:
    for path in nvrtc_libraries():
        nvrtc = Nvrtc(path)
        assert nvrtc.version >= (12, 0)
        for architecture in nvrtc.architectures:
            compiled = nvrtc.compile('extern "C" __global__ void nothing() {}', architecture)
            assert compiled.cubin[:4] == b"\x7fELF"
            assert struct.unpack_from("<H", compiled.cubin, 18) == (ELF_MACHINE_CUDA,)
            assert b"nothing" in compiled.cubin


@needs_nvrtc
def test_names_of_templates_are_found_and_headers_lie_beside() -> None:
    nvrtc = find_nvrtc()
    assert nvrtc.headers is not None, "the runtime package with cuda_fp16.h is missing"
    names = ["ours::scale<float, 3>", "ours::scale<__half, 2>"]
    compiled = nvrtc.compile(SOURCE, nvrtc.architectures[-1], options=[f"-I{nvrtc.headers}"], names=names)
    assert set(compiled.lowered_names) == set(names)
    for lowered in compiled.lowered_names.values():
        assert lowered.encode() in compiled.cubin


@needs_nvrtc
def test_mistakes_are_told_with_their_place() -> None:
    nvrtc = find_nvrtc()
    architecture = nvrtc.architectures[0]
    with pytest.raises(CompileError, match=r"does not compile for sm_\d+: oops\.cu\(2\): error") as caught:
        nvrtc.compile("__global__ void f() {\n unknown(); }", architecture, file_name="oops.cu")
    assert "1 error detected" in caught.value.log
    with pytest.raises(CompileError, match="sm_12"):
        nvrtc.compile("__global__ void f() {}", "sm_12")
    with pytest.raises(CompileError, match="NUL"):
        nvrtc.compile("__global__ void f() {}\0 and more", architecture)


@needs_nvrtc
def test_options_reach_the_compiler() -> None:
    nvrtc = find_nvrtc()
    source = "#ifndef ROWS\n#error no rows\n#endif\n__device__ int rows = ROWS;"
    with pytest.raises(CompileError, match="no rows"):
        nvrtc.compile(source, nvrtc.architectures[0])
    nvrtc.compile(source, nvrtc.architectures[0], options=["-DROWS=4"])


@needs_nvrtc
def test_the_trial_compiles_for_what_is_here() -> None:
    trial = try_kernel()
    assert trial.error is None
    assert trial.nvrtc is not None
    assert trial.ran_on or set(trial.compiled_for) <= set(WITHOUT_A_CARD)
    assert trial.compiled_for


def packages(folder: Path, *names: str) -> list[str]:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return [str(folder)]


def test_libraries_are_found_in_packages_then_in_toolkits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvrtc_module, "_TOOLKITS", ())
    packages(tmp_path / "toolkit", "lib64/libnvrtc.so.11.2", "lib64/libnvrtc-builtins.so.11.2")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    folders = packages(
        tmp_path / "site",
        "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.6",
        "nvidia/cu13/lib/libnvrtc.so.13",
    )
    found = [str(path.relative_to(tmp_path)) for path in nvrtc_libraries([*folders, "/nowhere"])]
    assert found == [
        "site/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        "site/nvidia/cu13/lib/libnvrtc.so.13",
        "toolkit/lib64/libnvrtc.so.11.2",
    ]


def test_what_is_no_compiler_is_passed_over_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc_module, "_TOOLKITS", ())
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setattr("sys.path", packages(tmp_path, "nvidia/cu13/lib/libnvrtc.so.13"))
    with pytest.raises(UnsupportedError, match=r"no NVRTC for sm_61: libnvrtc\.so\.13 does not load"):
        find_nvrtc("sm_61")
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(UnsupportedError, match="none is installed"):
        find_nvrtc()


def test_headers_belong_to_their_compiler(tmp_path: Path) -> None:
    packages(tmp_path, f"nvidia/cuda_runtime/include/{HEADER}", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
    nvrtc = Nvrtc.__new__(Nvrtc)
    nvrtc.path = tmp_path / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
    assert nvrtc.headers is not None
    assert (nvrtc.headers / HEADER).is_file()
    nvrtc.path = tmp_path / "elsewhere/lib/libnvrtc.so.12"
    assert nvrtc.headers is None


def test_without_a_driver_it_is_said_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "_LIBRARY", "libnocuda.so.1")
    cuda_driver._driver.cache_clear()
    with pytest.raises(CudaError, match="`pascaline doctor` says why"):
        device_count()


def test_a_kernel_runs_is_timed_and_its_faults_are_told(device: str) -> None:
    if device == "cpu":
        return
    count, block = 100_000, 256
    with Device(0) as card, Memory(4 * count) as memory:
        nvrtc = find_nvrtc(card.architecture)
        name = "ours::scale<float, 3>"
        compiled = nvrtc.compile(SOURCE, card.architecture, options=[f"-I{nvrtc.headers}"], names=[name])
        module = Module(compiled.cubin)
        kernel = module.function(compiled.lowered_names[name])
        memory.write(array("f", range(count)).tobytes())
        start, end = Event(), Event()
        start.record()
        kernel.launch((-(-count // block), 1, 1), (block, 1, 1), [memory.pointer, ctypes.c_int(count)])
        end.record()
        assert 0 < end.seconds_since(start) < 1
        assert array("f", memory.read()) == array("f", range(0, 3 * count, 3))
        start.destroy()
        end.destroy()
        with pytest.raises(CudaError, match="do not fit"):
            memory.write(bytes(4 * count + 1))
        with pytest.raises(CudaError, match="sizes from 1"):
            kernel.launch((0, 1, 1), (block, 1, 1), [memory.pointer, ctypes.c_int(count)])
        with pytest.raises(CudaError, match="CUDA_ERROR_INVALID_VALUE"):
            kernel.launch((1, 1, 1), (4096, 1, 1), [memory.pointer, ctypes.c_int(count)])
        with pytest.raises(CudaError, match="CUDA_ERROR_NOT_FOUND"):
            module.function("no_such_kernel")
        other = next(each for each in nvrtc.architectures if each[:-1] != card.architecture[:-1])
        foreign = nvrtc.compile('extern "C" __global__ void f() {}', other).cubin
        with pytest.raises(CudaError, match=r"CUDA_ERROR_(NO_BINARY_FOR_GPU|INVALID_IMAGE|INVALID_SOURCE)"):
            Module(foreign)
        module.unload()
    with pytest.raises(CudaError, match="CUDA_ERROR_INVALID_DEVICE"):
        Device(999)


def test_this_cards_trial_runs(device: str) -> None:
    if device == "cuda":
        trial = try_kernel()
        assert len(trial.ran_on) == device_count(), trial.error
