"""As fast as the library goes in this arithmetic

## Pattern
The linears already run at what a vendor's matrix products reach in their arithmetic, or read their
weights at what the memory gives. Nothing is wrong; only another unit or another format goes beyond.

## Evidence
Two numbers are told apart: the *roof* (results per clock × multiprocessors × clock), which nothing beats,
and the *library rate*, the share of it that a large matrix product of the vendor's library reaches.
Linears within a fifth of the library rate, or of the bandwidth that engines reach, are at their limit.

## Cause
None: the arithmetic that was chosen is exhausted.

## Remedy
With many rows, the unit with the highest rate that the chip has: four-way 8-bit dot products (dp4a) from
compute capability 6.1, integer tensor cores from 7.5; half arithmetic at twice the fp32 rate on 6.0 (P100).
Bound by memory: fewer bits a weight, or more
sequences in a batch.

## Saving
The linears' time, less their arithmetic at the share of that unit's roof that published engines reach on
chips of this kind. Bound by memory: time times the bits that go, to 4 bits a weight. Modelled, not
measured.

## References
- Williams, Waterman and Patterson 2009, Roofline, Communications of the ACM 52
- https://github.com/ggml-org/llama.cpp/pull/2525 (products on dp4a, P40: 240 to 772 tokens/s)
"""

from __future__ import annotations

from pascaline.diagnose.chip import Chip
from pascaline.diagnose.finding import Found, Saving
from pascaline.diagnose.names import last_names
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import MeasuredRow, Run
from pascaline.hardware.architectures import Arithmetic
from pascaline.report.numbers import bandwidth, rate, seconds, share

_OF_REACHED = 0.8
"""Of what the library, or engines' linears, reach."""
_FEWER_BITS = 4
_MOST_BITS = 32
_UNITS: tuple[Arithmetic, ...] = ("fp32", "tensor_fp16")
_BEYOND: dict[Arithmetic, tuple[Arithmetic, ...]] = {
    "fp32": ("int8", "fp16"),
    "tensor_fp16": ("tensor_int8", "tensor_fp8"),
}
_NAMES: dict[Arithmetic, str] = {
    "fp32": "fp32",
    "fp16": "half arithmetic",
    "tensor_fp16": "fp16 on tensor cores",
    "int8": "8-bit dot products (dp4a)",
    "tensor_int8": "8-bit integers on tensor cores",
    "tensor_fp8": "fp8 on tensor cores",
}
_ROUNDED = (
    ", with activations rounded to 8 bits in groups. llama.cpp multiplies GGUF weights so; pascaline bench"
    " gemm --save measures both on the card at hand."
)
_REMEDIES: dict[Arithmetic, str] = {
    "int8": _NAMES["int8"] + _ROUNDED,
    "tensor_int8": _NAMES["tensor_int8"] + _ROUNDED,
    "tensor_fp8": _NAMES["tensor_fp8"] + ", with activations rounded to 8 bits: vLLM --quantization fp8.",
    "fp16": (
        "half arithmetic, if the model bears its rounding (cublasHgemm, exllama's kernels); pascaline bench"
        " gemm --save measures both on the card at hand."
    ),
}


def check(run: Run) -> Found | None:
    """Linears that their unit or memory cannot do faster."""
    chip = run.chip
    linears = [row for row in run.linears if row.whole_s > 0 and row.whole_flop]
    if chip is None or chip.gpu is None or not linears:
        return None
    return _at_memory(run, linears, chip) or _at_unit(run, linears, chip)


def _at_memory(run: Run, linears: list[MeasuredRow], chip: Chip) -> Found | None:
    limit, usual = chip.bytes_per_s, chip.reached_bytes_per_s
    if limit is None or usual is None:
        return None
    bound = [
        row for row in linears if row.whole_bytes and row.whole_bytes / row.whole_s >= _OF_REACHED * usual
    ]
    whole_s = sum(row.whole_s for row in bound)
    if whole_s < 0.5 * sum(row.whole_s for row in linears):
        return None
    moved = sum(row.whole_bytes or 0.0 for row in bound) / whole_s
    evidence = (
        f"{last_names(bound)}: weights are read at {bandwidth(moved)}, {share(moved, limit)} of the memory's"
        f" {bandwidth(limit)}, in {seconds(whole_s)} of {seconds(run.total_s)}."
    )
    cause = "Already at the roof: the memory's bandwidth, which the weights cross once a step."
    remedy = "More sequences in a batch share one reading of the weights."
    bits = _bits(run)
    if bits is None or bits <= _FEWER_BITS:
        return Found(evidence, cause, remedy, modules=_names(bound))
    goes = 1 - _FEWER_BITS / bits
    return Found(
        evidence=f"{evidence} {seconds(whole_s)} × (1 − {_FEWER_BITS}/{bits}) = {seconds(whole_s * goes)}.",
        cause=cause,
        remedy=f"{remedy} {_FEWER_BITS}-bit weights instead of {bits}-bit ones are read in less time.",
        savings=tuple(Saving(row.index, None, row.whole_s * goes) for row in bound),
    )


def _bits(run: Run) -> int | None:
    """Of a weight: by the checkpoint's settings; 16 where they name a model and no quantisation."""
    bits = run.quantization.get("bits")
    if isinstance(bits, int) and 0 < bits <= _MOST_BITS:
        return bits
    return 16 if "hidden_size" in run.record.model and not run.quantization else None


def _at_unit(run: Run, linears: list[MeasuredRow], chip: Chip) -> Found | None:
    whole_s = sum(row.whole_s for row in linears)
    flop = sum(row.whole_flop or 0.0 for row in linears)
    reached = flop / whole_s
    unit = next((unit for unit in reversed(_UNITS) if chip.ratio(unit) > 0), None)
    library = chip.library(unit) if unit else None
    roof = chip.roof(unit) if unit else None
    if (
        unit is None
        or library is None
        or not roof
        or not library.operations_per_s * _OF_REACHED <= reached <= roof
    ):
        return None
    evidence = (
        f"{last_names(linears)}: {flop / 1e12:.4g} TFLOP in {seconds(whole_s)} of {seconds(run.total_s)},"
        f" with sibling layers, are {rate(reached)}: {share(reached, library.operations_per_s)} of the"
        f" library rate, {rate(library.operations_per_s)} ({library.source}), and {share(reached, roof)} of"
        f" the roof, {rate(roof)} at {chip.measured_clock_mhz or chip.gpu.max_mhz if chip.gpu else 0:.0f}"
        " MHz."
    )
    cause = (
        f"Already at the library rate: the vendor's matrix products in {_NAMES[unit]} go no faster on"
        f" {chip.name}. The roof is {roof / library.operations_per_s:.2f} times that rate: better kernels"
        " could win at most so much."
    )
    beyond = [
        (other, faster)
        for other in _BEYOND[unit]
        if (faster := chip.engine(other)) is not None and faster.operations_per_s > reached
    ]
    if not beyond:
        return Found(
            evidence, cause, "Nothing on this chip is faster in these formats.", modules=_names(linears)
        )
    other, faster = max(beyond, key=lambda each: each[1].operations_per_s)
    after_s = flop / faster.operations_per_s
    return Found(
        evidence=(
            f"{evidence} On {_NAMES[other]} published engines reach {rate(faster.operations_per_s)} on such"
            f" a chip ({faster.source}; roof {rate(chip.roof(other) or 0.0)}): {seconds(flop / reached)}"
            f" become {seconds(after_s)}, modelled."
        ),
        cause=cause,
        remedy=f"Only another unit goes beyond: {_REMEDIES[other]}",
        savings=tuple(Saving(row.index, None, row.whole_s * (1 - after_s / whole_s)) for row in linears),
    )


def _names(rows: list[MeasuredRow]) -> tuple[str, ...]:
    return tuple(row.row.module for row in rows)


RULE = Rule("PAS016", "at-the-library-rate", check)
