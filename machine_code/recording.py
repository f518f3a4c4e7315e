"""What warps really execute and access: a launch in the emulator, recorded for the timing model.

A recording is of one multiprocessor's share of a launch. Whether a load is served by the memory, by L2 or by
the multiprocessor's own cache is told from the addresses: what `.CI` loads (the read-only path) has read
before comes from that cache; of the rest, what comes from memory itself is `from_memory` of the first reads
of each 32 bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from disassembler import KernelCode
from emulator.operands import ZERO_REGISTER
from emulator.run_plan import run_plan
from emulator.step import Step
from multiprocessor import Trace
from program import LANES, WAVEFRONT_BYTES, Traffic, lane_bytes

from pascaline.kernels.cuda.specialisation import LaunchPlan

Array = np.ndarray[Any, np.dtype[Any]]

SECTOR_BYTES = 32
_BANKS, _BANK_BYTES = 32, 4
_ADDRESS_OPERAND = {"LDS": 1, "LDG": 1, "STS": 0, "STG": 0, "RED": 0, "ATOM": 1}


@dataclass(frozen=True)
class Recording:
    """Parameters
    ----------
    blocks : the traces of each block's warps.
    traffic : of each memory instruction by its index: the mean of its executions.
    memory_bytes : that came from memory and went there.
    """

    blocks: tuple[tuple[Trace, ...], ...]
    traffic: Mapping[int, Traffic]
    memory_bytes: float


def record(
    plan: LaunchPlan,
    buffers: Mapping[str, Array],
    code: KernelCode,
    from_memory: Mapping[str, float],
) -> Recording:
    """Execute a plan and write down what its warps do.

    Parameters
    ----------
    from_memory : by the buffer, the share of its first reads that no other multiprocessor has made before: 1
        for what only this one reads, one over their number for what all read.

    Raises
    ------
    Exception : what `run_plan` raises.
    """
    warps = -(-plan.block[0] * plan.block[1] * plan.block[2] // LANES)
    blocks = plan.grid[0] * plan.grid[1] * plan.grid[2]
    recorder = _Recorder(blocks * warps, from_memory)
    run_plan(plan, buffers, code, observe=recorder.observe)
    traces = [tuple(trace) for trace in recorder.traces]
    return Recording(
        tuple(tuple(traces[block * warps : (block + 1) * warps]) for block in range(blocks)),
        recorder.traffic(),
        recorder.memory_bytes,
    )


class _Recorder:
    def __init__(self, warps: int, from_memory: Mapping[str, float]) -> None:
        self.traces: list[list[int]] = [[] for _ in range(warps)]
        self.memory_bytes = 0.0
        self._from_memory = from_memory
        self._executions: defaultdict[int, int] = defaultdict(int)
        self._nbytes: defaultdict[int, float] = defaultdict(float)
        self._memory: defaultdict[int, float] = defaultdict(float)
        self._misses: defaultdict[int, int] = defaultdict(int)
        self._waits: defaultdict[int, float] = defaultdict(float)
        self._seen: set[int] = set()

    def observe(self, step: Step) -> None:
        """Note one instruction of those warps that have come to it."""
        position = step.position
        for warp in step.indices:
            self.traces[warp].append(position)
        operand = _ADDRESS_OPERAND.get(step.decoded.name)
        if operand is None:
            return
        self._executions[position] += len(step.indices)
        is_shared = step.decoded.name in ("LDS", "STS")
        note = self._note_shared if is_shared else self._note_global
        addresses = _addresses(step, operand, is_shared)
        for active, of_warp in zip(step.active, addresses, strict=True):
            if active.any():
                note(step, of_warp[active], np.flatnonzero(active))

    def traffic(self) -> dict[int, Traffic]:
        """The mean of each instruction's executions."""
        return {
            position: Traffic(
                nbytes=self._nbytes[position] / count,
                memory_share=self._memory[position] / self._nbytes[position]
                if self._nbytes[position]
                else 0.0,
                from_l2=(self._misses[position] - self._waits[position]) / count,
                from_memory=self._waits[position] / count,
            )
            for position, count in self._executions.items()
        }

    def _note_shared(self, step: Step, addresses: Array, lanes: Array) -> None:
        nbytes = lane_bytes(step.decoded.instruction)
        self._nbytes[step.position] += WAVEFRONT_BYTES * wavefronts(addresses, lanes, nbytes)

    def _note_global(self, step: Step, addresses: Array, _lanes: Array) -> None:
        nbytes = lane_bytes(step.decoded.instruction)
        sectors = set(np.unique(np.concatenate([addresses, addresses + nbytes - 1]) // SECTOR_BYTES).tolist())
        position = step.position
        if step.decoded.name != "LDG":
            self._nbytes[position] += SECTOR_BYTES * len(sectors)
            self._memory[position] += SECTOR_BYTES * len(sectors)
            self.memory_bytes += SECTOR_BYTES * len(sectors)
            self._misses[position] += step.decoded.name == "ATOM"  # its result is L2's
            return
        new = sectors - self._seen
        self._seen |= sectors
        self._nbytes[position] += SECTOR_BYTES * len(new if step.has("CI") else sectors)
        share = self._share(step, int(addresses[0]))
        self._misses[position] += bool(new) or not step.has("CI")
        self._waits[position] += share * bool(new)
        share *= SECTOR_BYTES * len(new)
        self._memory[position] += share
        self.memory_bytes += share

    def _share(self, step: Step, address: int) -> float:
        memory = step.machine.memory
        named = [(memory.address(name), name) for name in self._from_memory if name in memory]
        below = [each for each in named if each[0] <= address]
        return self._from_memory[max(below)[1]] if below else 1.0


def wavefronts(addresses: Array, lanes: Array, nbytes: int) -> int:
    """Clocks of shared memory that one warp's access takes.

    A warp's lanes go in groups that together may take 128 bytes: all 32 of 4 bytes, halves of 8, quarters of
    16. Of wide reads two groups go as one where every lane has the address of the lane one or two away. A
    group takes as many clocks as its most wanted bank has different words.
    """
    group = LANES * _BANK_BYTES // max(nbytes, _BANK_BYTES)
    if group < LANES and any(_pairs_agree(addresses, lanes, distance) for distance in (1, 2)):
        group *= 2
    return sum(_of_group(addresses[lanes // group == number], nbytes) for number in range(LANES // group))


def _pairs_agree(addresses: Array, lanes: Array, distance: int) -> bool:
    known = dict(zip(lanes.tolist(), addresses.tolist(), strict=True))
    return all(known.get(lane ^ distance, address) == address for lane, address in known.items())


def _of_group(addresses: Array, nbytes: int) -> int:
    if not addresses.size:
        return 0
    words = np.unique(addresses[:, None] // _BANK_BYTES + np.arange(max(1, nbytes // _BANK_BYTES))[None, :])
    return int(np.bincount(words % _BANKS).max())


def _addresses(step: Step, operand: int, is_shared: bool) -> Array:
    address = step.address(operand)
    found = step.read(address.register).astype(np.int64) * address.scale
    if not is_shared and address.register != ZERO_REGISTER:
        found = found + (step.read(address.register + 1).astype(np.int64) << 32)
    found = found + address.offset
    return np.broadcast_to(found & 0xFFFFFFFF if is_shared else found, step.active.shape)
