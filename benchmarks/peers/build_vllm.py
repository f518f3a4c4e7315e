"""Compile vLLM's exllama and Marlin kernels, from its source distribution, into one library without torch.

    pip download --no-deps --no-binary :all: vllm==0.10.2      # the source distribution, about 10 MB
    python -m peers.build_vllm vllm-0.10.2.tar.gz OUT_FOLDER   # from the folder benchmarks; needs nvcc

What is taken from vLLM is its device code and its own choice of kernels, grids and splits, unchanged: only
the functions that take torch's tensors are cut off (`exllama_launchers.cu`, `marlin_launchers.cu` stand in
their place), and of Marlin's kernels those for fp16 with symmetric 4-bit weights in groups of 128 are
instantiated. vLLM's text lives in the folder of the build alone.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

LIBRARY = "libvllm_linears.so"
VERSION = "0.10.2"

_HERE = Path(__file__).parent
_FOLDERS = ("csrc/quantization/gptq/", "csrc/quantization/gptq_marlin/", "csrc/core/")
_OWN = ("torch_stand_in.h", "exllama_launchers.cu", "marlin_launchers.cu")
_TORCH_HEADERS = ("torch/all.h", "torch/library.h", "ATen/cuda/CUDAContext.h", "c10/cuda/CUDAGuard.h")
_SMALL_CONFIGURATIONS = (
    (128, 128, 256),
    (64, 128, 128),
    (128, 64, 128),
)  # k, n and threads of generate_kernels.py
_LARGE_CONFIGURATIONS = ((64, 256, 256), (64, 128, 128), (128, 64, 128))


def main(arguments: list[str] | None = None) -> None:
    """Build; prints where the library lies."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", type=Path, help=f"vllm-{VERSION}.tar.gz")
    parser.add_argument("folder", type=Path, help="where the library goes")
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--nvcc", default=shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    given = parser.parse_args(arguments)
    print(build(given.sources, given.folder, given.architecture, given.nvcc))


def build(sources: Path, folder: Path, architecture: str, nvcc: str) -> Path:
    """The library in `folder`, from the source distribution `sources`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        _extract(sources, work)
        _cut(work)
        for own in _OWN:
            shutil.copy(_HERE / own, work)
        for header in _TORCH_HEADERS:
            (work / "stubs" / header).parent.mkdir(parents=True, exist_ok=True)
            (work / "stubs" / header).write_text('#include "torch_stand_in.h"\n')
        units = [work / "exllama_launchers.cu", work / "marlin_launchers.cu", *_instantiations(work)]
        return _compile(units, work, folder / LIBRARY, architecture, nvcc)


def _extract(sources: Path, work: Path) -> None:
    """The few folders of `csrc` that are needed, into work/csrc."""
    with tarfile.open(sources) as archive:
        root = archive.getnames()[0].split("/")[0]
        for member in archive:
            path = member.name.removeprefix(f"{root}/")
            if member.isfile() and path.startswith(_FOLDERS):
                data = archive.extractfile(member)
                assert data is not None
                (work / path).parent.mkdir(parents=True, exist_ok=True)
                (work / path).write_bytes(data.read())


def _cut(work: Path) -> None:
    """What follows the kernels and their launches takes tensors: leave it behind."""
    quantization = work / "csrc" / "quantization"
    exllama = (quantization / "gptq" / "q_gemm.cu").read_text()
    (work / "exllama_kernels.cuh").write_text(_before(exllama, "torch::Tensor gptq_gemm("))

    repack = (quantization / "gptq_marlin" / "gptq_marlin_repack.cu").read_text()
    repack = _before(repack, "#define CALL_IF").replace('#include "core/registration.h"', "")
    (work / "marlin_repack.cuh").write_text(repack)

    marlin = (quantization / "gptq_marlin" / "gptq_marlin.cu").read_text()
    marlin = _before(marlin, "torch::Tensor gptq_marlin_gemm(", last=True) + "#endif\n"
    marlin = marlin.replace('#include "core/registration.h"', "")
    chosen = "W_TYPE == vllm::kU4B8 && GROUP_BLOCKS == 8 && std::is_same<scalar_t, half>::value"
    marlin, count = re.subn(
        r"kernel = Marlin<scalar_t,", f"if constexpr ({chosen}) kernel = Marlin<scalar_t,", marlin
    )
    if count != 1:
        raise SystemExit(f"this is not vLLM {VERSION}: Marlin's table of kernels looks different")
    (work / "marlin_gemm.cuh").write_text(marlin)


def _before(text: str, mark: str, *, last: bool = False) -> str:
    at = text.rfind(mark) if last else text.find(mark)
    if at < 0:
        raise SystemExit(f"this is not vLLM {VERSION}: it has no {mark!r}")
    return text[:at]


def _instantiations(work: Path) -> list[Path]:
    """Files that instantiate Marlin as vLLM's `generate_kernels.py` does for the one case measured."""
    rows = {0.5: _SMALL_CONFIGURATIONS, 1: _SMALL_CONFIGURATIONS}
    rows |= dict.fromkeys((2, 3, 4), _LARGE_CONFIGURATIONS)
    cases = list(itertools.chain(*([(m, each) for each in known] for m, known in rows.items())))
    files = []
    for part in range(2):  # compiled at the same time
        lines = ['#include "kernel.h"', '#include "marlin_template.h"', "namespace marlin {"]
        for m_blocks, (thread_k, thread_n, threads) in cases[part::2]:
            lines.append(
                f"template __global__ void Marlin<half, vllm::kU4B8.id(), vllm::kFloat16.id(), {threads}, "
                f"{max(1, int(m_blocks))}, {thread_n // 16}, {thread_k // 16}, "
                f"{'true' if m_blocks == 0.5 else 'false'}, pipe_stages, 8, false>(MARLIN_KERNEL_PARAMS);"
            )
        files.append(work / f"marlin_kernels_{part}.cu")
        files[-1].write_text("\n".join([*lines, "}"]) + "\n")
    return files


def _compile(units: list[Path], work: Path, library: Path, architecture: str, nvcc: str) -> Path:
    csrc = work / "csrc"
    includes = [work, work / "stubs", csrc, csrc / "quantization/gptq", csrc / "quantization/gptq_marlin"]
    options = ["-std=c++17", "-O3", "-DNDEBUG", f"-arch={architecture}", "-Xcompiler=-fPIC", "-cudart=static"]
    options += [
        "--expt-relaxed-constexpr",
        "-static-global-template-stub=false",
        "-w",
        *(f"-I{folder}" for folder in includes),
    ]
    objects = [unit.with_suffix(".o") for unit in units]
    started = [
        subprocess.Popen([nvcc, *options, "-c", str(unit), "-o", str(made)])
        for unit, made in zip(units, objects, strict=True)
    ]
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit("nvcc failed")
    linked = [nvcc, "-shared", *options[3:6], "-o", str(library), *map(str, objects)]
    if subprocess.run(linked, check=False).returncode:
        raise SystemExit("nvcc failed to link")
    return library


if __name__ == "__main__":
    main()
