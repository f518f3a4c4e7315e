"""vLLM's exllama and Marlin linears with all that they launch: the library of `peers/build_vllm.py`."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from linears.cases import Shape
from linears.way import Way, copies_of
from linears.weights import Int4Weight
from pascaline.core.errors import CudaError

_MOST_EXLLAMA_ROWS = 50
"""vLLM's MAX_Q_GEMM_ROWS: above, it dequantises and calls cuBLAS."""

_MOST_MARLIN_ROWS, _MARLIN_OUTPUTS = 64, 256
_CUBLAS = ("libcublas.so.13", "libcublas.so.12")


class Peers:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises
        ------
        OSError : it is not there, or does not load.
        """
        self._library = ctypes.CDLL(str(path))
        self._library.peer_error.restype = ctypes.c_char_p

    def exllama(self, weight: Int4Weight, inputs: torch.Tensor, least_streamed_bytes: int) -> Way:
        """`gptq_gemm` with its shuffled weights and no permutation."""
        shape, rows, device = weight.shape, len(inputs), inputs.device
        words, zeros, scales = weight.gptq_words(), weight.gptq_zeros(), weight.gptq_scales()
        self._call("peer_exllama_shuffle", words, ctypes.c_int(shape.inputs), ctypes.c_int(shape.outputs))
        nbytes = _bytes_of(words, zeros, scales)
        copies = copies_of(nbytes, least_streamed_bytes)
        tensors = [
            (words, zeros, scales),
            *((words.clone(), zeros.clone(), scales.clone()) for _ in range(copies - 1)),
        ]
        output = torch.full((rows, shape.outputs), float("nan"), dtype=torch.float16, device=device)
        uses_cublas = rows > _MOST_EXLLAMA_ROWS
        # vLLM allocates it for every row count; it is written above 50 rows only.
        dequantised = torch.empty(
            (shape.inputs, shape.outputs) if uses_cublas else (1,), dtype=torch.float16, device=device
        )
        hgemm = _cublas_hgemm() if uses_cublas else None
        sizes = [ctypes.c_int(size) for size in (rows, shape.outputs, shape.inputs, scales.shape[0])]

        def launch(copy: int) -> None:
            # torch's handle for the current stream: it has the workspace that graphs need.
            # torch gives it no types.
            handle = torch.cuda.current_blas_handle() if uses_cublas else None  # type: ignore[no-untyped-call]
            library = (ctypes.c_void_p(hgemm), ctypes.c_void_p(handle))
            self._call("peer_exllama_gemm", *library, inputs, *tensors[copy], output, dequantised, *sizes)

        return Way("exllama", "peer", "half", copies, nbytes, launch, output, details={"cublas": uses_cublas})

    def marlin(self, weight: Int4Weight, inputs: torch.Tensor, least_streamed_bytes: int) -> Way:
        """`gptq_marlin_gemm` as vLLM calls it: fp32 reduction, no atomic additions, no activation order."""
        shape, rows, device = weight.shape, len(inputs), inputs.device
        packed, scales = self.marlin_weight(weight.gptq_words(), shape), weight.marlin_scales()
        nbytes = _bytes_of(packed, scales)
        copies = copies_of(nbytes, least_streamed_bytes)
        tensors = [(packed, scales), *((packed.clone(), scales.clone()) for _ in range(copies - 1))]
        output = torch.full((rows, shape.outputs), float("nan"), dtype=torch.float16, device=device)
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        partial_rows = min(-(-rows // 16) * 16, _MOST_MARLIN_ROWS)
        partial_sums = torch.empty(multiprocessors * partial_rows * _MARLIN_OUTPUTS, device=device)
        workspace = torch.zeros(multiprocessors, dtype=torch.int32, device=device)
        sizes = [ctypes.c_int(size) for size in (rows, shape.outputs, shape.inputs)]

        def launch(copy: int) -> None:
            weights, factors = tensors[copy]
            self._call("peer_marlin_gemm", inputs, weights, output, partial_sums, factors, workspace, *sizes)

        return Way("marlin", "peer", "half", copies, nbytes, launch, output)

    def marlin_weight(self, words: torch.Tensor, shape: Shape) -> torch.Tensor:
        """int32 (K / 16, 2 · N), by vLLM's own kernel, from GPTQ's words."""
        packed = torch.empty(shape.inputs // 16, shape.outputs * 2, dtype=torch.int32, device=words.device)
        self._call(
            "peer_marlin_repack", words, packed, ctypes.c_int(shape.inputs), ctypes.c_int(shape.outputs)
        )
        return packed

    def _call(self, name: str, *arguments: object) -> None:
        """Launch in the current stream, tensors by their addresses.

        Raises
        ------
        CudaError : vLLM's checks, or the launch, say no.
        """
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        given = [
            ctypes.c_void_p(each.data_ptr()) if isinstance(each, torch.Tensor) else each for each in arguments
        ]
        if self._library[name](*given, stream):
            raise CudaError(f"{name}: {self._library.peer_error().decode(errors='replace')}")


def _bytes_of(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _cublas_hgemm() -> int:
    """The address of the function that vLLM calls above 50 rows, in the cuBLAS that torch loaded."""
    for name in _CUBLAS:
        try:
            function = ctypes.CDLL(name).cublasHgemm
        except (OSError, AttributeError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    raise CudaError(f"none of {', '.join(_CUBLAS)} is loaded", remedy="torch brings one")
