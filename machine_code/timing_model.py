"""How long a kernel takes on a card that is not at hand, modelled from its real machine code.

    time = clocks of one multiprocessor for its share of the launch ÷ clock

The share is executed in the emulator (`recording.record`), which says what each warp executes and what it
reads and writes; `multiprocessor.simulate` says how long that takes. The time is never below any of: issue
slots ÷ schedulers (`issue`), each pipe's busy clocks ÷ schedulers, shared memory's and L2's, and bytes ÷
(bandwidth × MEMORY_SHARE ÷ multiprocessors) (`memory`). Where it is much above all of these, warps wait for
each other or for results: it is bound by `latency`. What a launch costs beside its kernel (2 to 5 µs where
nothing hides it) is not in it, and neither is what the shares of multiprocessors differ by.

The factors: MEMORY_SHARE, and the rates and latencies of issue_rates.toml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cubin import KernelResources
from disassembler import KernelCode, disassemble
from issue_rates import REGISTER_UNIT, REGISTERS, SHARED_UNIT, WARP_UNIT, IssueRates, issue_rates
from multiprocessor import QUEUES, Simulation, Trace, simulate
from program import LANES, Program, make_program
from recording import Recording
from scheduling import Control, controls

from pascaline.hardware.gpus import Gpu

MEMORY_SHARE = {"5": 0.86, "6": 0.86, "7": 0.88, "8": 0.92, "9": 0.95}
"""Of the listed bandwidth that a plain read reaches, by the compute capability's first number. 5 and 6: what
a further byte costs in llama.cpp's published decoding on a Tesla P40, formats of different sizes (0.78 to
0.87); 9: measured on an H200; 7 and 8: between."""

LATENCY_SHARE = 0.75
"""Where no pipe and no queue is busy for this share of the time, waiting is what binds."""


@dataclass(frozen=True, eq=False)
class Card:
    """A card and the clock in MHz that it is taken to run at."""

    gpu: Gpu
    clock_mhz: float

    @property
    def memory_bytes(self) -> float:
        """A clock, from memory to one multiprocessor, where all read."""
        return self.bandwidth / self.gpu.sms / self.hertz

    @property
    def bandwidth(self) -> float:
        """Bytes a second that a plain read reaches."""
        share = MEMORY_SHARE[self.gpu.compute_capability.partition(".")[0]]
        return self.gpu.bandwidth_gb_per_s * 1e9 * share

    @property
    def hertz(self) -> float:
        return self.clock_mhz * 1e6

    def read_s(self, nbytes: float) -> float:
        """A plain read of so many bytes: the first takes the memory's latency."""
        latency = issue_rates("sm_" + self.gpu.compute_capability.replace(".", "")).latency
        return nbytes / self.bandwidth + latency["memory"] / self.hertz


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel's machine code, read once."""

    code: KernelCode
    controls: tuple[Control, ...]
    rates: IssueRates

    @property
    def resources(self) -> KernelResources:
        return self.code.resources


@dataclass(frozen=True)
class Occupancy:
    """How many blocks a multiprocessor holds at once, and what limits it."""

    blocks: int
    limited_by: str


@dataclass(frozen=True)
class Modelled:
    """A kernel's modelled time on a card.

    Parameters
    ----------
    time_s : of the kernel.
    busy : of that time, what issue, each pipe and each queue is busy.
    bound_by : the busiest of them, or "latency".
    """

    time_s: float
    busy: Mapping[str, float]
    bound_by: str


def read_kernel(cubin: bytes, name: str) -> Kernel:
    """A kernel of a cubin by (a part of) its name in the machine code.

    Raises
    ------
    ValueError : there is none, or there are several.
    UnsupportedError : its architecture has no rates.
    """
    found = [code for kernel, code in disassemble(cubin).items() if name in kernel]
    if len(found) != 1:
        raise ValueError(f"{len(found)} kernels of the cubin are called {name}")
    return Kernel(found[0], controls(cubin, found[0]), issue_rates(found[0].architecture))


def occupancy(kernel: Kernel | Program, threads: int, dynamic_shared_bytes: int) -> Occupancy:
    """How many blocks fit. Source: CUDA C++ Programming Guide, Technical Specifications."""
    rates, resources = kernel.rates, kernel.code.resources
    warps = -(-threads // LANES)
    a_warp = -(-resources.registers * LANES // REGISTER_UNIT) * REGISTER_UNIT
    limits = {
        "registers": REGISTERS // a_warp // WARP_UNIT * WARP_UNIT // warps,
        "warps": rates.warps // warps,
        "blocks": rates.blocks,
        "shared memory": _of_shared(rates, resources.shared_bytes + dynamic_shared_bytes),
    }
    limited_by = min(limits, key=lambda name: limits[name])
    return Occupancy(limits[limited_by], limited_by)


def _of_shared(rates: IssueRates, nbytes: int) -> int:
    a_block = -(-(nbytes + rates.shared_bytes_kept) // SHARED_UNIT) * SHARED_UNIT
    return rates.shared_bytes // a_block if a_block else rates.blocks


def model_share(kernel: Kernel, recording: Recording, resident: int, card: Card) -> Modelled:
    """Of a launch of which `recording` is one multiprocessor's share, `resident` blocks of it at once."""
    return _modelled(_simulate(kernel, recording, recording.blocks, resident, card), kernel.rates, card)


@dataclass(frozen=True)
class Wave:
    """What so many blocks take on a multiprocessor, others behind them: as many as it holds, or a multiple.

    Parameters
    ----------
    short, long : with `short_steps` and `long_steps` steps of the kernel's loop over K.
    two : two waves, one behind the other, with `short_steps`.
    """

    blocks: int
    short_steps: int
    long_steps: int
    short: Simulation
    long: Simulation
    two: Simulation
    rates: IssueRates

    def modelled(self, steps: float, blocks: float, card: Card) -> Modelled:
        """Of a launch with so many steps, of which one multiprocessor makes so many blocks.

        Time is linear in steps, and each further wave takes as long as the second.
        """
        further = (steps - self.short_steps) / (self.long_steps - self.short_steps)
        waves = max(0.0, blocks / self.blocks - 1)

        def grown(short: float, long: float, two: float) -> float:
            growth = further * (long - short)
            return short + growth + waves * (two - short + growth)

        whole = Simulation(
            clocks=grown(self.short.clocks, self.long.clocks, self.two.clocks),
            slots=grown(self.short.slots, self.long.slots, self.two.slots),
            busy={
                name: grown(value, self.long.busy[name], self.two.busy[name])
                for name, value in self.short.busy.items()
            },
        )
        return _modelled(whole, self.rates, card)


def simulate_wave(
    kernel: Kernel, resident: int, recordings: Sequence[tuple[int, Recording]], card: Card
) -> Wave:
    """Of two recordings of the same blocks, and how many steps each has, the shorter first."""
    (short_steps, short), (long_steps, long) = recordings
    return Wave(
        len(short.blocks),
        short_steps,
        long_steps,
        _simulate(kernel, short, short.blocks, resident, card),
        _simulate(kernel, long, long.blocks, resident, card),
        _simulate(kernel, short, short.blocks * 2, resident, card),
        kernel.rates,
    )


def _simulate(
    kernel: Kernel, recording: Recording, blocks: Sequence[Sequence[Trace]], resident: int, card: Card
) -> Simulation:
    program = make_program(kernel.code, kernel.controls, kernel.rates, recording.traffic)
    return simulate(program, blocks, resident=resident, memory_bytes=card.memory_bytes)


def _modelled(simulated: Simulation, rates: IssueRates, card: Card) -> Modelled:
    busy = {
        name: clocks / simulated.clocks / (1 if name in QUEUES else rates.schedulers)
        for name, clocks in simulated.busy.items()
    }
    busy["issue"] = simulated.slots / rates.schedulers / simulated.clocks
    busiest = max(busy, key=lambda name: busy[name])
    return Modelled(
        time_s=simulated.clocks / card.hertz,
        busy=busy,
        bound_by=busiest if busy[busiest] >= LATENCY_SHARE else "latency",
    )
