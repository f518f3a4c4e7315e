"""Two drawings of the table of cards, as inline SVG: rates against bandwidth, and the price of half."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pascaline.core.units import format_number
from pascaline.hardware.architectures import Architecture, Arithmetic
from pascaline.hardware.gpus import Gpu
from pascaline.report.page import escaped

_SHAPES: Mapping[str, str] = {  # around 0,0; told apart without colour, too
    "circle": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "square": "M-3.6,-3.6h7.2v7.2h-7.2z",
    "triangle": "M0,-5L4.6,3.6H-4.6z",
    "diamond": "M0,-5.4L4.4,0L0,5.4L-4.4,0z",
    "cross": "M-4,-2L-2,-4L0,-2L2,-4L4,-2L2,0L4,2L2,4L0,2L-2,4L-4,2L-2,0z",
}


@dataclass(frozen=True)
class Series:
    """One precision: how it is called and marked."""

    arithmetic: Arithmetic
    label: str
    shape: str
    colour: str
    is_shown: bool = True


SERIES = (
    Series("tensor_fp16", "half on tensor cores", "diamond", "three"),
    Series("fp32", "fp32", "circle", "one"),
    Series("fp16", "half, outside of them", "square", "two"),
    Series("int8", "int8 (dp4a)", "triangle", "four", is_shown=False),
    Series("fp64", "fp64", "cross", "five", is_shown=False),
)


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis: values `low` to `high` lie from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def decades(self) -> list[float]:
        exponents = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
        return [10.0**exponent for exponent in exponents]


def rates_against_bandwidth(cards: Sequence[Gpu]) -> str:
    """TFLOPS over GB/s, both logarithmic; a mark for each card and precision, named when pointed at."""
    points = [
        (card, series, rate)
        for series in SERIES
        for card in cards
        if (rate := card.listed_tflops(series.arithmetic)) is not None
    ]
    if not points:
        return ""
    x = _Axis(*_rounded_range(card.bandwidth_gb_per_s for card in cards), 54, 530)
    y = _Axis(*_rounded_range(rate for _, _, rate in points), 420, 14)
    grid = "".join(
        f"<path class='grid' d='M{x.at(value):.1f},{y.end}V{y.start}'/>"
        f"<text x='{x.at(value):.1f}' y='438' text-anchor='middle'>{value:g}</text>"
        for value in x.decades()
    ) + "".join(
        f"<path class='grid' d='M{x.start},{y.at(value):.1f}H{x.end}'/>"
        f"<text x='48' y='{y.at(value) + 5:.1f}' text-anchor='end'>{value:g}</text>"
        for value in y.decades()
    )
    marks = "".join(
        f"<path class='mark {series.arithmetic}' data-card='{escaped(card.name)}' "
        f"{'' if series.is_shown else 'hidden '}"
        f"style='fill:var(--{series.colour})' d='{_SHAPES[series.shape]}' "
        f"transform='translate({x.at(card.bandwidth_gb_per_s):.1f},{y.at(rate):.1f})'>"
        f"<title>{escaped(card.name)}: {format_number(rate)} TFLOPS {escaped(series.label)}, "
        f"{card.bandwidth_gb_per_s:g} GB/s</title></path>"
        for card, series, rate in points
    )
    return (
        "<figure><div class='legend'>"
        + "".join(map(_legend, SERIES))
        + "</div><svg class='plot' viewBox='0 0 560 466' role='img' aria-label='Arithmetic by precision "
        f"against memory bandwidth'>{grid}{marks}"
        "<text x='301' y='460' text-anchor='middle'>memory bandwidth, GB/s</text>"
        "<text transform='translate(12,217) rotate(-90)' text-anchor='middle'>TFLOPS at boost clock</text>"
        "</svg><figcaption id='pointed' class='fine' aria-live='polite'>Point at a mark to see its card."
        "</figcaption></figure>"
    )


def price_of_half(chips: Iterable[Architecture]) -> str:
    """Half as a multiple of fp32, by capability: outside of tensor cores (bars) and on them (diamonds)."""
    chips = list(chips)
    x = _Axis(1 / 128, 64, 140, 540)
    top, step = 34, 27
    with_tensor_cores = [_ratio(chip, "tensor_fp16") is not None for chip in chips]
    first = with_tensor_cores.index(True)
    border_y = top + step * first + step / 2
    ys = [top + step * (index + (index >= first) + 0.5) for index in range(len(chips))]
    height = top + step * (len(chips) + 1) + 10
    grid = "".join(
        f"<path class='grid{' one' if value == 1 else ''}' d='M{x.at(value):.1f},{top - 8}V{height - 8}'/>"
        f"<text x='{x.at(value):.1f}' y='18' text-anchor='middle'>{_multiple(value)}</text>"
        for value in (1 / 64, 1 / 8, 1, 8, 32)
    )
    border = (
        f"<path class='border' d='M8,{border_y}H272M548,{border_y}h-4'/>"
        f"<text class='alarm' x='540' y='{border_y + 5}' text-anchor='end'>"
        "tensor cores begin below this line</text>"
    )
    rows = "".join(_half_row(chip, x, y) for chip, y in zip(chips, ys, strict=True))
    return (
        f"<figure><svg class='plot' viewBox='0 0 560 {height}' role='img' aria-label='Half arithmetic as a "
        f"multiple of fp32, by compute capability'>{grid}{border}{rows}</svg>"
        "<figcaption class='fine'>Bars: half outside of tensor cores, as a multiple of the chip's fp32 rate. "
        "Diamonds: on tensor cores.</figcaption></figure>"
    )


def _half_row(chip: Architecture, x: _Axis, y: float) -> str:
    label = f"<text x='8' y='{y + 5:.1f}'>{escaped(_short(chip))}</text>"
    ratio = _ratio(chip, "fp16")
    if ratio is None:
        text = f"<text class='soft' x='{x.at(1) + 8:.1f}' y='{y + 5:.1f}'>no half units: converted</text>"
        return label + text
    start, end = sorted((x.at(1), x.at(ratio)))
    name = "slow" if ratio < 1 else "fast"
    text_x, anchor = (start - 6, "end") if ratio < 1 else (end + 6, "start")
    bar = (
        f"<rect class='bar {name}' x='{start:.1f}' y='{y - 8:.1f}' "
        f"width='{max(end - start, 3):.1f}' height='16'>"
        f"<title>{escaped(_short(chip))}: half at {_multiple(ratio)} fp32</title></rect>"
        f"<text class='{name}' x='{text_x:.1f}' y='{y + 5:.1f}' text-anchor='{anchor}'>"
        f"{_multiple(ratio)}</text>"
    )
    tensor = _ratio(chip, "tensor_fp16")
    if tensor is None:
        return label + bar
    diamond = (
        f"<path class='mark' style='fill:var(--three)' d='{_SHAPES['diamond']}' "
        f"transform='translate({x.at(tensor):.1f},{y:.1f})'><title>{escaped(_short(chip))}: tensor cores at "
        f"{_multiple(tensor)} fp32</title></path>"
    )
    return label + bar + diamond


def _legend(series: Series) -> str:
    checked = " checked" if series.is_shown else ""
    return (
        f"<label><input type='checkbox' data-shows='{series.arithmetic}'{checked}>"
        f"<svg width='14' height='14' viewBox='-7 -7 14 14' aria-hidden='true'>"
        f"<path style='fill:var(--{series.colour})' d='{_SHAPES[series.shape]}'/></svg>"
        f"{escaped(series.label)}</label>"
    )


def _ratio(chip: Architecture, arithmetic: Arithmetic) -> float | None:
    rates = chip.operations_per_clock_per_sm
    return rates[arithmetic] / rates["fp32"] if arithmetic in rates else None


def _short(chip: Architecture) -> str:
    return f"{chip.compute_capability} {chip.name.split()[0]}"


def _multiple(ratio: float) -> str:
    return f"{ratio:g}×" if ratio >= 1 else f"1/{1 / ratio:g}"


def _rounded_range(values: Iterable[float]) -> tuple[float, float]:
    """Limits of an axis: a little room at either end, and at least one decade, so that it has ticks."""
    known = list(values)
    low, high = min(known) / 1.3, max(known) * 1.3
    if high / low < 10:
        return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
    return low, high
