"""What a kernel's machine code is like: registers, spills, its main loop's mix, and how fast a card runs it.

    python machine_code/examine.py quantise_input.cu -D INPUT_TYPE=1 -D PLANES=2 -D SCALE_GROUP=32
        -D HAS_PERMUTATION=0 --threads 256 --card "Tesla P40"

The head of each source, and those of what it includes, say which definitions it takes. Compiles the file of
kernels/cuda for the card's architecture (or the one given), needs no GPU, takes seconds. How the speed is
modelled: timing_model.py. The path through the code is worked out by walk.py; `--taken` gives forward
branches to take. Global loads come from L2, but for `--from-memory` of their bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from disassembler import KernelCode, disassemble
from issue_rates import issue_rates
from loops import ARITHMETIC, Loop, find_loops, main_loop
from multiprocessor import QUEUES, Simulation, simulate
from program import LANES, Program, Traffic, default_traffic, make_program
from scheduling import controls
from timing_model import Card, occupancy
from walk import walk

import pascaline.kernels.cuda
from pascaline.cli.ending import run
from pascaline.hardware.gpus import Gpu, find_gpu
from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.compiler import OPTIONS

KERNELS = Path(pascaline.kernels.cuda.__file__).parent
_SHORT, _LONG = 3, 6
_MOST_THREADS = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    given = parser.parse_args(arguments)
    if not 1 <= given.threads <= _MOST_THREADS:
        parser.error(f"--threads {given.threads}: a block has 1 to {_MOST_THREADS}")
    try:
        gpu = find_gpu(given.card)
        architecture = given.architecture or "sm_" + gpu.compute_capability.replace(".", "")
        cubin = _cubin(given, architecture)
        kernels = disassemble(cubin)
        if given.entry is not None and given.entry not in kernels:
            raise ValueError(f"no kernel {given.entry!r} in it; there is {', '.join(kernels)}")
        for name, code in kernels.items():
            if given.entry in (None, name):
                program = _program(cubin, code, given.from_memory)
                sys.stdout.write("\n".join(_report(program, gpu, given)) + "\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"examine: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="a .cu file, of kernels/cuda unless it is a path; or a .cubin")
    parser.add_argument("--entry", help="only this kernel")
    parser.add_argument("-D", dest="definitions", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--architecture", help="the card's by default")
    parser.add_argument("--card", default="Tesla P40")
    parser.add_argument("--clock-mhz", type=float, help="the card's highest by default")
    parser.add_argument("--threads", type=int, default=256, help="a block")
    parser.add_argument("--shared-bytes", type=int, default=0, help="dynamic, a block")
    parser.add_argument(
        "--trips",
        type=_trips,
        action="append",
        default=[],
        metavar="ADDRESS=N",
        help="of a loop inside of the outermost around the main loop; 1 by default",
    )
    parser.add_argument("--taken", type=_address_of, action="append", default=[], metavar="ADDRESS")
    parser.add_argument("--from-memory", type=float, default=0.0, metavar="SHARE", help="of global loads")
    parser.add_argument("--listing", action="store_true", help="print the main loop's instructions")
    return parser


def _address_of(text: str) -> int:
    return int(text, 16)


def _trips(text: str) -> tuple[int, int]:
    address, _, count = text.partition("=")
    return int(address, 16), int(count)


def _cubin(given: argparse.Namespace, architecture: str) -> bytes:
    path = Path(given.file)
    path = path if path.exists() else KERNELS / path
    if path.suffix == ".cubin":
        return path.read_bytes()
    options = [*OPTIONS, f"-I{KERNELS}", *(f"-D{definition}" for definition in given.definitions)]
    source = path.read_text(encoding="utf-8")
    return find_nvrtc(architecture).compile(source, architecture, options=options, file_name=path.name).cubin


def _program(cubin: bytes, code: KernelCode, from_memory: float) -> Program:
    rates = issue_rates(code.architecture)
    traffic = {
        index: Traffic(default_traffic(each).nbytes, from_memory, 1 - from_memory, from_memory)
        for index, each in enumerate(code.instructions)
        if rates.class_of(each).memory == "load"
    }
    return make_program(code, controls(cubin, code), rates, traffic)


def _report(program: Program, gpu: Gpu, given: argparse.Namespace) -> Iterator[str]:
    code = program.code
    resources = code.resources
    held = occupancy(program, given.threads, given.shared_bytes)
    spills = sum(each.name in ("LDL", "STL") for each in code.instructions)
    yield f"{code.name} for {code.architecture}: {len(code.instructions)} instructions"
    yield (
        f"  registers {resources.registers}, shared {resources.shared_bytes + given.shared_bytes} bytes, "
        f"local {resources.local_bytes} bytes, LDL and STL {spills}"
    )
    yield f"  {held.blocks} blocks of {given.threads} threads a multiprocessor (limited by {held.limited_by})"
    for loop in find_loops(code):
        kind = "loop" if loop.innermost else "loop around others"
        yield f"  {kind} {_address(code, loop.first)}–{_address(code, loop.last)}: {_mix(loop)}"
    loop_ = main_loop(code)
    if loop_ is None:
        yield "  no loop multiplies and adds"
        return
    yield from _main_loop(program, loop_, gpu, held.blocks, given)


def _main_loop(
    program: Program, loop: Loop, gpu: Gpu, resident: int, given: argparse.Namespace
) -> Iterator[str]:
    code, rates = program.code, program.rates
    steps = program.steps[loop.first : loop.last + 1]
    slots = sum(not step.paired for step in steps)
    main_name = _main_name(loop)
    multiply_adds = loop.count(main_name)
    yield f"main loop at {_address(code, loop.first)}, a trip of one warp:"
    yield (
        f"  {len(steps)} instructions in {slots} issue slots, {multiply_adds} of them {main_name}: "
        f"{multiply_adds / slots:.3f} of the slots, {multiply_adds / len(steps):.3f} of the instructions"
    )
    pipes: dict[str, float] = {}
    for step in steps:
        if step.pipe:
            pipes[step.pipe] = pipes.get(step.pipe, 0.0) + step.cycles
    yield "  clocks of a scheduler by pipe: " + ", ".join(f"{k} {v:g}" for k, v in _largest(pipes))
    conflicts = sum(
        step.cycles - rates.class_of(each).cycles
        for each, step in zip(loop.instructions, steps, strict=True)
        if step.pipe
    )
    yield f"  of them register bank conflicts: {conflicts:g}"
    if given.listing:
        for each, step in zip(loop.instructions, steps, strict=True):
            pair = "}" if step.paired else " "
            operands = ", ".join(each.operands)
            yield f"  {each.address:#06x} {step.control.stall:2} {pair} {each.opcode} {operands}"
    if resident:
        yield from _modelled(program, loop, gpu, resident, given)


def _modelled(
    program: Program, main: Loop, gpu: Gpu, resident: int, given: argparse.Namespace
) -> Iterator[str]:
    """The steady state: what a further trip of the outermost loop around the main one takes."""
    code, schedulers = program.code, program.rates.schedulers
    clock_mhz = given.clock_mhz or gpu.max_mhz
    warps = -(-given.threads // LANES)
    rate = Card(gpu, clock_mhz).memory_bytes
    outer = next(loop for loop in find_loops(code) if loop.first <= main.first and main.last <= loop.last)
    inner = {_index(code, address): trips for address, trips in given.trips}

    def run(trips: int) -> tuple[Simulation, int]:
        trace = walk(code, {**inner, outer.first: trips}, given.taken)
        done = simulate(program, [[trace] * warps] * resident, resident=resident, memory_bytes=rate)
        return done, sum(code.instructions[index].name == _main_name(main) for index in trace)

    (short, fewer), (long, more) = run(_SHORT), run(_LONG)
    trips = _LONG - _SHORT
    clocks = (long.clocks - short.clocks) / trips
    rounds = resident * warps / schedulers
    least = (more - fewer) / trips * rounds * _cycles_of_main(program, main)
    issue = (long.slots - short.slots) / trips / schedulers
    yield f"modelled on {gpu.name} at {clock_mhz:g} MHz with {resident} blocks ({resident * warps} warps):"
    yield (
        f"  {clocks:.1f} clocks a trip of all of them from {_address(code, outer.first)}; "
        f"issue needs {issue:.1f}, its {_main_name(main)} {least:.1f}: {least / clocks:.3f} of their peak"
    )
    busy = {
        name: (value - short.busy.get(name, 0.0)) / trips / clocks / (1 if name in QUEUES else schedulers)
        for name, value in long.busy.items()
    }
    yield f"  busy: issue {issue / clocks:.2f}, " + ", ".join(f"{k} {v:.2f}" for k, v in _largest(busy)[:8])
    yield f"  outside of the loop: {long.clocks - _LONG * clocks:.0f} clocks"


def _cycles_of_main(program: Program, loop: Loop) -> float:
    """Of the main multiply-add's pipe, without conflicts."""
    first = next(each for each in loop.instructions if each.name == _main_name(loop))
    return program.rates.class_of(first).cycles


def _main_name(loop: Loop) -> str:
    return max(ARITHMETIC, key=loop.count)


def _mix(loop: Loop) -> str:
    return f"{len(loop.instructions)}: " + ", ".join(f"{name} {n}" for name, n in loop.names.most_common(12))


def _largest(values: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(values.items(), key=lambda item: -item[1])


def _index(code: KernelCode, address: int) -> int:
    return next(index for index, each in enumerate(code.instructions) if each.address >= address)


def _address(code: KernelCode, index: int) -> str:
    return f"{code.instructions[index].address:#x}"


if __name__ == "__main__":
    run(main)
