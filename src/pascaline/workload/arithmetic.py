"""Which arithmetic a linear should be computed in on a chip: predicted for every unit that it has.

The fastest wins; where several take the same time, as when memory bounds them all, the most exact. What adds
up in half precision is never taken, only shown. Nothing here names a chip: what one cannot do well is slow by
its own rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pascaline.core.units import format_number
from pascaline.hardware.measured import LinearRates
from pascaline.hardware.roofline import BoundBy, Roofline
from pascaline.workload.weight_form import WeightForm

LEVEL = 1.02
"""Times that are nearer to each other than this are the same: then exactness decides."""
_NAMES = {
    "fp32": "fp32",
    "fp16": "half",
    "bf16": "bf16 half",
    "int8": "8-bit dot products",
    "tensor_fp16": "fp16 tensor cores",
    "tensor_bf16": "bf16 tensor cores",
    "tensor_int8": "int8 tensor cores",
}


@dataclass(frozen=True)
class LinearWork:
    """A linear of M rows by an (N, K) weight of some form; `moved_bytes` are its weights and activations."""

    rows: int
    columns: int
    outputs: int
    form: WeightForm
    moved_bytes: float

    @property
    def flop(self) -> float:
        return 2.0 * self.rows * self.columns * self.outputs


@dataclass(frozen=True)
class Way:
    """One way to compute a linear on a chip.

    Parameters
    ----------
    choice : its name in decisions, "dp4a int8".
    arithmetic : the unit that multiplies.
    operations_per_s, bytes_per_s : that are reached, below the chip's limits.
    row_multiple : rows are padded to a multiple of it.
    copied_bytes_per_weight : traffic of weights that are written back and read again.
    share_by_form : of `operations_per_s`, by the weight's type; 1 for the others.
    measured : what took how long on this very chip, by the form's `measured_name`.
    only : the kind of weights that it takes, None for both.
    exposed : share of the shorter of both times that does not pass during the longer.
    sums_in_half : its sums err too much to be taken (docs/decisions/0014-arithmetic-on-cards.md).
    """

    choice: str
    arithmetic: str
    operations_per_s: float
    bytes_per_s: float
    row_multiple: int = 1
    copied_bytes_per_weight: float = 0.0
    share_by_form: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, LinearRates] = field(default_factory=dict)
    only: Literal["dense", "packed"] | None = None
    exposed: float = 0.0
    sums_in_half: bool = False

    def times(self, work: LinearWork) -> tuple[float, float]:
        """Seconds of the arithmetic, and of the memory traffic."""
        weights = work.columns * work.outputs
        rows = -(-work.rows // self.row_multiple) * self.row_multiple
        rate = self.operations_per_s * self.share_by_form.get(work.form.type_name, 1.0)
        moved = work.moved_bytes + self.copied_bytes_per_weight * weights
        return 2.0 * rows * weights / rate, moved / self.bytes_per_s

    def seconds(self, work: LinearWork) -> float:
        """Predicted, the launch aside; as it was measured where it was."""
        saved = self.measured.get(work.form.measured_name)
        if saved is not None and saved.arithmetic == self.arithmetic:
            return saved.seconds(work.rows, work.columns * work.outputs)
        shorter_s, longer_s = sorted(self.times(work))
        return longer_s + self.exposed * shorter_s


@dataclass(frozen=True)
class Alternative:
    """A way that was not taken."""

    choice: str
    predicted_s: float


@dataclass(frozen=True)
class LinearDecision:
    """The way that a linear takes, why, and what the others would take."""

    way: Way
    predicted_s: float
    bound_by: BoundBy
    reason: str
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True)
class Chip:
    """A chip with what is reached of its limits.

    Parameters
    ----------
    ways : how linears can be computed, the most exact first.
    scalar_operations_per_s : of everything that is neither a linear nor attention, in fp32.
    attention_arithmetic, attention_operations_per_s : of scores and sums over the cache.
    attention_exposed : of attention, the share of the shorter of its times that the longer does not hide.
    fuses : small ops are part of their neighbours' launches.
    bytes_per_s : reached.
    launch_s : of each launch beside its work; `step_s` of each step.
    spread : relative half width of the band that two thirds of predictions lie in.
    source : of the shares.
    """

    roofline: Roofline
    ways: tuple[Way, ...]
    scalar_operations_per_s: float
    attention_arithmetic: str
    attention_operations_per_s: float
    bytes_per_s: float
    launch_s: float
    step_s: float
    spread: float
    source: str
    fuses: bool = True
    attention_exposed: float = 0.0

    def ways_for(self, form: WeightForm) -> list[Way]:
        """Those that can multiply by weights of this form."""
        return [way for way in self.ways if way.only in (None, form.kind) and serves(way.arithmetic, form)]


def serves(arithmetic: str, form: WeightForm) -> bool:
    """Whether a unit takes weights of a form without a loss of range: bf16 fits no half."""
    if arithmetic.endswith("int8"):
        return form.kind == "packed"
    if arithmetic.endswith("bf16"):
        return form.type_name == "BF16"
    if arithmetic.endswith("fp16"):
        return form.type_name not in ("BF16", "F32")
    return True


def decide(work: LinearWork, chip: Chip) -> LinearDecision:
    """The fastest way, or the most exact of those that are as fast; none whose sums are in half."""
    ways = chip.ways_for(work.form)
    seconds = [way.seconds(work) for way in ways]
    sound = [index for index, way in enumerate(ways) if not way.sums_in_half]
    least_s = min(seconds[index] for index in sound)
    index = next(index for index in sound if seconds[index] <= LEVEL * least_s)
    way = ways[index]
    compute_s, memory_s = way.times(work)
    bound_by: BoundBy = "compute" if compute_s > memory_s else "memory"
    others = sorted(
        (each, other.choice) for other, each in zip(ways, seconds, strict=True) if other is not way
    )
    return LinearDecision(
        way,
        seconds[index],
        bound_by,
        _reason(work, chip, way, bound_by, ways),
        tuple(Alternative(choice, each) for each, choice in others),
    )


def _reason(work: LinearWork, chip: Chip, way: Way, bound_by: BoundBy, ways: Sequence[Way]) -> str:
    rates = chip.roofline.operations_per_s
    if bound_by == "memory":
        level = [
            other for other in ways if other is not way and other.seconds(work) <= LEVEL * way.seconds(work)
        ]
        rows = "1 row reads" if work.rows == 1 else f"{work.rows} rows read"
        what = f"{rows} {_amount(work.moved_bytes)} at {way.bytes_per_s / 1e9:.0f} GB/s: bound by memory"
        if level:
            others = " and ".join(other.choice for other in level)
            return f"{what} in {way.choice} as in {others}, of which the first is the most exact"
        return f"{what} in {way.choice}"
    named = [way, *(other for other in ways if other is not way)]
    shown = ", ".join(
        f"{_NAMES.get(each.arithmetic, each.arithmetic)} {format_number(rates[each.arithmetic] / 1e12)}"
        for each in named
    )
    text = f"{work.rows} rows are bound by arithmetic; this chip's limits in TFLOP/s (TOP/s): {shown}"
    if way.arithmetic == "tensor_bf16":
        text += ". Inputs are rounded to bf16, the weights' own type"
    half, single = rates.get("fp16"), rates.get("fp32")
    if half and single and half < single / 2:
        text += f". Half arithmetic runs at 1/{single / half:.0f} of the fp32 rate, and is avoided"
    if faster := [
        each.choice for each in ways if each.sums_in_half and each.seconds(work) < way.seconds(work)
    ]:
        text += f". Faster, but not exact enough, because its sums are in half: {' and '.join(faster)}"
    return text


def _amount(nbytes: float) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{format_number(nbytes / 1e6, 2)} MB"
