"""What linears are specialised for beside the weight: rows, number types, what follows the product."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pascaline.core.errors import ShapeError

NUMBER_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""As platform.cuh numbers them."""

WEIGHT_BUFFERS = ("codes", "scales", "integers", "integers_high", "zeros")
"""Those of a weight in slabs, in the order of `PackedWeight`; all but the first two are null where absent."""

EPILOGUE_BUFFERS = ("bias", "residual", "y")
"""Names of a launch's buffers, in the order of `Epilogue`; `bias` and `residual` are null where absent."""


@dataclass(frozen=True)
class LinearCall:
    """y = x · Wᵀ (+ bias) (+ residual), or SiLU(gate) · up of its halves.

    Parameters
    ----------
    rows, outputs, columns : M, N and K; x is (M, K) and y (M, N), or (M, N / 2) where gated.
    output_dtype : of y and of the residual.
    bias_dtype : None without a bias.
    is_gated : the first half of the outputs are gates of the second.

    Raises
    ------
    ShapeError : there is nothing to do, or a gated product has a residual or an odd number of outputs.
    """

    rows: int
    outputs: int
    columns: int
    input_dtype: torch.dtype = torch.float16
    output_dtype: torch.dtype = torch.float16
    bias_dtype: torch.dtype | None = None
    has_residual: bool = False
    is_gated: bool = False

    def __post_init__(self) -> None:
        if min(self.rows, self.outputs, self.columns) < 1:
            raise ShapeError(f"a product of {self.rows} × {self.columns} × {self.outputs}")
        if self.is_gated and (self.has_residual or self.outputs % 2):
            raise ShapeError(f"a gated product of {self.outputs} outputs, residual: {self.has_residual}")

    @property
    def definitions(self) -> tuple[tuple[str, int], ...]:
        """Macros of epilogue.cuh, and INPUT_TYPE."""
        return (
            ("INPUT_TYPE", NUMBER_TYPES[self.input_dtype]),
            ("OUTPUT_TYPE", NUMBER_TYPES[self.output_dtype]),
            ("HAS_BIAS", int(self.bias_dtype is not None)),
            ("BIAS_TYPE", NUMBER_TYPES[self.bias_dtype or torch.float32]),
            ("HAS_RESIDUAL", int(self.has_residual)),
            ("GATE", int(self.is_gated)),
        )
