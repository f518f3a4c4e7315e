"""The CUDA driver through ctypes: load machine code, launch it, time it. No toolkit and no torch.

A device's primary context is used, which torch uses too: memory and streams of both are the same world.

Source: the CUDA Driver API reference; `_v2` is the name under which cuda.h binds a function.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from pascaline.core.errors import CudaError

Argument = ctypes.c_int | ctypes.c_uint | ctypes.c_int64 | ctypes.c_uint64 | ctypes.c_float | ctypes.c_void_p
"""What a kernel takes; a pointer to device memory is a `c_void_p`."""

Dimensions = tuple[int, int, int]

_LIBRARY = "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
_LAUNCH_LIMIT = 1 << 31
_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CUlaunchAttributeID
# CUfunction_attribute
_STATIC_SHARED_BYTES, _LOCAL_BYTES, _REGISTERS, _MOST_DYNAMIC_SHARED_BYTES = 1, 3, 4, 8
_SHARED_BYTES_OF_ANY = 48 << 10
"""A block may have so much shared memory on every chip; more is opted in to, kernel by kernel."""


@functools.cache
def _driver() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise CudaError(f"{_LIBRARY} does not load: {error}", remedy="`pascaline doctor` says why") from None
    _check(library, "cuInit", library.cuInit(0))
    return library


def _check(library: ctypes.CDLL, name: str, code: int) -> None:
    if code == 0:
        return
    words = ctypes.c_char_p()
    known = library.cuGetErrorName(code, ctypes.byref(words)) == 0 and words.value
    said = words.value.decode(errors="replace") if known and words.value else f"error {code}"
    raise CudaError(f"{name}: {said}", code=code)


def _call(name: str, *arguments: Any) -> None:
    library = _driver()
    _check(library, name, library[name](*arguments))


def _integer(name: str) -> int:
    """What a call writes that takes nothing else."""
    value = ctypes.c_int()
    _call(name, ctypes.byref(value))
    return value.value


def device_count() -> int:
    """How many devices this process may see.

    Raises
    ------
    CudaError : there is no driver, or none that answers.
    """
    return _integer("cuDeviceGetCount")


def driver_version() -> int:
    """The newest CUDA that the driver serves: 12040 for 12.4.

    Raises
    ------
    CudaError : there is no driver, or none that answers.
    """
    return _integer("cuDriverGetVersion")


class Device:
    """A card and its primary context, current in this thread inside of a `with`.

    >>> with Device(0) as device:
    ...     module = Module(nvrtc.compile(source, device.architecture).cubin)
    ...     module.function("scale").launch((blocks, 1, 1), (256, 1, 1), [memory.pointer, ctypes.c_int(n)])
    ...     device.synchronize()
    """

    def __init__(self, ordinal: int = 0) -> None:
        """Find it.

        Raises
        ------
        CudaError : no driver, or no such device.
        """
        self.ordinal = ordinal
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        _call("cuDeviceGet", ctypes.byref(self._device), ordinal)

    def __enter__(self) -> Device:
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        _call("cuCtxPushCurrent_v2", self._context)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        _call("cuDevicePrimaryCtxRelease_v2", self._device)

    @property
    def name(self) -> str:
        """As the driver names it."""
        text = ctypes.create_string_buffer(256)
        _call("cuDeviceGetName", text, len(text), self._device)
        return text.value.decode(errors="replace")

    @property
    def architecture(self) -> str:
        """What to compile for: "sm_61"."""
        return f"sm_{self.attribute(_CAPABILITY_MAJOR)}{self.attribute(_CAPABILITY_MINOR)}"

    @property
    def compute_capability(self) -> str:
        """Such as "6.1"."""
        return f"{self.attribute(_CAPABILITY_MAJOR)}.{self.attribute(_CAPABILITY_MINOR)}"

    @property
    def pci_bus_id(self) -> str:
        """Such as "0000:02:00.0"."""
        text = ctypes.create_string_buffer(32)
        _call("cuDeviceGetPCIBusId", text, len(text), self._device)
        return text.value.decode(errors="replace")

    @property
    def memory_bytes(self) -> int:
        """All of its memory."""
        size = ctypes.c_size_t()
        _call("cuDeviceTotalMem_v2", ctypes.byref(size), self._device)
        return size.value

    def attribute(self, which: int) -> int:
        """A CUdevice_attribute, by its number in cuda.h."""
        value = ctypes.c_int()
        _call("cuDeviceGetAttribute", ctypes.byref(value), which, self._device)
        return value.value

    def synchronize(self) -> None:
        """Wait for all that was launched; raises what went wrong in it."""
        _call("cuCtxSynchronize")


class Memory:
    """Bytes on the current device, freed at the end of a `with`."""

    def __init__(self, nbytes: int) -> None:
        """Allocate.

        Raises
        ------
        CudaError : there is not so much.
        """
        self.nbytes = nbytes
        self.pointer = ctypes.c_void_p()
        _call("cuMemAlloc_v2", ctypes.byref(self.pointer), ctypes.c_size_t(nbytes))

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _call("cuMemFree_v2", self.pointer)

    def write(self, data: bytes) -> None:
        """Copy `data`, no longer than this memory, to its start."""
        if len(data) > self.nbytes:
            raise CudaError(f"{len(data)} bytes do not fit into {self.nbytes}")
        _call("cuMemcpyHtoD_v2", self.pointer, data, ctypes.c_size_t(len(data)))

    def read(self) -> bytes:
        """All of it, after what was launched on the default stream."""
        buffer = ctypes.create_string_buffer(self.nbytes)
        _call("cuMemcpyDtoH_v2", buffer, self.pointer, ctypes.c_size_t(self.nbytes))
        return buffer.raw


class Module:
    """Machine code on the current device."""

    def __init__(self, cubin: bytes) -> None:
        """Load it.

        Raises
        ------
        CudaError : it is for another architecture (CUDA_ERROR_NO_BINARY_FOR_GPU), or damaged.
        """
        self._module = ctypes.c_void_p()
        _call("cuModuleLoadData", ctypes.byref(self._module), cubin)

    def function(self, name: str) -> Function:
        """A kernel by its name in the machine code (`Compiled.lowered_names`)."""
        found = ctypes.c_void_p()
        _call("cuModuleGetFunction", ctypes.byref(found), self._module, name.encode())
        return Function(self, found)

    def unload(self) -> None:
        """Take it off the device; its functions are gone with it."""
        _call("cuModuleUnload", self._module)


class Function:
    """A kernel."""

    def __init__(self, module: Module, handle: ctypes.c_void_p) -> None:
        self._module = module  # lives as long as its functions
        self._handle = handle
        # Asking for an attribute also puts a kernel on the device that the driver would load at its first
        # launch, which may be in the capture of a graph.
        self._allowed_shared_bytes = _SHARED_BYTES_OF_ANY - self._attribute(_STATIC_SHARED_BYTES)

    @property
    def registers(self) -> int:
        """A thread's."""
        return self._attribute(_REGISTERS)

    @property
    def local_bytes(self) -> int:
        """A thread's memory for what registers do not hold: spills, and arrays with run-time indices."""
        return self._attribute(_LOCAL_BYTES)

    def blocks_per_multiprocessor(self, threads: int, shared_bytes: int = 0) -> int:
        """How many blocks of `threads`, with so much dynamic shared memory, run at once on one."""
        self._allow(shared_bytes)
        blocks = ctypes.c_int()
        _call(
            "cuOccupancyMaxActiveBlocksPerMultiprocessor",
            ctypes.byref(blocks),
            self._handle,
            threads,
            ctypes.c_size_t(shared_bytes),
        )
        return blocks.value

    def prepare(
        self,
        grid: Dimensions,
        block: Dimensions,
        arguments: Sequence[Argument],
        shared_bytes: int = 0,
        *,
        begins_early: bool = False,
    ) -> PreparedLaunch:
        """A launch to be repeated.

        `begins_early`: once all blocks of the launch before have begun and let it (or are done), from
        capability 9.0 on; the kernel waits for that launch itself (PTX's griddepcontrol).

        Raises
        ------
        CudaError : a size is no size of a grid or block, or the chip has not so much shared memory.
        """
        self._allow(shared_bytes)
        return PreparedLaunch(self, grid, block, arguments, shared_bytes, begins_early=begins_early)

    def launch(
        self,
        grid: Dimensions,
        block: Dimensions,
        arguments: Sequence[Argument],
        *,
        shared_bytes: int = 0,
        stream: int | None = None,
    ) -> None:
        """Put it into `stream` (a handle as torch gives it, None for the default one); does not wait.

        Raises
        ------
        CudaError : a size is no size of a grid or block, or the driver refuses it.
        """
        self.prepare(grid, block, arguments, shared_bytes)(stream)

    def _allow(self, shared_bytes: int) -> None:
        if shared_bytes > self._allowed_shared_bytes:
            _call("cuFuncSetAttribute", self._handle, _MOST_DYNAMIC_SHARED_BYTES, shared_bytes)
            self._allowed_shared_bytes = shared_bytes

    def _attribute(self, which: int) -> int:
        value = ctypes.c_int()
        _call("cuFuncGetAttribute", ctypes.byref(value), which, self._handle)
        return value.value


class _LaunchConfiguration(ctypes.Structure):
    """CUlaunchConfig of cuda.h."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("attribute_count", ctypes.c_uint),
    )


class _LaunchAttribute(ctypes.Structure):
    """CUlaunchAttribute of cuda.h: its value is a union of 64 bytes, of which the first integer is used."""

    _fields_ = (("identifier", ctypes.c_int), ("value", ctypes.c_uint64 * 8))


class PreparedLaunch:
    """A kernel with its sizes and arguments, launched by a call: nothing is built then.

    `arguments` stay the caller's own: whatever `value` they have at a call is what the kernel gets, so
    between two calls only what differs is set.

    PERF: 0.3 µs of Python around the driver's own time; a call of cuLaunchKernel with eleven arguments, which
    ctypes converts one by one, took 8 µs.
    """

    __slots__ = ("_attribute", "_configuration", "_function", "_kept", "_launch", "_operands", "_stream")

    def __init__(
        self,
        function: Function,
        grid: Dimensions,
        block: Dimensions,
        arguments: Sequence[Argument],
        shared_bytes: int,
        *,
        begins_early: bool = False,
    ) -> None:
        if not all(0 < size < _LAUNCH_LIMIT for size in (*grid, *block)):
            raise CudaError(f"a grid of {grid} blocks of {block} threads", expected="sizes from 1")
        self._function = function
        self._configuration = _LaunchConfiguration(grid, block, shared_bytes)
        self._attribute = _LaunchAttribute(_PROGRAMMATIC_STREAM_SERIALIZATION, (1,))
        if begins_early:
            self._configuration.attributes = ctypes.addressof(self._attribute)
            self._configuration.attribute_count = 1
        self._stream: int | None = None
        addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(each) for each in arguments))
        self._kept = tuple(arguments)
        try:
            self._launch = _driver().cuLaunchKernelEx
        except AttributeError:
            raise CudaError("the driver is older than CUDA 11.8", expected="525 or newer") from None
        self._operands = (ctypes.byref(self._configuration), function._handle, addresses, None)

    def __call__(self, stream: int | None = None) -> None:
        """Put it into `stream` (a handle as torch gives it, None for the default one); does not wait.

        Raises
        ------
        CudaError : the driver refuses it, or an earlier launch has failed meanwhile.
        """
        if stream != self._stream:
            self._configuration.stream = self._stream = stream
        code = self._launch(*self._operands)
        if code:
            _check(_driver(), "cuLaunchKernelEx", code)


class Event:
    """A moment in a stream."""

    def __init__(self) -> None:
        self._event = ctypes.c_void_p()
        _call("cuEventCreate", ctypes.byref(self._event), 0)

    def record(self, stream: int | None = None) -> None:
        """Mark the moment when all before it in the stream is done."""
        _call("cuEventRecord", self._event, ctypes.c_void_p(stream))

    def seconds_since(self, earlier: Event) -> float:
        """Device time between two recorded events, to about half a microsecond; waits for this one."""
        milliseconds = ctypes.c_float()
        _call("cuEventSynchronize", self._event)
        _call("cuEventElapsedTime", ctypes.byref(milliseconds), earlier._event, self._event)
        return milliseconds.value / 1e3

    def destroy(self) -> None:
        """Give it back."""
        _call("cuEventDestroy_v2", self._event)
