"""Ways to compute attention: ours over pages, torch's over keys and values that lie dense."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from linears.way import Way, relative_error
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from attention.cases import HEAD_DIM, HEADS, KEY_VALUE_HEADS, MOST_ERROR, SCALE
from attention.operands import Buffers, Operands, copies
from pascaline.kernels.cuda.attention_call import AttentionCall
from pascaline.kernels.cuda.attention_decode import plan_attention_decode
from pascaline.kernels.cuda.attention_prefill import plan_attention_prefill
from pascaline.kernels.cuda.recipe import BoundRecipe, Kernels, Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
_MARGIN = 1024
"""Elements before and behind an output, which nothing may write."""


def ours(kernels: Kernels, chip: ChipLimits, operands: Operands, dtype: torch.dtype) -> Way:
    """As an engine launches it: decode alone for steps of one token a sequence, else decode and prefill."""
    sequences, tokens = operands.queries.shape[:2]
    call = AttentionCall(
        tokens=sequences * tokens,
        sequences=sequences,
        table_width=operands.table.shape[1],
        heads=HEADS,
        key_value_heads=KEY_VALUE_HEADS,
        head_dim=HEAD_DIM,
        query_stride=HEADS * HEAD_DIM,
        cache_dtype=dtype,
        scale=SCALE,
    )
    decode = plan_attention_decode(call, chip)
    recipe = Recipe((decode,) if tokens == 1 else (decode, plan_attention_prefill(call, chip)))
    caches, nbytes = copies(operands.paged(dtype))
    count = sequences * tokens * HEADS * HEAD_DIM
    device = operands.queries.device
    whole = torch.full((count + 2 * _MARGIN,), float("nan"), device=device)
    output = whole[_MARGIN : _MARGIN + count].view(sequences * tokens, -1)
    shared: Buffers = {**operands.tables(), "y": output}
    bound = [BoundRecipe(kernels, recipe, {**each, **shared}, ()) for each in caches]

    def launch(copy: int) -> None:
        bound[copy](torch.cuda.current_stream().cuda_stream)

    def is_intact() -> bool:
        return bool(whole[:_MARGIN].isnan().all()) and bool(whole[_MARGIN + count :].isnan().all())

    details = {"geometry": repr(decode.geometry), "grid": decode.grid, "launches": len(recipe.steps)}
    name = f"ours {str(dtype).removeprefix('torch.')}"
    return Way(name, "ours", "exact", len(bound), nbytes, launch, output, is_intact, details)


def library_ways(operands: Operands, reference: torch.Tensor, refused: dict[str, str]) -> Iterator[Way]:
    """torch's, each held against the reference; `refused` gets the reasons of backends that do not do it."""
    keys, values = operands.dense()
    caches, nbytes = copies({"keys": keys, "values": values})
    for backend in BACKENDS:
        for is_packed in (False, True) if operands.queries.shape[1] == 1 else (False,):
            attended = _Attended(operands, caches, BACKENDS[backend], is_packed=is_packed)
            name = f"torch {backend}" + (", heads as queries" if is_packed else "")
            try:
                attended(0)
                error = relative_error(attended.output(), reference)
                if not error <= MOST_ERROR:
                    raise ValueError(f"wrong: {error:.2g} off")
            except (RuntimeError, ValueError) as reason:
                refused[name] = str(reason).partition("\n")[0]
                continue
            # Where it writes is torch's own to choose each time.
            details = {"error_before": error}
            yield Way(
                *(name, "library", "half", len(caches), nbytes, attended, torch.empty(0)), details=details
            )


class _Attended:
    """torch's attention with copy i of the caches.

    Parameters
    ----------
    is_packed : a group's heads are passed as so many queries of one head; without a mask that is the same.
    """

    def __init__(
        self, operands: Operands, caches: list[Buffers], backend: SDPBackend, *, is_packed: bool
    ) -> None:
        self._caches = caches
        self._backend = backend
        self._is_packed = is_packed
        self._sequences, tokens = operands.queries.shape[:2]
        self._queries = operands.queries.transpose(1, 2).contiguous()
        if is_packed:
            self._queries = self._queries.view(self._sequences, KEY_VALUE_HEADS, -1, HEAD_DIM)
        self._is_square = tokens == operands.context
        needs_bias = tokens > 1 and not self._is_square
        self._bias = causal_lower_right(tokens, operands.context) if needs_bias else None
        self._found = torch.empty(0)

    def __call__(self, copy: int) -> None:
        keys, values = self._caches[copy]["keys"], self._caches[copy]["values"]
        assert keys is not None
        assert values is not None
        with sdpa_kernel(self._backend):
            self._found = F.scaled_dot_product_attention(
                self._queries,
                keys,
                values,
                self._bias,
                is_causal=self._is_square,
                scale=SCALE,
                enable_gqa=not self._is_packed,
            )

    def output(self) -> torch.Tensor:
        """(S · N, H · D), of the latest call."""
        found = self._found
        if self._is_packed:
            found = found.reshape(self._sequences, HEADS, 1, HEAD_DIM)
        return found.transpose(1, 2).reshape(-1, HEADS * HEAD_DIM)
