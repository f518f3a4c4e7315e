"""llama.cpp's CUDA kernels of January 2024, compiled for sm_61 out of llama-cpp-python's source distribution.

They are in one file with all of its host code, which NVRTC does not compile: of the text, what stands before
a few declarations is left out, and what it needs of the host's headers is given in their place. Nothing of
it is kept.
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from timing_model import Kernel, read_kernel

from pascaline.core.errors import UnsupportedError
from pascaline.hardware.nvrtc import find_nvrtc

VERSION = "0.2.29"
_MEMBER = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/ggml-cuda.cu"
_ARCHITECTURE = "sm_61"
_IN_PLACE_OF_HEADERS = """
typedef signed char int8_t; typedef unsigned char uint8_t;
typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t;
typedef long long int64_t; typedef unsigned long long uint64_t;
typedef unsigned short ggml_fp16_t;
struct ggml_tensor;
#include <cuda_fp16.h>
#define QK_K 256
#define K_SCALE_SIZE 12
#define GGML_CUDA_MMV_Y 1
#define K_QUANTS_PER_ITERATION 2
#define GGML_CUDA_ASSUME(x) __builtin_assume(x)
#define GGML_ASSERT(x)
#define GGML_UNUSED(x) (void)(x)
"""
_DEFINES = re.compile(r"^#define (?:CC_\w+|CUDART_\w+|WARP_SIZE|MATRIX\w+)\s.*$", re.MULTILINE)


@dataclass(frozen=True)
class LlamaFormat:
    """One of its formats.

    Parameters
    ----------
    block : weights of a block, and `block_bytes` its size.
    step : inputs of one trip of the tiled kernel's outer loop.
    """

    name: str
    block: int
    block_bytes: int
    step: int

    @property
    def bits(self) -> float:
        return 8 * self.block_bytes / self.block


FORMATS = (
    LlamaFormat("Q4_0", 32, 18, 256),
    LlamaFormat("Q4_1", 32, 20, 256),
    LlamaFormat("Q5_0", 32, 22, 256),
    LlamaFormat("Q8_0", 32, 34, 128),
    LlamaFormat("Q4_K", 256, 144, 256),
)


@dataclass(frozen=True)
class LlamaKernels:
    """A format's two kernels: many rows (mul_mat_q) and one row (mul_mat_vec_q)."""

    tiled: Kernel
    vector: Kernel


def compile_kernels(distribution: Path, form: LlamaFormat) -> LlamaKernels:
    """Compile a format's kernels.

    Parameters
    ----------
    distribution : llama_cpp_python-0.2.29.tar.gz, as `pip download --no-deps --no-binary llama-cpp-python
        llama-cpp-python==0.2.29` gives it.

    Raises
    ------
    UnsupportedError : it is another file, or there is no NVRTC for sm_61.
    CompileError : the text is not what is expected.
    """
    nvrtc = find_nvrtc(_ARCHITECTURE)
    tiled, vector = f"mul_mat_{_lower(form.name)}<false>", _vector_kernel(form.name)
    options = ["--std=c++17", "-default-device", "-use_fast_math", f"-I{nvrtc.headers}"]
    compiled = nvrtc.compile(
        _device_code(distribution),
        _ARCHITECTURE,
        options=options,
        names=[tiled, vector],
        file_name="ggml-cuda.cu",
    )
    return LlamaKernels(
        *(read_kernel(compiled.cubin, compiled.lowered_names[name]) for name in (tiled, vector))
    )


def _lower(name: str) -> str:
    return name.replace("Q", "q")


def _vector_kernel(name: str) -> str:
    number = name.removeprefix("Q")
    block = "QK_K" if name.endswith("K") else f"QK{number}"
    lower = _lower(name)
    dot = f"VDR_{name}_Q8_1_MMVQ, vec_dot_{lower}_q8_1"
    return f"mul_mat_vec_q<{block}, QI{number}, block_{lower}, {dot}>"


def _device_code(distribution: Path) -> str:
    try:
        with tarfile.open(distribution) as archive:
            member = archive.extractfile(_MEMBER)
            text = member.read().decode() if member else ""
    except (OSError, KeyError, tarfile.TarError) as error:
        raise UnsupportedError(
            f"{distribution} is no source of llama-cpp-python {VERSION}: {error}"
        ) from error
    formats = _between(text, "#ifdef GGML_CUDA_F16\ntypedef half dfloat", "#define MUL_MAT_SRC1_COL_STRIDE")
    helpers = _between(
        text, "[[noreturn]]\nstatic __device__ void bad_arch", "inline bool ggml_cuda_supports_mmq"
    )
    after = text[text.index("\n}\n", text.index("inline bool ggml_cuda_supports_mmq")) + 3 :]
    kernels = after[: after.index("static __global__ void dequantize_mul_mat_vec(")]
    kernels = kernels[: kernels.rindex("template <int qk")]
    return "\n".join([_IN_PLACE_OF_HEADERS, *_DEFINES.findall(text), formats, helpers, kernels])


def _between(text: str, first: str, end: str) -> str:
    start = text.index(first)
    return text[start : text.index(end, start)]
