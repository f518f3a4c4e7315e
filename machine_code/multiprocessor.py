"""One multiprocessor, clock by clock: how long its share of a launch takes.

Each scheduler issues one instruction a clock (or the pair that the code marks) of the warp that has been
ready for longest. A warp is ready when the stall count of its last instruction has passed and the barriers
that its next one awaits are released; an instruction is issued when its pipe is free. Memory is three
queues, each served in order at its own rate: shared memory (128 bytes a clock), L2 (`IssueRates.l2_bytes`)
and the multiprocessor's share of the card's memory; a result arrives its latency after it has been served,
on average of where its executions find what they read. What is not modelled: instruction fetch, the time to
start a block, other multiprocessors' effect on latency, and pages.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from program import WAVEFRONT_BYTES, Program, Step

_OPERANDS_READ = 12
"""Clocks until a memory instruction has read its registers (maxas: up to 20 are held)."""
_NEVER = float("inf")

QUEUES = ("shared", "l2", "memory")
"""The multiprocessor's own, not its schedulers'."""

Trace = Sequence[int]
"""The indices of the instructions that one warp executes, in order."""


@dataclass
class Simulation:
    """What came of it.

    Parameters
    ----------
    clocks : from the first instruction to the last result.
    slots : that were issued in; a pair takes one.
    busy : clocks by pipe, of all schedulers together for theirs.
    """

    clocks: float
    slots: float
    busy: dict[str, float]


@dataclass(slots=True)
class _Block:
    waiting: list[_Warp] = field(default_factory=list)
    running: int = 0


@dataclass(slots=True)
class _Warp:
    block: _Block
    scheduler: int
    trace: Trace
    position: int = 0
    ready: float = 0.0
    outstanding: list[list[float]] = field(default_factory=lambda: [[] for _ in range(6)])


def simulate(
    program: Program, blocks: Sequence[Sequence[Trace]], *, resident: int, memory_bytes: float
) -> Simulation:
    """Execute blocks, at most `resident` of them at once.

    Parameters
    ----------
    blocks : the traces of each block's warps.
    memory_bytes : a clock, from the card's memory to this multiprocessor.
    """
    return _Multiprocessor(program, memory_bytes).run(blocks, resident)


class _Multiprocessor:
    def __init__(self, program: Program, memory_bytes: float) -> None:
        self._steps = program.steps
        self._rates = program.rates
        self._memory_bytes = memory_bytes
        count = program.rates.schedulers
        self._queues: list[list[tuple[float, int, _Warp]]] = [[] for _ in range(count)]
        self._free = [0.0] * count
        self._pipes: list[dict[str, float]] = [{} for _ in range(count)]
        self._served = dict.fromkeys(QUEUES, 0.0)
        self._busy: defaultdict[str, float] = defaultdict(float)
        self._order = 0
        self._slots = 0
        self._started = 0
        self._end = 0.0

    def run(self, blocks: Sequence[Sequence[Trace]], resident: int) -> Simulation:
        for block in blocks[:resident]:
            self._start(block, 0.0)
        left = iter(blocks[resident:])
        while (scheduler := self._next()) is not None:
            finished = self._issue(scheduler)
            if finished is not None and (following := next(left, None)) is not None:
                self._start(following, finished)
        return Simulation(self._end, self._slots, dict(self._busy))

    def _start(self, traces: Sequence[Trace], at: float) -> None:
        block = _Block(running=len(traces))
        for trace in traces:
            warp = _Warp(block, self._started % self._rates.schedulers, trace, ready=at)
            self._started += 1
            self._push(warp)

    def _push(self, warp: _Warp) -> None:
        self._order += 1
        heapq.heappush(self._queues[warp.scheduler], (warp.ready, self._order, warp))

    def _next(self) -> int | None:
        best, at = None, _NEVER
        for scheduler, queue in enumerate(self._queues):
            if queue and (when := max(queue[0][0], self._free[scheduler])) < at:
                best, at = scheduler, when
        return best

    def _issue(self, scheduler: int) -> float | None:
        """Issue the longest-ready warp's instruction, and its pair. When its block ended, or None."""
        _, _, warp = heapq.heappop(self._queues[scheduler])
        at = max(warp.ready, self._free[scheduler])
        step = self._steps[warp.trace[warp.position]]
        pipes = self._pipes[scheduler]
        if step.pipe and pipes.get(step.pipe, 0.0) > at:
            warp.ready = pipes[step.pipe]
            self._push(warp)
            return None
        self._free[scheduler] = at + 1
        self._slots += 1
        while True:
            self._execute(step, warp, at)
            warp.position += 1
            if warp.position == len(warp.trace):
                return self._finish(warp, at)
            following = self._steps[warp.trace[warp.position]]
            if step.is_barrier:
                self._wait_for_block(warp, at, following)
                return None
            ready = self._ready(warp, at + step.control.stall, following)
            if not (following.paired and ready <= at):
                warp.ready = ready
                self._push(warp)
                return None
            step = following

    def _execute(self, step: Step, warp: _Warp, at: float) -> None:
        done = at + step.latency
        if step.memory:
            done = self._access(step, at)
        elif step.pipe:
            pipes = self._pipes[warp.scheduler]
            start = max(at, pipes.get(step.pipe, 0.0))
            pipes[step.pipe] = start + step.cycles
            self._busy[step.pipe] += step.cycles
            done = start + step.latency
        control = step.control
        if control.write_barrier is not None:
            warp.outstanding[control.write_barrier].append(done)
        if control.read_barrier is not None:
            warp.outstanding[control.read_barrier].append(at + _OPERANDS_READ)
        self._end = max(self._end, done)

    def _access(self, step: Step, at: float) -> float:
        """When a memory instruction's result is there; stores have none, but take part in the queues."""
        latency = self._rates.latency
        if step.memory in ("shared", "shuffle"):
            wavefronts = 1.0 if step.memory == "shuffle" else step.traffic.nbytes / WAVEFRONT_BYTES
            return self._serve("shared", at, max(1.0, wavefronts)) + latency[step.memory]
        traffic = step.traffic
        done = (1 - traffic.from_l2 - traffic.from_memory) * (at + latency["l1"])
        if traffic.nbytes:
            served = self._serve("l2", at, traffic.nbytes / self._rates.l2_bytes)
            done += traffic.from_l2 * (served + latency["l2"])
        from_memory = traffic.nbytes * traffic.memory_share
        if from_memory:
            served = self._serve("memory", at, from_memory / self._memory_bytes)
            done += traffic.from_memory * (served + latency["memory"])
        return done

    def _serve(self, queue: str, at: float, clocks: float) -> float:
        self._served[queue] = max(at, self._served[queue]) + clocks
        self._busy[queue] += clocks
        return self._served[queue]

    def _ready(self, warp: _Warp, at: float, step: Step) -> float:
        """When `step` may be issued at the earliest: at `at`, or when what it awaits is there."""
        for barrier in step.control.awaits:
            results = warp.outstanding[barrier]
            if results:
                at = max(at, *results)
                results.clear()
        if step.at_most is not None:
            results = warp.outstanding[step.at_most[0]]
            results.sort()
            awaited = len(results) - step.at_most[1]
            if awaited > 0:
                at = max(at, results[awaited - 1])
                del results[:awaited]
        return at

    def _wait_for_block(self, warp: _Warp, at: float, following: Step) -> None:
        block = warp.block
        warp.ready = self._ready(warp, at + 1, following)
        block.waiting.append(warp)
        if len(block.waiting) == block.running:
            self._release(block, at)

    def _release(self, block: _Block, at: float) -> None:
        for warp in block.waiting:
            warp.ready = max(warp.ready, at + self._rates.latency["shared"])
            self._push(warp)
        block.waiting.clear()

    def _finish(self, warp: _Warp, at: float) -> float | None:
        block = warp.block
        block.running -= 1
        self._end = max(self._end, at)
        if block.running == 0:
            return at + 1
        if len(block.waiting) == block.running:
            self._release(block, at)
        return None
