"""What torch's libraries do with the dequantised weight: for reference, and for the SIMT kernels."""

from __future__ import annotations

import torch

from linears.way import Way, copies_of
from linears.weights import Int4Weight


def cublas_half(weight: Int4Weight, inputs: torch.Tensor, least_streamed_bytes: int) -> Way:
    """`torch.mm` in fp16 with a dense weight, as `nn.Linear` multiplies it."""
    return dense("torch fp16", "half", weight.dequantised(torch.float16), inputs, least_streamed_bytes)


def cublas_single(weight: Int4Weight, inputs: torch.Tensor, least_streamed_bytes: int) -> Way:
    """`torch.mm` in fp32 without TF32: what chips without tensor cores have."""
    torch.backends.cuda.matmul.allow_tf32 = False
    return dense(
        "torch fp32", "exact", weight.dequantised(torch.float32), inputs.float(), least_streamed_bytes
    )


def dense(
    name: str, accuracy: str, weight: torch.Tensor, inputs: torch.Tensor, least_streamed_bytes: int
) -> Way:
    """`torch.mm` with a weight (N, K) of the inputs' dtype."""
    nbytes = weight.numel() * weight.element_size()
    copies = copies_of(nbytes, least_streamed_bytes)
    weights = [weight, *(weight.clone() for _ in range(copies - 1))]
    output = torch.full((len(inputs), len(weight)), float("nan"), dtype=weight.dtype, device=weight.device)

    def launch(copy: int) -> None:
        torch.mm(inputs, weights[copy].t(), out=output)

    return Way(name, "library", accuracy, copies, nbytes, launch, output)
