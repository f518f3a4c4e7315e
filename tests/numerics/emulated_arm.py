"""Calls of the native library, recorded here and replayed by the ARM library on an emulated processor.

A recording is an image of all memory that the calls read or write, as it was before each call, at
addresses of its own; the replay (tests/native/replay.cpp) maps it there, makes the same calls and leaves
its results in it. Memory must then hold the very bits that the library of this machine left.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from pascaline.hardware.instruction_sets import runnable
from pascaline.kernels.cpu import native
from pascaline.kernels.cpu.views import (
    Choice,
    CodesView,
    Launch,
    NumbersView,
    PackedView,
    Step,
    TensorView,
    WeightView,
)

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import build_native  # noqa: E402 - found by the path above

COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = next(filter(None, map(shutil.which, ("qemu-aarch64-static", "qemu-aarch64"))), None)
# The oldest server processor with dot products: code that needs more ends by SIGILL.
PROCESSOR = "neoverse-n1"
ADDRESS = 0x2000_0000_0000
LINE = 64
NUMBER_BYTES = {0: 4, 1: 2, 2: 2, 3: 1, 4: 4, 5: 8}
TILE_ROWS, BLOCK = 16, 32
RUN, RETILE, CHOOSE = range(3)
THREADS = 2
FOUND_OUT = ("token", "is_finite", "largest", "total")


def missing() -> str | None:
    """What the emulation needs and this machine lacks."""
    found = native.library()
    if isinstance(found, str):
        return f"no native library here: {found}"
    if shutil.which(COMPILER) is None:
        return f"no {COMPILER} here (Debian: g++-aarch64-linux-gnu)"
    return None if EMULATOR else "no qemu-aarch64 here (Debian: qemu-user-static)"


class Emulator:
    """The ARM library and the program that calls it, built where they are not up to date."""

    def __init__(self, folder: Path) -> None:
        command = (COMPILER,)
        problem = build_native.build(
            build_native.FOLDER, "aarch64", build_native.Compiler(COMPILER, command, command, ())
        )
        assert problem is None, problem
        [self._library] = [
            build_native.FOLDER / each.library.name for each in build_native.sets_for("aarch64")
        ]
        self._program = folder / "replay"
        source = ROOT / "tests" / "native" / "replay.cpp"
        options = ("-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{build_native.FOLDER}")
        subprocess.run([COMPILER, *options, source, "-o", self._program, "-ldl"], check=True)
        asked = [COMPILER, "-print-file-name=libc.so.6"]
        libc = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
        self._system = libc.resolve().parents[1]

    def replay(self, recording: Path) -> None:
        """Make the recorded calls; their results are in the file then."""
        assert EMULATOR is not None
        command = [EMULATOR, "-cpu", PROCESSOR, "-L", self._system, self._program, self._library, recording]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


class Extent(NamedTuple):
    """Memory of this process."""

    start: int
    stop: int


class _Region(NamedTuple):
    extent: Extent
    at: int  # in the image


class _Call(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("kind", "first", "second", "count", "vocabulary", "threads")
    )


class _Memory:
    """What one call reads and writes, put into the image."""

    def __init__(self, image: bytearray, extents: list[Extent]) -> None:
        self._image = image
        self.regions: list[_Region] = []
        for extent in _merged(extents):
            # As far from the start of a cache line as it is here.
            at = -(-len(image) // LINE) * LINE + extent.start % LINE
            image.extend(bytes(at - len(image)))
            image += ctypes.string_at(extent.start, extent.stop - extent.start)
            self.regions.append(_Region(extent, at))
        self._starts = [region.extent.start for region in self.regions]

    def moved(self, pointer: int | None) -> int | None:
        """The same place in the image; where nothing is read, none."""
        index = bisect_right(self._starts, pointer or 0) - 1
        if pointer is None or index < 0 or pointer >= self.regions[index].extent.stop:
            return None
        return ADDRESS + self.regions[index].at + pointer - self.regions[index].extent.start

    def put(self, content: bytes) -> int:
        """Add what is no memory of this process."""
        at = -(-len(self._image) // LINE) * LINE
        self._image.extend(bytes(at - len(self._image)))
        self._image += content
        return ADDRESS + at

    def now(self) -> list[bytes]:
        """What is in the regions' places in this process."""
        return [ctypes.string_at(start, stop - start) for (start, stop), _ in self.regions]


class RecordingLibrary(native.Library):
    """Computes as this machine's best library does, and remembers what it was asked for."""

    def __init__(self, emulator: Emulator, recording: Path) -> None:
        super().__init__(runnable()[0])
        self._emulator = emulator
        self._recording = recording
        self._names: dict[int, bytes] = {}
        self._image = bytearray(LINE)
        self._calls: list[_Call] = []
        self._expected: list[tuple[int, bytes]] = []
        self._chosen: list[tuple[int, ctypes.Array[Choice]]] = []

    def kernel(self, op: str) -> int:  # type: ignore[override]  # the other is a cached one
        address: int = super().kernel(op)
        self._names[address] = op.encode()
        return address

    def run(self, launches: ctypes.Array[Launch], step: Step) -> None:
        together = [launch for each in launches for launch in _with_before(each)]
        memory = _Memory(self._image, [extent for launch in together for extent in _of_launch(launch)])
        copies = (Launch * len(launches))(*(self._moved(launch, memory) for launch in launches))
        self._remember(RUN, memory.put(bytes(copies)), memory.put(bytes(step)), len(launches))
        super().run(launches, step)
        self._expect(memory)

    def retile(self, weight: PackedView, tiles: WeightView) -> None:
        memory = _Memory(self._image, [*_of_packed(weight), *_of_weight(tiles)])
        views = [memory.put(bytes(_moved_weight(view, memory))) for view in (weight, tiles)]
        self._remember(RETILE, *views)
        super().retile(weight, tiles)
        self._expect(memory)

    def choose(self, choices: ctypes.Array[Choice], vocabulary: int) -> None:
        rows = {pointer for choice in choices for pointer in (choice.raw, choice.logits)}
        memory = _Memory(self._image, [Extent(pointer, pointer + 4 * vocabulary) for pointer in rows])
        copies = type(choices).from_buffer_copy(choices)
        for choice in copies:
            choice.raw, choice.logits = memory.moved(choice.raw), memory.moved(choice.logits)
        at = memory.put(bytes(copies))
        self._remember(CHOOSE, at, 0, len(choices), vocabulary)
        super().choose(choices, vocabulary)
        self._expect(memory)
        self._chosen.append((at - ADDRESS, type(choices).from_buffer_copy(choices)))

    def assert_replay_gives_the_same_bits(self) -> None:
        """Of all memory that a call could have written, and of all choices; NaN may have another sign."""
        assert self._calls
        memory = _Memory(self._image, [])
        calls = memory.put(b"".join(map(bytes, self._calls)))
        self._image[:16] = len(self._calls).to_bytes(8, "little") + calls.to_bytes(8, "little")
        self._recording.write_bytes(self._image)
        self._emulator.replay(self._recording)
        found = self._recording.read_bytes()
        for at, expected in self._expected:
            _assert_same(found[at : at + len(expected)], expected)
        for at, choices in self._chosen:
            theirs = type(choices).from_buffer_copy(found, at)
            for one, other in zip(choices, theirs, strict=True):
                assert _found_out(one) == _found_out(other)

    def _remember(self, kind: int, first: int, second: int, count: int = 0, vocabulary: int = 0) -> None:
        self._calls.append(_Call(kind, first, second, count, vocabulary, THREADS))

    def _expect(self, memory: _Memory) -> None:
        contents = zip(memory.regions, memory.now(), strict=True)
        self._expected += [(region.at, content) for region, content in contents]

    def _moved(self, launch: Launch, memory: _Memory) -> Launch:
        copy = Launch.from_buffer_copy(launch)
        copy.kernel = memory.put(self._names[launch.kernel] + b"\0")
        if launch.weight:
            weight = _moved_weight(WeightView.from_address(launch.weight), memory)
            copy.weight = memory.put(bytes(weight))
        if launch.before:
            copy.before = memory.put(bytes(self._moved(Launch.from_address(launch.before), memory)))
        for tensor in (*copy.tensors, copy.residual):
            tensor.data = memory.moved(tensor.data)
        return copy


def _with_before(launch: Launch) -> Iterator[Launch]:
    yield launch
    if launch.before:
        yield Launch.from_address(launch.before)


def _merged(extents: list[Extent]) -> list[Extent]:
    """Those that overlap made one."""
    merged: list[Extent] = []
    for extent in sorted(extents):
        if extent.start >= extent.stop:
            continue
        if merged and extent.start <= merged[-1].stop:
            merged[-1] = Extent(merged[-1].start, max(merged[-1].stop, extent.stop))
        else:
            merged.append(extent)
    return merged


def _of_launch(launch: Launch) -> Iterator[Extent]:
    for tensor in (*launch.tensors, launch.residual):
        if tensor.data:
            yield _of_tensor(tensor)
    if launch.weight:
        yield from _of_weight(WeightView.from_address(launch.weight))


def _of_tensor(tensor: TensorView) -> Extent:
    sizes, strides = tensor.sizes[: tensor.axes], tensor.strides[: tensor.axes]
    elements = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1
    nbytes = 0 if 0 in sizes else elements * NUMBER_BYTES[tensor.form]
    return Extent(tensor.data, tensor.data + nbytes)


def _of_weight(weight: WeightView) -> Iterator[Extent]:
    if not weight.codes.count:
        yield from _of_numbers(weight.scales, weight.rows, weight.columns)
        return
    tiles = -(-weight.rows // TILE_ROWS)
    for numbers in (weight.scales, weight.offsets):
        yield from _of_numbers(numbers, tiles, numbers.stride)
    for codes in (weight.codes, weight.group_scales, weight.group_offsets, weight.zeros):
        for plane in codes.planes[: codes.count]:
            yield Extent(plane.data, plane.data + tiles * plane.stride)
    if weight.table:
        yield Extent(weight.table, weight.table + 16)
    if weight.inputs:
        stored = -(-weight.groups * weight.group_size // BLOCK) * BLOCK
        yield Extent(weight.inputs, weight.inputs + 4 * stored)


def _of_packed(weight: PackedView) -> Iterator[Extent]:
    for numbers in (weight.scales, weight.offsets):
        yield from _of_numbers(numbers, weight.rows, weight.columns // weight.super_size)
    yield from _of_codes(weight.codes, weight.rows, weight.columns)
    for codes in (weight.group_scales, weight.group_offsets, weight.zeros):
        yield from _of_codes(codes, weight.rows, weight.columns // weight.group_size)


def _of_codes(codes: CodesView, rows: int, columns: int) -> Iterator[Extent]:
    for plane in codes.planes[: codes.count]:
        wide = -(-columns // plane.run) * plane.run * plane.bits // 8
        yield Extent(plane.data, plane.data + (rows - 1) * plane.stride + wide)


def _of_numbers(numbers: NumbersView, rows: int, columns: int) -> Iterator[Extent]:
    if numbers.data:
        elements = (rows - 1) * numbers.stride + columns
        yield Extent(numbers.data, numbers.data + elements * NUMBER_BYTES[numbers.form])


def _moved_weight(weight: Any, memory: _Memory) -> Any:
    """A copy of a view of a weight, packed or in tiles, that points into the image."""
    copy = type(weight).from_buffer_copy(weight)
    for numbers in (copy.scales, copy.offsets):
        numbers.data = memory.moved(numbers.data)
    for codes in (copy.codes, copy.group_scales, copy.group_offsets, copy.zeros):
        for plane in codes.planes:
            plane.data = memory.moved(plane.data)
    if isinstance(copy, WeightView):
        copy.table, copy.inputs = memory.moved(copy.table), memory.moved(copy.inputs)
    return copy


def _assert_same(found: bytes, expected: bytes) -> None:
    if found == expected:
        return
    whole = len(expected) // 4 * 4
    assert found[whole:] == expected[whole:]
    ours, theirs = (numpy.frombuffer(content[:whole], numpy.float32) for content in (expected, found))
    differing = ours.view(numpy.uint32) != theirs.view(numpy.uint32)
    wrong = differing & ~(numpy.isnan(ours) & numpy.isnan(theirs))
    pairs = list(zip(ours[wrong][:4], theirs[wrong][:4], strict=True))
    assert not wrong.any(), f"{int(wrong.sum())} of {len(wrong)} differ: {pairs}"


def _found_out(choice: Choice) -> tuple[object, ...]:
    reported = max(choice.reported, 0) if choice.is_finite else 0
    fields = FOUND_OUT if choice.is_finite and choice.reported >= 0 else FOUND_OUT[:2]
    values = tuple(getattr(choice, field) for field in fields)
    return (*values, *choice.ids[:reported], *choice.values[:reported])
