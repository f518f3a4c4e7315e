"""pascaline gpus: the cards side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pascaline.cli.options import HtmlOption, JsonOption
from pascaline.cli.output import new_table, open_console, print_json, say, write_page
from pascaline.core.units import format_number

if TYPE_CHECKING:
    from pascaline.hardware.gpus import Gpu

_WIDE, _NARROW = 132, 76
"""Columns of a terminal: from the first on all is shown, below the second only what matters most."""
_PLAIN_WIDTH = 240
_INSTALLED = "●"


def gpus(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="only these cards, by any of their names")
    ] = None,
    as_json: JsonOption = False,
    html: HtmlOption = None,
) -> None:
    """NVIDIA's cards from Maxwell to Blackwell: arithmetic by precision, memory, and the price of half."""
    from pascaline.hardware.installed_cards import cards_here

    here = cards_here()
    chosen = _chosen(names or [], here.gpus)
    if html is not None:
        from pascaline.report.gpus_page import gpus_page

        write_page(html, gpus_page(chosen, here.names))
    if as_json:
        print_json({"gpus": [_fields(gpu) for gpu in chosen]})
    elif html is None:
        _print_table(chosen, here.names)


def _chosen(names: Sequence[str], here: Sequence[Gpu]) -> list[Gpu]:
    """What the names mean, each once; without names all, with what is here and not in the table."""
    from pascaline.hardware.gpus import gpus as table
    from pascaline.hardware.gpus import gpus_named

    if names:
        found = [gpu for name in names for gpu in gpus_named(name)]
        return list({gpu.name: gpu for gpu in found}.values())
    known = {gpu.name for gpu in table()}
    return [*table(), *(gpu for gpu in here if gpu.name not in known)]


def _fields(gpu: Gpu) -> dict[str, object]:
    """The contract's fields; TFLOPS at the listed boost clock, null where there is no such unit."""
    return {
        "name": gpu.name,
        "aliases": list(gpu.aliases),
        "architecture": gpu.architecture.name,
        "compute_capability": gpu.compute_capability,
        "sms": gpu.sms,
        "boost_mhz": gpu.boost_mhz,
        "max_mhz": gpu.max_mhz,
        "memory_gib": gpu.memory_gib,
        "bandwidth_gb_per_s": gpu.bandwidth_gb_per_s,
        "l2_mib": gpu.l2_mib,
        "fp32_tflops": _rounded(gpu.listed_tflops("fp32")),
        "fp16_tflops": _rounded(gpu.listed_tflops("fp16")),
        "fp64_tflops": _rounded(gpu.listed_tflops("fp64")),
        "int8_tops": _rounded(gpu.listed_tflops("int8")),
        "tensor_fp16_tflops": _rounded(gpu.listed_tflops("tensor_fp16")),
        "power_w": gpu.power_w,
        "source": gpu.source,
    }


def _rounded(tflops: float | None) -> float | None:
    return None if tflops is None else float(f"{tflops:.5g}")


def _print_table(chosen: Sequence[Gpu], installed: frozenset[str]) -> None:
    """As wide as the terminal allows; everything, plainly, where none is."""
    from rich.text import Text

    console = open_console(_PLAIN_WIDTH)
    plain = not console.is_terminal
    wide = plain or console.width >= _WIDE
    table = new_table(console)
    table.add_column("card", no_wrap=plain, min_width=None if plain else min(26, console.width - 24))
    headings = ["sm", "GB", "GB/s", "fp32", "half", "dp4a", "tensor"]
    if console.width < _NARROW:
        headings = ["GB", "fp32", "half"]
    elif wide:
        headings = ["architecture", "sm", "SMs", "boost", "max", "GB", "GB/s", "fp64", "fp32", "half"]
        headings += ["dp4a", "tensor", "W"]
    for heading in headings:
        table.add_column(heading, no_wrap=True, justify="left" if heading == "architecture" else "right")
    for gpu in chosen:
        mark = f"{_INSTALLED} " if gpu.name in installed else ""
        style = "bold" if mark else None
        table.add_row(Text(mark + gpu.name), *(_row(gpu)[heading] for heading in headings), style=style)
    console.print(table)
    legend = "TFLOPS at boost clock (dp4a: TOPS), half and dp4a outside of tensor cores; -: no such unit."
    say(console, f"{legend} Clocks in MHz." if wide else legend)
    if installed:
        say(console, f"{_INSTALLED} is in this machine.")


def _row(gpu: Gpu) -> dict[str, str]:
    """By heading."""
    return {
        "architecture": gpu.architecture.name,
        "sm": gpu.compute_capability,
        "SMs": str(gpu.sms),
        "boost": str(gpu.boost_mhz),
        "max": str(gpu.max_mhz),
        "GB": f"{gpu.memory_gib:g}",
        "GB/s": f"{gpu.bandwidth_gb_per_s:g}",
        "fp64": _tflops(gpu.listed_tflops("fp64")),
        "fp32": _tflops(gpu.listed_tflops("fp32")),
        "half": _tflops(gpu.listed_tflops("fp16")),
        "dp4a": _tflops(gpu.listed_tflops("int8")),
        "tensor": _tflops(gpu.listed_tflops("tensor_fp16")),
        "W": f"{gpu.power_w:g}",
    }


def _tflops(rate: float | None) -> str:
    return "-" if rate is None else format_number(rate)
