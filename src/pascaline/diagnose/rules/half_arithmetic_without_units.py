"""Half arithmetic on a chip that has almost no units for it

## Pattern
Matrix products multiply in half precision on a chip whose half rate is far below its fp32 rate. On compute
capability 6.1 (Tesla P40 and P4, GTX 10xx, TITAN X and Xp) a multiprocessor does 128 fp32 multiply-adds a
clock, and 2 in half: 1/64. (6.0, the P100, does half at twice its fp32 rate: half arithmetic without tensor
cores is not slow as such.)

## Evidence
The kernels (`maxwell_hgemm…`, exllama's `gemm_half_q_half…`) or the engine's decision say half
arithmetic, and the measured rate is no more than the chip's half units allow; or the rate alone is what
they allow and the traffic does not explain it. The rate also tells the clock: it cannot be lower than the
rate over the half operations per clock.

## Cause
Kernels written for chips with fast half arithmetic: the GPTQ kernels of exllama, vLLM and AutoGPTQ write
the weights back as fp16 above some 50 rows and call `cublasHgemm`; below, their own kernels multiply in
half, too.

## Remedy
fp16 storage, fp32 arithmetic: `cublasGemmEx` with fp16 operands and `CUBLAS_COMPUTE_32F` instead of
`cublasHgemm`. `pascaline serve MODEL` does so by itself.

## Saving
The time of those products, less their arithmetic at the rate that the vendor's library reaches in fp32 (a
stated share of the roof), or less their memory traffic, at the bandwidth that engines reach, if that takes
longer. Where FLOP or card are unknown: their time times the half rate over the fp32 rate, divided by the
library's share. Sibling layers that were not recorded count by the recorded layers' share of all layers'
time.

## References
- CUDA C++ Programming Guide 12, arithmetic instructions: throughput by compute capability
- https://github.com/vllm-project/vllm/issues/6567
- https://github.com/ggml-org/llama.cpp/pull/3816 (P40: 338.9 to 934.1 tokens/s)
- https://github.com/turboderp/exllama/issues/75
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pascaline.diagnose.chip import Chip, library_share
from pascaline.diagnose.finding import Found, Saving
from pascaline.diagnose.kernel_names import is_half_gemm
from pascaline.diagnose.names import last_names
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import MeasuredRow, Run
from pascaline.diagnose.work_bound import most_linear_flop_per_s
from pascaline.report.numbers import rate, seconds, share

_SAYS_HALF = re.compile(
    r"half[- ](?:precision )?arithmetic|\bhgemm|compute_16f|fp16 (?:arithmetic|accumulat)"
    r"|accumulat\w* in (?:half|fp16)|multipl\w* in half|on half floats",
    re.I,
)
_SLOW = 0.25
"""Half units at a quarter of the fp32 rate and more are no fault."""
_STATED_UP_TO = 2.0
_UNSTATED = (0.5, 1.25)
"""Times the half roof: how fast products may be that say half, and those that do not. Clocks, and tokens that
were inferred, are known to some ten percent; a card named with --gpu may be a sibling of the one that ran."""
_MOST_TRAFFIC = 0.3
_FEW_TOKENS = 32
_LONGEST_QUOTE = 200


@dataclass(frozen=True)
class _Product:
    """Matrix products in half: a row, or one kernel of it."""

    row: MeasuredRow
    kernel: str | None
    whole_s: float
    flop: float | None

    @property
    def kernel_names(self) -> list[str]:
        return [self.kernel] if self.kernel is not None else [kernel.name for kernel in self.row.kernels]


def check(run: Run) -> Found | None:
    """Products in half arithmetic, on a chip where that is slow."""
    chip = run.chip
    if chip is None or chip.has_tensor_cores or not 0 < chip.ratio("fp16") < _SLOW:
        return None
    products = _products(run)
    is_unknown = any(product.flop is None for product in products)
    most_flop_per_s = most_linear_flop_per_s(run) if is_unknown else None
    mended = [
        (product, after_s)
        for product in products
        if product.whole_s > 0
        and _is_half(product, run, chip, most_flop_per_s)
        and (after_s := _after_s(product, chip)) is not None
        and after_s < product.whole_s
    ]
    if not mended:
        return None
    products = [product for product, _ in mended]
    return Found(
        evidence=_evidence(products, sum(after_s for _, after_s in mended), run, chip),
        cause=(
            f"Half arithmetic at 1/{round(1 / chip.ratio('fp16'))} of the fp32 rate on {chip.sm}"
            f" ({chip.name}): the matrix products multiply and accumulate in half precision, for which this"
            " chip has almost no units."
        ),
        remedy=(
            "fp32 accumulation: keep fp16 storage and compute in fp32 (cublasGemmEx with"
            " CUBLAS_COMPUTE_32F in place of cublasHgemm; kernels for few rows in fp32, too). pascaline"
            " serve MODEL chooses it by itself; llama.cpp with GGUF weights multiplies on the integer"
            " units."
        ),
        savings=tuple(
            Saving(product.row.index, product.kernel, product.whole_s - after_s)
            for product, after_s in mended
        ),
        kernels=tuple(dict.fromkeys(name for product in products for name in product.kernel_names)),
    )


def _products(run: Run) -> list[_Product]:
    """Kernels that are half products, where kernels were timed; else linears as a whole."""
    products = []
    for row in run.rows:
        timed = [kernel for kernel in row.kernels if is_half_gemm(kernel.name) and kernel.s]
        for kernel in timed:
            flop = row.whole_flop if len(timed) == 1 and row.is_linear else None
            products.append(_Product(row, kernel.name, row.whole_kernel_s(kernel), flop))
        if not timed and row.is_linear:
            products.append(_Product(row, None, row.whole_s, row.whole_flop))
    return products


def _is_half(product: _Product, run: Run, chip: Chip, most_flop_per_s: float | None) -> bool:
    row = product.row
    named = product.kernel is not None or any(is_half_gemm(kernel.name) for kernel in row.kernels)
    stated = named or _SAYS_HALF.search(row.decision) is not None
    roof = chip.roof("fp16")
    if product.flop is None or roof is None:
        if named or not stated:
            return named
        return most_flop_per_s is None or roof is None or most_flop_per_s <= _STATED_UP_TO * roof
    measured = product.flop / product.whole_s
    if stated:
        return measured <= _STATED_UP_TO * roof
    return _UNSTATED[0] * roof <= measured <= _UNSTATED[1] * roof and not _may_be_traffic(row, run, chip)


def _may_be_traffic(row: MeasuredRow, run: Run, chip: Chip) -> bool:
    """Reading the weights may explain a low rate, with few rows."""
    if row.whole_bytes is not None and chip.bytes_per_s is not None:
        return row.whole_bytes / chip.bytes_per_s > _MOST_TRAFFIC * row.whole_s
    return row.row.phase == "decode" or (run.step_tokens or 0) < _FEW_TOKENS


def _after_s(product: _Product, chip: Chip) -> float | None:
    library = chip.library("fp32")
    if product.flop is not None and library is not None:
        traffic_s = (product.row.whole_bytes or 0.0) / (chip.reached_bytes_per_s or float("inf"))
        return max(product.flop / library.operations_per_s, traffic_s)
    fraction = library_share(chip.capability, "fp32")
    return None if fraction is None else product.whole_s * chip.ratio("fp16") / fraction.operations_per_s


def _evidence(products: list[_Product], after_s: float, run: Run, chip: Chip) -> str:
    whole_s = sum(product.whole_s for product in products)
    rows = [product.row for product in products]
    sentences = [
        f"{last_names(rows)} take {seconds(whole_s)} of the run's {seconds(run.total_s)}"
        f" ({share(whole_s, run.total_s)})."
    ]
    if any(row.layers_per_recorded > 1 for row in rows):
        recorded_s = sum(row.s for row in rows)
        sentences.append(
            f"(The record holds {seconds(recorded_s)} of that: there are"
            f" {round(max(row.layers_per_recorded for row in rows))} times as many layers as it lists, whose"
            " time is divided as in the listed ones.)"
        )
    flop = sum(product.flop or 0.0 for product in products)
    roof, library, fraction = chip.roof("fp16"), chip.library("fp32"), library_share(chip.capability, "fp32")
    if flop and roof and library and chip.gpu:
        clock_mhz = chip.measured_clock_mhz or chip.gpu.max_mhz
        fastest = max(product.flop / product.whole_s for product in products if product.flop)
        least_mhz = fastest / (roof / clock_mhz)
        doubt = (
            f", more than this card's {clock_mhz:.0f} MHz: is it another one?"
            if least_mhz > clock_mhz
            else ""
        )
        sentences.append(
            f"Their {flop / 1e12:.4g} TFLOP run at {rate(flop / whole_s)}; the half units allow"
            f" {rate(roof)} at {clock_mhz:.0f} MHz, fp32 {rate(chip.roof('fp32') or 0.0)} (the fastest"
            f" product shows a clock of at least {least_mhz:.0f} MHz{doubt})."
        )
        sentences.append(
            f"At the {rate(library.operations_per_s)} that the vendor's library reaches in fp32"
            f" ({library.source}) they take {seconds(after_s)}: {seconds(run.total_s)} − {seconds(whole_s)}"
            f" + {seconds(after_s)} = {seconds(run.total_s - whole_s + after_s)}."
        )
    elif fraction is not None:
        sentences.append(
            "FLOP or card are unknown. In fp32, where the vendor's library reaches"
            f" {fraction.operations_per_s:.2f} of the roof ({fraction.source}), they take"
            f" {seconds(whole_s)} × {chip.ratio('fp16'):.4g} ÷ {fraction.operations_per_s:.2f} ="
            f" {seconds(after_s)}."
        )
    decisions = dict.fromkeys(row.row.decision.reason for row in rows if row.row.decision)
    return " ".join([*sentences, *(f"The engine says: “{reason[:_LONGEST_QUOTE]}”." for reason in decisions)])


RULE = Rule("PAS001", "half-arithmetic-without-units", check)
