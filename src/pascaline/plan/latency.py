"""How long a prompt and a token take: each launch the longer of its arithmetic and its memory traffic.

A launch takes max(operations / (rate · share), bytes / (bandwidth · share)) + launch_s, a step the sum over
its launches and step_s. Shares are of a chip's limits: docs/explanation/speed-model.md says whence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.hardware.roofline import BoundBy
from pascaline.report.run_record import Alternative, Phase, RecordedDecision, Row
from pascaline.workload.arithmetic import Chip, LinearDecision, LinearWork, decide
from pascaline.workload.holdings import HeldWeight
from pascaline.workload.step import StepLaunch, StepShape, launches

_LAYER = re.compile(r"(?<=\.)\d+(?=\.|$)")
PARTS_OF_NEIGHBOURS = frozenset({"add", "store_rows", "head_norm", "scale", "select_rows", "soft_cap"})
"""Ops that engines compute within the launch before or after."""
_SAMPLED_STEPS = 8
"""A long prompt's steps cost what their place in it says, on a straight line: a few of them tell all."""


@dataclass(frozen=True)
class Model:
    """What of a model decides its speed: settings, weights as held, bytes of an element of the cache."""

    config: ModelConfig
    held: Sequence[HeldWeight]
    key_value_element_bytes: int


@dataclass(frozen=True)
class OpDecision:
    """What was chosen for an op of a phase; `weights` is the form, None where there are none."""

    op: str
    phase: Phase
    weights: str | None
    choice: str
    reason: str
    predicted_s: float
    alternatives: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Prediction:
    """A phase: its rows, one a kind of module and op, and its time. `tokens` come out of, or go into, it."""

    phase: Phase
    tokens: int
    seconds: float
    rows: tuple[Row, ...]
    decisions: tuple[OpDecision, ...]

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def bound_by(self) -> BoundBy:
        """What most of the time goes to."""
        by: dict[BoundBy, float] = {}
        for row in self.rows:
            by[row.bound_by or "latency"] = by.get(row.bound_by or "latency", 0.0) + (row.predicted_s or 0.0)
        return max(by, key=by.__getitem__)


def predict_decode(model: Model, chip: Chip, sequences: int, context: int) -> Prediction:
    """One step: a token of each of so many sequences, each with a context that includes it."""
    shape = StepShape((1,) * sequences, (context,) * sequences, sequences)
    return _Phase(model, chip, "decode", sequences).over([(shape, 1.0)])


def predict_prefill(model: Model, chip: Chip, tokens: int, step_tokens: int) -> Prediction:
    """A prompt of one sequence, in steps of at most `step_tokens`."""
    full, rest = divmod(tokens, step_tokens)
    steps: list[tuple[StepShape, float]] = []
    before = full - (rest == 0)  # the last step gives logits
    if before:
        sampled = min(before, _SAMPLED_STEPS)
        places = [round(index * (before - 1) / max(sampled - 1, 1)) for index in range(sampled)]
        steps = [
            (StepShape((step_tokens,), ((place + 1) * step_tokens,), 0), before / sampled) for place in places
        ]
    steps.append((StepShape((rest or step_tokens,), (tokens,), 1), 1.0))
    return _Phase(model, chip, "prefill", tokens).over(steps)


@dataclass
class _Sum:
    """A kind of module and op, all its launches together."""

    calls: float = 0.0
    predicted_s: float = 0.0
    bound_s: float = 0.0
    compute_s: float = 0.0
    memory_s: float = 0.0
    launch_s: float = 0.0
    operations: float = 0.0
    nbytes: float = 0.0
    arithmetic: str = "fp32"
    decision: LinearDecision | None = None
    alternatives: dict[str, float] = field(default_factory=dict)

    @property
    def bound_by(self) -> BoundBy:
        limits: dict[BoundBy, float] = {
            "compute": self.compute_s,
            "memory": self.memory_s,
            "latency": self.launch_s,
        }
        return max(limits, key=limits.__getitem__)


@dataclass(frozen=True)
class _Phase:
    model: Model
    chip: Chip
    phase: Phase
    tokens: int

    def over(self, steps: Sequence[tuple[StepShape, float]]) -> Prediction:
        """The steps, each so many times."""
        sums: dict[tuple[str, str], _Sum] = {}
        decisions: dict[tuple[str, str | None], OpDecision] = {}
        seconds = 0.0
        for shape, times in steps:
            seconds += self.chip.step_s * times
            listed = [item for item in self._launches(shape) if item.axes.get("M") != 0]
            ways = _ways(listed, self.chip)
            previous = None
            for item in listed:
                kind = (_LAYER.sub("*", item.module), item.op)
                is_own = (item.module, item.op) != previous
                previous = item.module, item.op
                total = sums.setdefault(kind, _Sum())
                seconds += times * self._add(total, item, ways, times, is_own_launch=is_own)
            for decision in self._decisions(ways, times):
                key = decision.op, decision.weights
                if key not in decisions or decisions[key].predicted_s < decision.predicted_s:
                    decisions[key] = decision
        rows = tuple(_row(module, op, self.phase, total) for (module, op), total in sums.items())
        others = _other_decisions(rows, self.phase, self.chip)
        return Prediction(self.phase, self.tokens, seconds, rows, (*decisions.values(), *others))

    def _launches(self, shape: StepShape) -> list[StepLaunch]:
        model = self.model
        return launches(
            model.config,
            shape,
            held=model.held,
            key_value_element_bytes=model.key_value_element_bytes,
        )

    def _add(self, total: _Sum, item: StepLaunch, ways: _Ways, times: float, *, is_own_launch: bool) -> float:
        """Count a launch in; its seconds."""
        chip = self.chip
        nbytes = float(item.moved_bytes + (item.weight_bytes or 0))
        operations = sum(item.flop_by_type.values())
        if item.op == "linear":
            decision = ways[_group(item)][1]
            work = _work([item])
            compute_s, memory_s = decision.way.times(work)
            seconds = decision.way.seconds(work)
            total.arithmetic = decision.way.arithmetic
            total.decision = decision
            for other in chip.ways_for(work.form):
                if other is not decision.way:
                    before = total.alternatives.get(other.choice, 0.0)
                    total.alternatives[other.choice] = before + times * other.seconds(work)
        else:
            rate, exposed = chip.scalar_operations_per_s, 0.0
            if item.op == "paged_attention":
                total.arithmetic, rate = chip.attention_arithmetic, chip.attention_operations_per_s
                exposed = chip.attention_exposed
            compute_s, memory_s = operations / rate, nbytes / chip.bytes_per_s
            seconds = max(compute_s, memory_s) + exposed * min(compute_s, memory_s)
        is_part = chip.fuses and (item.op in PARTS_OF_NEIGHBOURS or not is_own_launch)
        launch_s = 0.0 if is_part else chip.launch_s
        total.calls += times
        total.predicted_s += times * (seconds + launch_s)
        total.bound_s += times * chip.roofline.bound({total.arithmetic: operations}, nbytes)[0]
        total.compute_s += times * compute_s
        total.memory_s += times * memory_s
        total.launch_s += times * launch_s
        total.operations += times * operations
        total.nbytes += times * nbytes
        return seconds + launch_s

    def _decisions(self, ways: _Ways, times: float) -> Iterator[OpDecision]:
        for (form, _), (_, decision) in ways.items():
            yield OpDecision(
                op="linear",
                phase=self.phase,
                weights=form,
                choice=decision.way.choice,
                reason=decision.reason,
                predicted_s=decision.predicted_s * times,
                alternatives=tuple((each.choice, each.predicted_s * times) for each in decision.alternatives),
            )


_Ways = dict[tuple[str, int], tuple[LinearWork, LinearDecision]]
"""What is decided for all linears of a form and a number of rows."""


def _group(item: StepLaunch) -> tuple[str, int]:
    assert item.held is not None  # noqa: S101 - holdings are given to `launches`
    return item.held.form.type_name, item.axes["M"]


def _work(items: Sequence[StepLaunch]) -> LinearWork:
    """All of them as one: their weights side by side."""
    first = items[0]
    assert first.held is not None  # noqa: S101 - holdings are given to `launches`
    return LinearWork(
        rows=first.axes["M"],
        columns=sum(item.axes["K"] * item.axes["N"] for item in items),
        outputs=1,
        form=first.held.form,
        moved_bytes=float(sum(item.moved_bytes + (item.weight_bytes or 0) for item in items)),
    )


def _ways(listed: Sequence[StepLaunch], chip: Chip) -> _Ways:
    groups: dict[tuple[str, int], list[StepLaunch]] = {}
    for item in listed:
        if item.op == "linear":
            groups.setdefault(_group(item), []).append(item)
    works = {key: _work(items) for key, items in groups.items()}
    return {key: (work, decide(work, chip)) for key, work in works.items()}


def _recorded(decision: LinearDecision, alternatives: Mapping[str, float]) -> RecordedDecision:
    """For a row, whose launches together would take so long in the other ways."""
    return RecordedDecision(
        choice=decision.way.choice,
        reason=decision.reason,
        alternatives=[
            Alternative(choice=choice, predicted_s=seconds)
            for choice, seconds in sorted(alternatives.items(), key=lambda item: item[1])
        ],
    )


def _row(module: str, op: str, phase: Phase, total: _Sum) -> Row:
    return Row(
        module=module,
        op=op,
        phase=phase,
        calls=round(total.calls),
        predicted_s=total.predicted_s,
        bound_s=total.bound_s,
        bound_by=total.bound_by,
        flop_by_type={total.arithmetic: total.operations} if total.operations else {},
        bytes=round(total.nbytes),
        decision=None if total.decision is None else _recorded(total.decision, total.alternatives),
    )


def _other_decisions(rows: Sequence[Row], phase: Phase, chip: Chip) -> Iterator[OpDecision]:
    """Of attention, and of the small ops together."""
    attention = [row for row in rows if row.op == "paged_attention"]
    small = [row for row in rows if row.op not in ("paged_attention", "linear")]
    name = chip.attention_arithmetic
    reason = (
        f"scores and sums over the cache are bound by {attention[0].bound_by}"
        + ("" if name == "fp32" else f"; {name} multiplies, sums are fp32")
    )  # fmt: skip
    yield OpDecision("paged_attention", phase, None, name, reason, _seconds(attention), ())
    yield OpDecision(
        "norms, rotations, activations",
        phase,
        None,
        "fp32",
        "few operations for each byte: another arithmetic would gain nothing",
        _seconds(small),
        (),
    )


def _seconds(rows: Sequence[Row]) -> float:
    return sum(row.predicted_s or 0.0 for row in rows)
