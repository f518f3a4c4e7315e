"""Compile llama.cpp's benchmarks for a card, from llama-cpp-python's source distribution.

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36     # about 70 MB
    python -m peers.build_llamacpp llama_cpp_python-0.3.36.tar.gz --bundle BUNDLE.tar.xz    # about 3 MB
    python -m peers.build_llamacpp BUNDLE.tar.xz FOLDER                   # needs cmake, ninja and nvcc

The first command needs nothing but Python: it takes out of the distribution what `llama-bench` and
`llama-batched-bench` are made of. The second compiles a bundle (or the distribution itself) in some two
minutes on 16 processors; FOLDER gets both programs and their libraries. A toolkit without cuBLAS is helped
out by torch's.

Kernels are llama.cpp's, unchanged, by its own build. Left out are instances that the models measured never
launch (matrix products of other weights than Q4_0, Q6_K and Q8_0; attention of other heads than 128 wide),
with functions that abort in their place, so that none can be missed in silence.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

VERSION = "0.3.36"
PROGRAMS = ("llama-bench", "llama-batched-bench")

_ROOT = "vendor/llama.cpp/"
_BUNDLE_ROOT = "llama.cpp"
_TAKEN = (
    "LICENSE",
    "CMakeLists.txt",
    "cmake/",
    "common/",
    "ggml/CMakeLists.txt",
    "ggml/cmake/",
    "ggml/include/",
    "ggml/src/ggml-cpu/",
    "ggml/src/ggml-cuda/",
    "include/",
    "src/",
    "tools/batched-bench/",
    "tools/llama-bench/",
    "vendor/CMakeLists.txt",
    "vendor/cpp-httplib/",
    "vendor/hash/",
    "vendor/nlohmann/",
    "vendor/sheredom/",
)
_GGML_FILE = re.compile(r"ggml/src/[^/]+")  # those of the folder itself
_INSTANCES = "ggml/src/ggml-cuda/template-instances/"
_DECLARATION = re.compile(r"^DECL_(\w+)\(([^)]*)\);$", re.MULTILINE)
_WANTED = ("GGML_TYPE_Q4_0", "GGML_TYPE_Q6_K", "GGML_TYPE_Q8_0", "128")  # weights, and the width of heads
_TOOLS = "find_package(Threads REQUIRED)\nllama_add_compile_flags()\n" + "".join(
    f"add_subdirectory({name})\n" for name in ("batched-bench", "llama-bench")
)
_ABSENT_FILE = "ggml/src/ggml-cuda/absent-instances.cu"
_ABSENT = """\
// Functions that the dispatchers name and that no model measured reaches: the instances left out.
#include "common.cuh"

struct mmq_args;

template <int DKQ, int DV, int ncols1, int ncols2>
void ggml_cuda_flash_attn_ext_mma_f16_case(ggml_backend_cuda_context &, ggml_tensor *) {
    GGML_ABORT("attention of heads %d wide was left out of this build", DKQ);
}

template <int DKQ, int DV>
void ggml_cuda_flash_attn_ext_tile_case(ggml_backend_cuda_context &, ggml_tensor *) {
    GGML_ABORT("attention of heads %d wide was left out of this build", DKQ);
}

template <int D, ggml_type type_K, ggml_type type_V>
void ggml_cuda_flash_attn_ext_vec_case(ggml_backend_cuda_context &, ggml_tensor *) {
    GGML_ABORT("attention of heads %d wide was left out of this build", D);
}

template <ggml_type type, ggml_prec prec_src1 = GGML_PREC_Q8>
void mul_mat_q_case(ggml_backend_cuda_context &, const mmq_args &, cudaStream_t) {
    GGML_ABORT("products of weights of type %d were left out of this build", int(type));
}

"""
_ATTENTION = "(ggml_backend_cuda_context &, ggml_tensor *)"
_PRODUCT = "(ggml_backend_cuda_context &, const mmq_args &, cudaStream_t)"
_ABSENT_FUNCTIONS = {
    "FATTN_MMA_F16_CASE": "ggml_cuda_flash_attn_ext_mma_f16_case<{}>" + _ATTENTION,
    "FATTN_TILE_CASE": "ggml_cuda_flash_attn_ext_tile_case<{}>" + _ATTENTION,
    "FATTN_VEC_CASE": "ggml_cuda_flash_attn_ext_vec_case<{}>" + _ATTENTION,
    "MMQ_CASE": "mul_mat_q_case<{}>" + _PRODUCT,
    "MMQ_CASE_W4A4": "mul_mat_q_case<{}, GGML_PREC_Q4>" + _PRODUCT,
}
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
    "-DGGML_CUDA=ON",
    "-DGGML_CUDA_NCCL=OFF",
    "-DGGML_CUDA_FA_QUANTS=f16-f16",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


def main(arguments: list[str] | None = None) -> None:
    """Bundle or build; prints where the result lies, and how long it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", type=Path, help=f"llama_cpp_python-{VERSION}.tar.gz, or a bundle of it")
    parser.add_argument("folder", type=Path, nargs="?", help="where the programs go")
    parser.add_argument("--bundle", type=Path, help="write a .tar.xz of what is needed instead")
    parser.add_argument("--architecture", default="90", help="of the card, as CMake says it (%(default)s)")
    parser.add_argument("--configure-only", action="store_true", help="stop before compiling")
    parser.add_argument("--nvcc", default=shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    given = parser.parse_args(arguments)
    if (given.folder is None) == (given.bundle is None):
        parser.error("either FOLDER or --bundle, please")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        extract(given.sources, work)
        if given.bundle is not None:
            with tarfile.open(given.bundle, "w:xz") as archive:
                archive.add(work, _BUNDLE_ROOT, filter=_without_owner)
            print(f"{given.bundle}: {given.bundle.stat().st_size / 1e6:.1f} MB")
        else:
            build(work, given.folder, given.architecture, given.nvcc, is_dry=given.configure_only)
            print(f"{given.folder}: {time.monotonic() - began:.0f} s")


def extract(sources: Path, work: Path) -> None:
    """What is compiled, of a distribution or of a bundle, into `work`."""
    absent: list[str] = []
    with tarfile.open(sources) as archive:
        for path, data in _members(archive):
            if path.startswith(_INSTANCES):
                data, left_out = _wanted_instances(data)
                absent += left_out
                if not data:
                    continue
            target = work / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    if not (work / "CMakeLists.txt").exists():
        raise SystemExit(f"{sources}: neither llama-cpp-python {VERSION}'s source distribution nor a bundle")
    if absent:  # a bundle has the file already
        (work / _ABSENT_FILE).write_text(_ABSENT + "".join(f"template void {each};\n" for each in absent))
    (work / "tools/CMakeLists.txt").write_text(_TOOLS)
    vendor = work / "vendor/CMakeLists.txt"
    vendor.write_text(re.sub(r"add_subdirectory\((miniaudio|stb)\)\n", "", vendor.read_text()))


def build(work: Path, folder: Path, architecture: str, nvcc: str, *, is_dry: bool = False) -> None:
    """Compile `work` by its own CMakeLists.txt; the programs and their libraries go to `folder`."""
    compiling = work / "build"
    environment = os.environ | {"CUDACXX": nvcc}
    options = [
        *_OPTIONS,
        f"-DCMAKE_CUDA_ARCHITECTURES={architecture}-real",
        *_cublas_options(Path(nvcc).parent.parent, work / "cublas"),
        *_driver_options(Path(nvcc).parent.parent),
    ]
    configure = ["cmake", "-G", "Ninja", "-S", str(work), "-B", str(compiling), *options]
    subprocess.run(configure, env=environment, check=True)
    if is_dry:
        return
    subprocess.run(["cmake", "--build", compiling, "--target", *PROGRAMS], env=environment, check=True)
    folder.mkdir(parents=True, exist_ok=True)
    for file in (compiling / "bin").iterdir():
        shutil.copy2(file, folder, follow_symlinks=False)


def _cublas_options(toolkit: Path, headers: Path) -> list[str]:
    """Where cuBLAS is, when CUDA's toolkit has none: among the packages of NVIDIA that torch needs."""
    if (toolkit / "include/cublas_v2.h").exists():
        return []
    found = importlib.util.find_spec("nvidia")
    for package in found.submodule_search_locations or () if found is not None else ():
        for header in sorted(Path(package).glob("*/include/cublas_v2.h"), reverse=True):
            libraries = sorted((header.parents[1] / "lib").glob("libcublas.so*"))
            if libraries:
                headers.mkdir()
                for each in header.parent.glob("cublas*.h"):  # these alone: the toolkit has its own of others
                    (headers / each.name).symlink_to(each)
                return [f"-DCUDA_cublas_LIBRARY={libraries[0]}", f"-DCMAKE_CUDA_FLAGS=-I{headers}"]
    return []


def _driver_options(toolkit: Path) -> list[str]:
    """The driver's own library, when the toolkit has no stub of it; without it, a pool that needs none."""
    if any(toolkit.glob("lib64/stubs/libcuda.so")):
        return []
    for folder in ("/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"):
        for library in sorted(Path(folder).glob("libcuda.so*")):
            return [f"-DCUDA_cuda_driver_LIBRARY={library}"]
    return ["-DGGML_CUDA_NO_VMM=ON"]


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """Paths in llama.cpp's folder, and contents, of the files that are taken."""
    for member in archive:
        root, _, path = member.name.partition("/")
        if root != _BUNDLE_ROOT:
            root, _, path = path.partition(_ROOT)
        is_taken = path.startswith(_TAKEN) or _GGML_FILE.fullmatch(path)
        if member.isfile() and is_taken and not path.endswith(".py"):
            data = archive.extractfile(member)
            assert data is not None
            yield path, data.read()


def _wanted_instances(data: bytes) -> tuple[bytes, list[str]]:
    """The file with the declarations that are wanted, empty without any; and the functions left out."""
    text = data.decode()
    absent = []

    def keep(declaration: re.Match[str]) -> str:
        macro, arguments = declaration.groups()
        if macro.startswith("MMF") or arguments.split(",")[0].strip() in _WANTED:
            return declaration[0]
        absent.append(_ABSENT_FUNCTIONS[macro].format(arguments))
        return ""

    kept = _DECLARATION.sub(keep, text)
    return (kept.encode() if _DECLARATION.search(kept) else b""), absent


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
