"""Rates that `pascaline bench gemm --save` measured on this machine, kept for the planner and the policy.

One JSON file a chip, in `$PASCALINE_CACHE/measured/<name>.json`. Figures of other software (a driver, a
torch, a number of threads) are no longer true: they are passed over, and the reason is told.

>>> rates = load_measured(processor_name(), tell=print)
>>> rates.linears["Q4_K"].seconds(rows=16, weights=4096 * 4096)
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec

from pascaline.core import env
from pascaline.core.errors import PascalineError
from pascaline.core.files import writable_folder, write_atomically
from pascaline.core.threads import compute_threads

SCHEMA = 1
"""Raised when a reader of the old form could misunderstand the new one."""

_MAX_BYTES = 1 << 20
_MAX_NAME = 80
_DRIVER = Path("/proc/driver/nvidia/version")
_VERSION = re.compile(r"\b(\d{3}(?:\.\d+)+)\b")

Kind = Literal["cuda", "cpu"]
Rows = tuple[int, float]


class LinearRates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a linear costs whose weights are stored in one form.

    Parameters
    ----------
    arithmetic : what its kernel multiplies in ("int8", "fp32").
    bytes_per_weight : that the stored form takes, its scales included.
    rows : (M, seconds per element of the weight) at a few M, rising. The weights came from memory, not
        from a cache. A linear of N × K weights by M rows took seconds_per_element · N · K.
    """

    arithmetic: str
    bytes_per_weight: float
    rows: tuple[Rows, ...]

    def seconds(self, rows: int, weights: int) -> float:
        """The time of a linear of `weights` elements by `rows` rows.

        Between measured M a straight line; above the largest in proportion to M; below the smallest as it.
        """
        points = self.rows
        last_rows, last_s = points[-1]
        if rows >= last_rows:
            return last_s * rows / last_rows * weights
        below = (0, points[0][1])
        for above in points:
            if rows <= above[0]:
                share = (rows - below[0]) / (above[0] - below[0])
                return (below[1] + share * (above[1] - below[1])) * weights
            below = above
        raise AssertionError("the last point is beyond `rows`")


class MeasuredRates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one chip was measured to do.

    Parameters
    ----------
    name : the chip's, as NVML or the system spells it.
    clock_mhz : of the chip while it multiplied; None where it cannot be read.
    operations_per_s : the chip's limit by arithmetic, a multiply-add counting 2. On a CPU measured by code
        that does nothing else; on a GPU from the table at the measured clock.
    library_operations_per_s : by arithmetic, the most that a library's product reached of any shape.
    bytes_per_s : read from memory, by code that does nothing else on a CPU; on a GPU the card's.
    linears : by form: a GGUF type ("Q4_K", "F16", "BF16", "F32"), or "GPTQ-4" (groups of 128).
    threads : that computed; None for a GPU.
    created : ISO 8601, UTC.
    software : `software_here(kind)` when it was measured.
    """

    name: str
    kind: Kind
    clock_mhz: float | None
    operations_per_s: Mapping[str, float]
    library_operations_per_s: Mapping[str, float]
    bytes_per_s: float | None
    linears: Mapping[str, LinearRates]
    threads: int | None
    created: str
    software: Mapping[str, str]
    schema: int = SCHEMA


class _Head(msgspec.Struct):
    """What tells the schema of any file, past or to come."""

    schema: object = None


def silent(_: str) -> None:
    """`tell` of callers that show nothing."""


def measured_path(name: str) -> Path:
    """Where the rates of the chip of this name are kept."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_MAX_NAME]
    return measured_folder() / f"{slug or 'unnamed'}.json"


def measured_folder() -> Path:
    """Of all chips' rates."""
    return env.cache_dir() / "measured"


@functools.cache
def software_here(kind: Kind) -> Mapping[str, str]:
    """The versions that decide whether a measurement still holds; what is not there is left out."""
    versions = {}
    for package in ("pascaline", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if kind == "cuda":
        try:
            found = _VERSION.search(_DRIVER.read_text(errors="replace"))
        except OSError:
            found = None
        if found:
            versions["driver"] = found[1]
    return versions


def load_measured(name: str, tell: Callable[[str], None] = silent) -> MeasuredRates | None:
    """What was saved for the chip of this name, where it still holds.

    Parameters
    ----------
    tell : receives one sentence when a file is there and is passed over.
    """
    path = measured_path(name)
    if not path.exists():
        return None
    try:
        if not path.is_file():
            raise msgspec.ValidationError("it is no file")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
        schema = msgspec.json.decode(data, type=_Head).schema
        if schema != SCHEMA:
            raise msgspec.ValidationError(f"it is of schema {schema!r:.20}, and this version reads {SCHEMA}")
        rates = msgspec.json.decode(data, type=MeasuredRates)
        _check(rates, name)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        said = f"{path} is passed over: {error}. `pascaline bench gemm --save` renews it"
        tell(PascalineError(said).seen)  # what it quotes may steer a terminal
        return None
    return rates


def save_measured(rates: MeasuredRates) -> Path:
    """Write the file that `load_measured` reads; returns its path.

    Raises
    ------
    ConfigError : the cache folder cannot be written.
    """
    writable_folder(measured_folder())
    path = measured_path(rates.name)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(rates), indent=2) + b"\n")
    return path


def _check(rates: MeasuredRates, name: str) -> None:
    """Raise msgspec's ValidationError, in words, where rates are not true here or make no sense."""
    if rates.name != name:
        raise msgspec.ValidationError(f"it is of {rates.name!r:.80}")
    here = software_here(rates.kind)
    for package in sorted({*here, *rates.software}):
        then, now = rates.software.get(package, "none"), here.get(package, "none")
        if then != now:
            raise msgspec.ValidationError(f"it was measured with {package} {then:.20}, and this is {now}")
    if rates.kind == "cpu" and rates.threads != compute_threads():
        raise msgspec.ValidationError(
            f"it was measured with {rates.threads} threads, not {compute_threads()}"
        )
    numbers = [*rates.operations_per_s.values(), *rates.library_operations_per_s.values()]
    numbers += [number for number in (rates.clock_mhz, rates.bytes_per_s) if number is not None]
    for linear in rates.linears.values():
        numbers += [linear.bytes_per_weight, *(seconds for _, seconds in linear.rows)]
        counts = [0, *(count for count, _ in linear.rows)]
        if len(counts) == 1 or any(low >= high for low, high in itertools.pairwise(counts)):
            raise msgspec.ValidationError("the row counts of a linear do not rise")
    if not all(0 < number < float("inf") for number in numbers):
        raise msgspec.ValidationError("a rate is not a positive number")
