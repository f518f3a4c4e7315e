"""What a kernel's name says about its arithmetic and its job.

Names are the only thing that every profiler reports. Sources: the names that cuBLAS, cuDNN, CUTLASS,
PyTorch, exllama, vLLM and llama.cpp give their kernels, as traces in public issues show them.
"""

from __future__ import annotations

import functools
import re

_NAMES = 1 << 12
"""Kernels of a run: each is asked about many times."""
_LONGEST = 1 << 10
"""Of a name that is looked at: a hostile one may have millions of characters."""
_TENSOR = re.compile(
    r"884|1688|8816|16816|16832|161616|tensorop|[hi]mma|xmma|wgmma|marlin|nvjet|(?:^|_)mma_", re.I
)
_NOT_TENSOR = re.compile(r"simt|ffma|dfma", re.I)
_HALF_GEMM = re.compile(
    r"\bhgemm|_hgemm|gemm_half_q_half|q4_matmul_kernel|VecQuant\dMatMulKernelFaster|hgemv", re.I
)
_SINGLE_GEMM = re.compile(
    r"sgemm|sgemv|gemm_f32f32_f32f32_f32.*ffma|gemv?SN_[TN]+_kernel<float|gemmk1_kernel<float", re.I
)
_DOUBLE_GEMM = re.compile(r"dgemm|dgemv|d884|gemv?SN_[TN]+_kernel<double", re.I)
_DOUBLE = re.compile(r"[<, ]double[>, ]|float64", re.I)
_DEQUANTISE = re.compile(r"reconstruct|dequant", re.I)
_HALF_ELEMENTWISE = re.compile(
    r"(?:elementwise|softmax|layer_?norm|reduce|cat|index|copy).*(?:c10::Half|__half)", re.I
)
_GATHER = re.compile(r"index_?select|gather|g_idx|act_order|permute_cols|column_remap", re.I)


@functools.lru_cache(_NAMES)
def is_tensor_core(name: str) -> bool:
    """A matrix product on tensor cores."""
    return _has(_TENSOR, name) and not _has(_NOT_TENSOR, name)


@functools.lru_cache(_NAMES)
def is_half_gemm(name: str) -> bool:
    """A matrix product whose multiplications are half arithmetic, without tensor cores."""
    return _has(_HALF_GEMM, name) and not is_tensor_core(name)


@functools.lru_cache(_NAMES)
def is_single_gemm(name: str) -> bool:
    """A matrix product in fp32, without tensor cores."""
    return _has(_SINGLE_GEMM, name) and not is_tensor_core(name)


@functools.lru_cache(_NAMES)
def is_double_gemm(name: str) -> bool:
    """A matrix product in fp64."""
    return _has(_DOUBLE_GEMM, name)


@functools.lru_cache(_NAMES)
def is_double(name: str) -> bool:
    """A matrix product or elementwise kernel in fp64."""
    return is_double_gemm(name) or _has(_DOUBLE, name)


@functools.lru_cache(_NAMES)
def is_dequantisation(name: str) -> bool:
    """Writes packed weights back as floating point."""
    return _has(_DEQUANTISE, name)


@functools.lru_cache(_NAMES)
def is_half_elementwise(name: str) -> bool:
    """One of torch's kernels without a matrix product, on half-precision tensors."""
    return _has(_HALF_ELEMENTWISE, name)


@functools.lru_cache(_NAMES)
def is_gather(name: str) -> bool:
    """Picks rows or columns by an index."""
    return _has(_GATHER, name)


def _has(pattern: re.Pattern[str], name: str) -> bool:
    return pattern.search(name, 0, _LONGEST) is not None
