"""What share of its limits a chip reaches in practice (efficiency.toml, written by a fit).

A roofline is what cannot be beaten; engines stay below it. `efficiency_of` is for a good inference engine's
kernels, `library_efficiency` for the vendor's large matrix products. The model that they belong to, and its
error, are described in docs/explanation/speed-model.md.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from pascaline.core.errors import UnsupportedError
from pascaline.hardware.architectures import Arithmetic, capability_numbers


@dataclass(frozen=True)
class Efficiency:
    """Shares of a card's limits, at its maximum clock.

    Parameters
    ----------
    compute : of `operations_per_s`, that linears reach where arithmetic bounds them.
    bandwidth : of `bytes_per_s`, that linears reach where memory bounds them.
    launch_s : time that a launch takes beside its work, replayed from a recording (a CUDA graph).
    separate_launch_s : the same where the host launches it.
    spread : relative error that two thirds of the figures of cards outside of the fit stay within.
    source : which figures they are from.
    """

    compute: float
    bandwidth: float
    launch_s: float
    separate_launch_s: float
    spread: float
    source: str


@dataclass(frozen=True)
class _Row:
    """Capabilities that share numbers, and their share of the limit by arithmetic."""

    capabilities: tuple[tuple[int, int], ...]
    shares: Mapping[str, float]
    source: str
    numbers: Mapping[str, float]


def efficiency_of(compute_capability: str, arithmetic: Arithmetic) -> Efficiency:
    """Of engines' linears in one arithmetic, e.g. `efficiency_of("6.1", "int8")`.

    A capability that no figure is known of takes the numbers of the nearest older one. An arithmetic that no
    engine's speed is known in takes the library's share, which engines call there.

    Raises
    ------
    UnsupportedError : it is no compute capability, as of a CPU.
    """
    row = _nearest("group", compute_capability)
    if arithmetic in row.shares:
        compute, source = row.shares[arithmetic], row.source
    else:
        library = _nearest("library", compute_capability)
        compute = library.shares.get(arithmetic, library.shares["fp32"])
        source = f"{row.source}; {arithmetic}: {library.source}"
    return Efficiency(compute=compute, source=source, **row.numbers)


def library_efficiency(compute_capability: str, arithmetic: Arithmetic) -> tuple[float, str]:
    """The share of its limit at maximum clock that the vendor's large matrix products reach, and its source.

    Three of four cards that figures are known of reach it. A capability that no figure is known of takes the
    share of the nearest older one.

    Raises
    ------
    UnsupportedError : no figure is known of that arithmetic on such a chip.
    """
    row = _nearest("library", compute_capability)
    if arithmetic not in row.shares:
        raise UnsupportedError(
            f"no library's rate is known in {arithmetic} at compute capability {compute_capability}",
            expected=" or ".join(row.shares),
        )
    return row.shares[arithmetic], row.source


def _nearest(table: str, compute_capability: str) -> _Row:
    """The row with the newest capability that is not newer than the wanted one, or else the oldest row."""
    if not re.fullmatch(r"\d{1,3}\.\d{1,3}", compute_capability):
        raise UnsupportedError(
            f"{compute_capability!r} is no compute capability", expected='a GPU\'s, such as "6.1"'
        )
    wanted = capability_numbers(compute_capability)
    known = [(capability, row) for row in _rows(table) for capability in row.capabilities]
    older = [pair for pair in known if pair[0] <= wanted]
    return max(older, key=lambda pair: pair[0])[1] if older else min(known, key=lambda pair: pair[0])[1]


@functools.cache
def _rows(table: str) -> Sequence[_Row]:
    text = (files("pascaline.hardware") / "efficiency.toml").read_text(encoding="utf-8")
    return tuple(_row(row) for row in tomllib.loads(text)[table])


def _row(row: dict[str, Any]) -> _Row:
    return _Row(
        capabilities=tuple(capability_numbers(capability) for capability in row.pop("compute_capabilities")),
        shares=MappingProxyType(row.pop("shares")),
        source=row.pop("source"),
        numbers=MappingProxyType(row),
    )
