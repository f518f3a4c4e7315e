"""Which module launched what: kernels are found in the innermost range that their launch lies in.

A kernel runs later than the call that launched it, on the GPU's own time line; it is that call, on its
thread, that lies within the ranges of modules.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pascaline.report.module_names import MODULE, UNPLACED, op_of
from pascaline.report.module_tree import parent_of
from pascaline.report.run_record import Phase, RecordedKernel, Row

Thread = Hashable


@dataclass(frozen=True)
class Range:
    """A module's call on a thread, or a phase of a run; times in any unit, all in the same."""

    start: float
    end: float
    name: str


@dataclass(frozen=True)
class Launch:
    """A piece of work: where and when it was launched, how long it took, what it was.

    `op` is that of a copy, or None for kernels, whose op is their module's; `count` how many it stands for.
    """

    at: float
    seconds: float
    name: str
    op: str | None = None
    nbytes: int | None = None
    count: int = 1


@dataclass(frozen=True)
class Placed:
    """Work by thread, in ranges by thread."""

    ranges: dict[Thread, list[Range]] = field(default_factory=lambda: defaultdict(list))
    launches: dict[Thread, list[Launch]] = field(default_factory=lambda: defaultdict(list))


def nested(ranges: Iterable[Range]) -> Iterator[tuple[Range, Range | None]]:
    """Each range with the one around it, in the order of their starts."""
    open_ranges: list[Range] = []
    for one in sorted(ranges, key=lambda one: (one.start, -one.end)):
        while open_ranges and open_ranges[-1].end <= one.start:
            open_ranges.pop()
        yield one, open_ranges[-1] if open_ranges else None
        open_ranges.append(one)


def innermost(ranges: Sequence[Range], launches: Sequence[Launch]) -> Iterator[tuple[Launch, Range | None]]:
    """Each launch with the innermost range around it."""
    waiting = sorted(ranges, key=lambda one: (-one.start, one.end))
    open_ranges: list[Range] = []
    for launch in sorted(launches, key=lambda one: one.at):
        while waiting and waiting[-1].start <= launch.at:
            one = waiting.pop()
            while open_ranges and open_ranges[-1].end <= one.start:
                open_ranges.pop()
            open_ranges.append(one)
        while open_ranges and open_ranges[-1].end < launch.at:
            open_ranges.pop()
        yield launch, open_ranges[-1] if open_ranges else None


@dataclass
class _Sum:
    seconds: float = 0.0
    nbytes: int | None = None
    kernels: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0, 0.0]))

    def add(self, launch: Launch) -> None:
        self.seconds += launch.seconds
        if launch.nbytes is not None:
            self.nbytes = (self.nbytes or 0) + launch.nbytes
        self.kernels[launch.name][0] += launch.count
        self.kernels[launch.name][1] += launch.seconds


def rows_of(placed: Placed, phases: Placed | None = None) -> list[Row]:
    """Rows of leaves and of containers, in the order of modules' first calls; then what has no module.

    Parameters
    ----------
    placed : the names of its ranges are module paths.
    phases : the ranges named "prefill" and "decode", if any.
    """
    sums: dict[tuple[str | None, str, Phase | None], _Sum] = defaultdict(_Sum)
    calls: dict[tuple[str, Phase | None], int] = defaultdict(int)
    for thread, ranges in placed.ranges.items():
        in_phase = phases.ranges.get(thread, []) if phases else []
        called = [Launch(one.start, 0.0, one.name) for one in ranges]
        for call, phase_range in innermost(in_phase, called):
            calls[call.name, _phase(phase_range)] += 1
    for thread, launches in placed.launches.items():
        in_phase = phases.ranges.get(thread, []) if phases else []
        phase_of = {id(one): _phase(found) for one, found in innermost(in_phase, launches)}
        for launch, found in innermost(placed.ranges.get(thread, []), launches):
            path = None if found is None else found.name
            op = launch.op or ("kernels" if path is None else op_of(path))
            sums[path, op, phase_of[id(launch)]].add(launch)
    return [*_module_rows(calls, sums), *_unplaced_rows(sums)]


def _phase(found: Range | None) -> Phase | None:
    if found is None:
        return None
    return "prefill" if found.name == "prefill" else "decode"


def _module_rows(
    calls: dict[tuple[str, Phase | None], int], sums: dict[tuple[str | None, str, Phase | None], _Sum]
) -> Iterator[Row]:
    own: dict[tuple[str, Phase | None], list[tuple[str, _Sum]]] = defaultdict(list)
    whole: dict[tuple[str, Phase | None], float] = defaultdict(float)
    for (path, op, phase), found in sums.items():
        if path is None:
            continue
        own[path, phase].append((op, found))
        above: str | None = path
        while above is not None:
            whole[above, phase] += found.seconds
            above = parent_of(above)
    holds_others = set()
    for path, phase in calls:
        above = parent_of(path)
        while above is not None:
            holds_others.add((above, phase))
            above = parent_of(above)
    for (path, phase), count in calls.items():
        if (path, phase) in holds_others:
            yield Row(
                module=path, op=MODULE, phase=phase, calls=count, measured_s=whole.get((path, phase), 0.0)
            )
        for op, found in own.get((path, phase), ()):
            yield _row(path, op, phase, count, found)


def _unplaced_rows(sums: dict[tuple[str | None, str, Phase | None], _Sum]) -> Iterator[Row]:
    for (path, op, phase), found in sums.items():
        if path is None:
            yield _row("", op if op in UNPLACED else "kernels", phase, None, found)


def _row(path: str, op: str, phase: Phase | None, calls: int | None, found: _Sum) -> Row:
    kernels = [
        RecordedKernel(name=name, calls=int(count), s=seconds)
        for name, (count, seconds) in sorted(found.kernels.items(), key=lambda item: -item[1][1])
    ]
    return Row(
        module=path,
        op=op,
        phase=phase,
        calls=sum(kernel.calls for kernel in kernels) if calls is None else calls,
        measured_s=found.seconds,
        bytes=found.nbytes,
        kernels=kernels,
    )


def busy_s(starts: array[float], ends: array[float]) -> float:
    """The time covered by at least one of so many intervals, in their unit."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(zip(starts, ends, strict=True)):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
