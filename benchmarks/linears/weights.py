"""One random 4-bit weight, as each side wants it, and its products in fp64."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from linears.cases import GROUP_SIZE, Shape
from pascaline.weights import Packed
from pascaline.weights.codes import Codes
from pascaline.weights.slab_layout import to_slabs
from pascaline.weights.slabbed import Slabbed

_ZERO = 8
_MARLIN_BLOCK = 64


@dataclass(frozen=True)
class Int4Weight:
    """w[n, k] = scales[n, k / 128] · (codes[n, k] − 8).

    Parameters
    ----------
    codes : uint8 (N, K), 0 to 15.
    scales : fp16 (N, K / 128).
    """

    shape: Shape
    codes: torch.Tensor
    scales: torch.Tensor

    def dequantised(self, dtype: torch.dtype) -> torch.Tensor:
        """(N, K)."""
        values = torch.empty(self.codes.shape, dtype=dtype, device=self.codes.device)
        groups = self.shape.inputs // GROUP_SIZE
        for first in range(0, len(values), 4096):
            part = slice(first, first + 4096)
            integers = self.codes[part].double().sub_(_ZERO).view(-1, groups, GROUP_SIZE)
            values[part] = (integers * self.scales[part].double()[..., None]).flatten(1).to(dtype)
        return values

    def packed(self) -> Packed:
        """As our formats read it from a GPTQ checkpoint without an order of activations."""
        codes = Codes.pack(self.codes, 4)
        return Packed(codes, GROUP_SIZE, GROUP_SIZE, self.scales, zero=_ZERO)

    def slabbed(self) -> Slabbed:
        """As our CUDA kernels read it."""
        return to_slabs(self.packed())

    def gptq_words(self) -> torch.Tensor:
        """int32 (K / 8, N): the low nibble is the first of 8 inputs."""
        words = torch.empty(
            self.shape.inputs // 8, self.shape.outputs, dtype=torch.int32, device=self.codes.device
        )
        for first in range(0, self.shape.outputs, 4096):
            part = slice(first, first + 4096)
            nibbles = self.codes[part].view(-1, self.shape.inputs // 8, 8).int()
            packed = nibbles[..., 0]
            for place in range(1, 8):
                packed = packed | nibbles[..., place] << 4 * place
            words[:, part] = packed.t()
        return words

    def gptq_zeros(self) -> torch.Tensor:
        """int32 (K / 128, N / 8): zeros of 8, of which GPTQ's first format stores one less."""
        shape = (self.shape.inputs // GROUP_SIZE, self.shape.outputs // 8)
        return torch.full(shape, 0x77777777, dtype=torch.int32, device=self.codes.device)

    def gptq_scales(self) -> torch.Tensor:
        """fp16 (K / 128, N)."""
        return self.scales.t().contiguous()

    def marlin_scales(self) -> torch.Tensor:
        """fp16 (K / 128, N) in the order of vLLM's `marlin_permute_scales`: 8 × 8 blocks transposed."""
        blocks = self.gptq_scales().view(-1, _MARLIN_BLOCK // 8, 8)
        return blocks.transpose(1, 2).reshape(-1, self.shape.outputs).contiguous()


def random_int4(shape: Shape, generator: torch.Generator) -> Int4Weight:
    """Codes and scales of no structure, on the generator's device."""
    device, outputs, inputs = generator.device, shape.outputs, shape.inputs
    codes = torch.randint(0, 16, (outputs, inputs), generator=generator, dtype=torch.uint8, device=device)
    spread = torch.rand(outputs, inputs // GROUP_SIZE, generator=generator, device=device)
    return Int4Weight(shape, codes, ((spread + 0.5) / 256).half())


def log_normal_inputs(rows: int, inputs: int, generator: torch.Generator) -> torch.Tensor:
    """fp16 (rows, inputs), ± exp(z) for z of the standard normal distribution."""
    device = generator.device
    magnitudes = torch.randn(rows, inputs, generator=generator, device=device).exp_()
    signs = torch.randint(0, 2, (rows, inputs), generator=generator, device=device) * 2 - 1
    return (magnitudes * signs).half()


def exact_product(inputs: torch.Tensor, weight64: torch.Tensor) -> torch.Tensor:
    """fp64 (M, N) of fp16 inputs (M, K) and the weight (N, K) in fp64."""
    return inputs.double() @ weight64.t()
