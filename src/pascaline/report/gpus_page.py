"""The page of `pascaline gpus --html`: every card, sortable, and what the chips' arithmetic costs."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from pascaline.core.units import format_number
from pascaline.hardware.architectures import architectures
from pascaline.hardware.gpus import Gpu
from pascaline.report.gpu_plots import price_of_half, rates_against_bandwidth
from pascaline.report.page import Cell, Column, page, table, web_file

_COLUMNS = (
    Column("Card", "as its maker writes it", is_number=False),
    Column("Architecture", is_number=False),
    Column("Capability", "compute capability"),
    Column("SMs", "streaming multiprocessors"),
    Column("Boost MHz", "the maker's boost clock"),
    Column("Max MHz", "the highest that the driver allows"),
    Column("GB", "memory, in GiB"),
    Column("GB/s", "memory bandwidth, 1e9 bytes a second"),
    Column("L2 MiB", "second-level cache"),
    Column("fp64", "TFLOPS at boost clock"),
    Column("fp32", "TFLOPS at boost clock"),
    Column("Half", "TFLOPS at boost clock, outside of tensor cores"),
    Column("Half / fp32", "how much faster half is than fp32, outside of tensor cores"),
    Column("dp4a", "TOPS at boost clock: int8 dot products outside of tensor cores"),
    Column("Tensor half", "TFLOPS at boost clock, accumulating in fp32, dense"),
    Column("Watts", "the board's limit"),
    Column("Source", is_number=False),
)


def gpus_page(cards: Sequence[Gpu], installed: AbstractSet[str]) -> str:
    """The document.

    Parameters
    ----------
    cards : its rows.
    installed : names of those that are in this machine, which are marked.
    """
    body = (
        "<p>What a card multiplies with, and what feeds it. Rates follow from streaming multiprocessors × "
        "results a clock × the boost clock; an empty cell is a unit that the chip does not have.</p>"
        "<div class='plots'><section><h2>Arithmetic against memory bandwidth</h2>"
        f"{rates_against_bandwidth(cards)}</section>"
        "<section><h2>The price of half precision</h2>"
        "<p>Half does not need tensor cores: 6.0 (Tesla P100) has none, and computes half at twice its fp32 "
        "rate. 6.1 (GTX 10, P40), of the same year, does so at 1/64. Neither the generation nor tensor cores "
        "tell; the chip does.</p>"
        f"{price_of_half(architectures().values())}</section></div>"
        f"<h2>{len(cards)} cards</h2>"
        "<p><label>Filter <input type='search' data-filters='cards' placeholder='pascal 24, 3090, laptop …' "
        "autocomplete='off'></label></p>"
        f"<div id='cards'>{table('Cards', _COLUMNS, [_row(card, installed) for card in cards])}</div>"
        "<p class='fine'>● is in this machine. Rates at the listed boost clock; half and dp4a outside of "
        "tensor cores; tensor rates dense, accumulating in fp32.</p>"
    )
    return page("NVIDIA cards, from Maxwell to Blackwell", body, script=web_file("gpus.js"))


def _row(card: Gpu, installed: AbstractSet[str]) -> list[Cell | str]:
    fp32, half = card.listed_tflops("fp32"), card.listed_tflops("fp16")
    ratio = None if half is None or fp32 is None else half / fp32
    mark = "● " if card.name in installed else ""
    estimated = " (estimated)" if card.is_estimated else ""
    return [
        Cell(f"{mark}{card.name}{estimated}", card.name, title=", ".join(card.aliases)),
        card.architecture.name,
        card.compute_capability,
        str(card.sms),
        str(card.boost_mhz),
        str(card.max_mhz),
        f"{card.memory_gib:g}",
        f"{card.bandwidth_gb_per_s:g}",
        f"{card.l2_mib:g}",
        _rate(card.listed_tflops("fp64")),
        _rate(fp32),
        _rate(half),
        Cell("" if ratio is None else _multiple(ratio), "" if ratio is None else ratio),
        _rate(card.listed_tflops("int8")),
        _rate(card.listed_tflops("tensor_fp16")),
        f"{card.power_w:g}",
        card.source,
    ]


def _rate(tflops: float | None) -> Cell:
    return Cell("", "") if tflops is None else Cell(format_number(tflops, 4), tflops)


def _multiple(ratio: float) -> str:
    return f"{format_number(ratio)}×" if ratio >= 1 else f"1/{format_number(1 / ratio)}"
