"""store_rows: a step's keys or values go to their places in the pages.

cache[slots[t] // B, slots[t] % B] = rows[t], with B tokens a page. A negative slot is no place: its row is
left out. A cache of fp16 takes the nearest numbers that it has, the largest ones for those beyond.

A cache of int8 takes codes, and `scales` what each token's head of them is multiplied with:

    scales[page, h, place] = max |rows[t, h]| / 127,    cache[page, place, h] = rint(rows[t, h] / scale)

Codes of a head without a number above LEAST are zeros.
"""

from __future__ import annotations

import torch

from pascaline.kernels.cpu.native_kernel import halves_or_fp32, native_kernel
from pascaline.kernels.cuda.op_kernel import cuda_kernel
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.cuda.store_rows import plan_store_rows
from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import FP32_ROUNDING, Case, Op, Operand, Tolerance
from pascaline.workload.op_costs import Axes

FP16_LARGEST = torch.finfo(torch.float16).max
LARGEST_CODE = 127
LEAST = 1e-30
"""The inverse of a smaller scale may be infinite."""


def scaled(rows: torch.Tensor) -> torch.Tensor:
    """Rows (T, KV, D) in units of their heads' scales: what codes are nearest to."""
    largest = rows.abs().amax(-1, keepdim=True)
    return rows * torch.where(largest > LEAST, LARGEST_CODE / largest, 0.0)


def _put(cache: torch.Tensor, slots: torch.Tensor, rows: torch.Tensor) -> None:
    """Rows of slots that are places, into `cache` (P, B, …)."""
    placed = slots >= 0
    slots = slots[placed]
    cache.index_put_((slots // cache.shape[1], slots % cache.shape[1]), rows[placed].to(cache.dtype))


def reference(
    rows: torch.Tensor, slots: torch.Tensor, cache: torch.Tensor, scales: torch.Tensor | None = None
) -> torch.Tensor:
    """The cache, codes as numbers, too."""
    updated = cache.to(rows.dtype, copy=True)
    _put(updated, slots, rows if scales is None else scaled(rows).round())
    return updated


def error_bound(
    rows: torch.Tensor, slots: torch.Tensor, cache: torch.Tensor, scales: torch.Tensor | None = None
) -> torch.Tensor:
    bound = torch.zeros(cache.shape, dtype=rows.dtype)
    if scales is not None:
        exact = scaled(rows)
        to_a_tie = 0.5 - (exact - exact.round()).abs()
        _put(bound, slots, (to_a_tie <= 3 * FP32_ROUNDING * exact.abs()).to(rows.dtype))
    return bound


def launch(
    rows: torch.Tensor,
    slots: torch.Tensor,
    cache: torch.Tensor,
    scales: torch.Tensor | None = None,
    *,
    out: torch.Tensor,
    workspace: Workspace,
) -> None:
    if scales is not None:
        _put(scales.transpose(1, 2), slots, rows.abs().amax(-1) / LARGEST_CODE)
        rows = scaled(rows).round()
    elif out.dtype == torch.float16:
        rows = rows.clamp(-FP16_LARGEST, FP16_LARGEST)
    _put(out, slots, rows)


def scales_fit(cache: torch.Tensor, *scales: object) -> str | None:
    """None where codes have scales (P, KV, B) in one piece, and other numbers none; else the reason."""
    pages, page_size, heads, _ = cache.shape
    for each in scales:
        if not isinstance(each, torch.Tensor):
            if cache.dtype == torch.int8:
                return "it stores and reads codes with their scales only"
        elif cache.dtype != torch.int8 or each.shape != (pages, heads, page_size) or not each.is_contiguous():
            return "it takes scales of codes only, in one piece"
    return None


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens, pages, page_size, heads, width = (case.axes[axis] for axis in ("T", "P", "B", "KV", "D"))
    slots = torch.randperm(pages * page_size, generator=generator)[:tokens]
    slots[3::8] = -1
    rows = torch.randn(tokens, heads, width, generator=generator)
    shape = (pages, page_size, heads, width)
    if "int8" not in case.name:
        return rows, slots, torch.randn(shape, generator=generator), None
    codes = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
    return rows, slots, codes, torch.rand(pages, heads, page_size, generator=generator)


OP = Op(
    name="store_rows",
    axes={"T": "tokens", "P": "pages", "B": "tokens a page", "KV": "key/value heads", "D": "head size"},
    inputs={
        "rows": Operand(("T", "KV", "D")),
        "slots": Operand(("T",), torch.int64),
        "cache": Operand(("P", "B", "KV", "D"), also=(torch.float16, torch.bfloat16, torch.int8)),
        "scales": Operand(("P", "KV", "B"), optional=True),
    },
    output=Operand(("P", "B", "KV", "D")),
    in_place="cache",
    also_written=("scales",),
    reference=reference,
    cases=(
        Case("one token", {"T": 1, "P": 1, "B": 16, "KV": 3, "D": 64}),
        Case("a page and a half in int8", {"T": 24, "P": 4, "B": 16, "KV": 2, "D": 8}),
        Case("a page and a half", {"T": 24, "P": 4, "B": 16, "KV": 2, "D": 8}),
    ),
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=error_bound,
        derivation="a copy: bit for bit. A code is rint of x · (127 / max), which errs by u twice: it may be "
        "the next one where x · 127 / max is nearer to a tie than 3 · u times itself",
    ),
    source="Kwon et al. 2023, arXiv:2309.06180, section 4.1",
)

KERNEL = Kernel(
    name="torch.store_rows",
    ops=("store_rows",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    launch=launch,
)


def _recipe(
    _chip: ChipLimits,
    rows: torch.Tensor,
    _slots: torch.Tensor,
    cache: torch.Tensor,
    _scales: torch.Tensor | None,
) -> Recipe:
    return Recipe((plan_store_rows(rows, cache),) if rows.numel() else ())


def _takes(_sizes: Axes, operands: tuple[object, ...]) -> str | None:
    _, _, cache, scales = operands
    assert isinstance(cache, torch.Tensor)  # noqa: S101 - the op's operands
    return scales_fit(cache, scales)


NATIVE = native_kernel(OP, operands=3, takes=halves_or_fp32)

CUDA = cuda_kernel(OP, _recipe, takes=_takes)
