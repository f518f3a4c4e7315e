"""Compile a small kernel, and run it where there is a card: `python -m pascaline.doctor.kernel_trial`."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from array import array
from dataclasses import asdict, dataclass, replace

from pascaline.core.errors import CudaError, PascalineError
from pascaline.doctor.machine import Machine
from pascaline.hardware.cuda_driver import Argument, Device, Memory, Module, device_count
from pascaline.hardware.nvrtc import find_nvrtc

PATIENCE_S = 30.0
WITHOUT_A_CARD = ("sm_61", "sm_75", "sm_90")
"""Compiled for where there is no card: a Pascal one, the first of CUDA 13 and a data centre's."""

_OLDEST = 50
"""Cards before Maxwell are left alone."""
ELEMENTS = 1000
_BLOCK = 256
SOURCE = """
extern "C" __global__ void scale_and_add(const float* x, float* y, float factor, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = factor * x[i] + y[i];
}
"""


@dataclass(frozen=True)
class KernelTrial:
    """What came of it.

    Parameters
    ----------
    nvrtc, architectures, headers : version of the compiler that was used (None if there is none), what it
        makes code for, and whether CUDA's headers lie beside it.
    compiled_for, compile_s : architectures, and the time for all of them.
    ran_on : the cards that gave the right result.
    driver_error : why CUDA's driver lists no cards.
    error : what went wrong.
    """

    nvrtc: str | None = None
    architectures: tuple[str, ...] = ()
    headers: bool = False
    compiled_for: tuple[str, ...] = ()
    compile_s: float = 0.0
    ran_on: tuple[str, ...] = ()
    driver_error: str | None = None
    error: str | None = None


def command(machine: Machine) -> tuple[str, ...]:
    """What `kernel_trial` starts."""
    return (machine.python.executable, "-P", "-m", "pascaline.doctor.kernel_trial")


def kernel_trial(machine: Machine) -> KernelTrial:
    """Ask a process of its own; it is started once."""
    ran = machine.run(command(machine), PATIENCE_S)
    if ran is None:
        return KernelTrial(error=f"{machine.python.executable} does not start")
    if ran.code is None:
        return KernelTrial(error=f"compiling and running a kernel took more than {PATIENCE_S:.0f} s")
    try:
        facts = json.loads(ran.stdout.strip().splitlines()[-1])
        for name in ("architectures", "compiled_for", "ran_on"):
            facts[name] = tuple(facts[name])
        return KernelTrial(**facts)
    except (ValueError, IndexError, TypeError, KeyError):
        said = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        return KernelTrial(error=f"running a kernel ended the process with code {ran.code}: {said}")


def try_kernel() -> KernelTrial:
    """Compile, and run on every card that this process may see. Never raises what a card can cause."""
    trial = KernelTrial()
    try:
        count, driver_error = _cards()
        trial = replace(trial, driver_error=driver_error)
        devices = {ordinal: Device(ordinal).architecture for ordinal in range(count)}
        devices = {ordinal: each for ordinal, each in devices.items() if _number(each) >= _OLDEST}
        nvrtc = find_nvrtc(min(devices.values(), key=_number, default=None))
        version, known = "{}.{}".format(*nvrtc.version), nvrtc.architectures
        trial = replace(trial, nvrtc=version, architectures=known, headers=nvrtc.headers is not None)
        wanted = list(dict.fromkeys(devices.values())) or [each for each in WITHOUT_A_CARD if each in known]
        started = time.monotonic()
        cubins = {each: find_nvrtc(each).compile(SOURCE, each).cubin for each in wanted}
        elapsed_s = time.monotonic() - started
        trial = replace(trial, compiled_for=tuple(cubins), compile_s=elapsed_s)
        ran_on = tuple(_run(ordinal, cubins[each]) for ordinal, each in devices.items())
        return replace(trial, ran_on=ran_on)
    except PascalineError as error:
        return replace(trial, error=str(error))


def _cards() -> tuple[int, str | None]:
    """How many, or why the driver does not tell."""
    try:
        return device_count(), None
    except CudaError as error:
        return 0, error.seen


def _number(architecture: str) -> int:
    return int(architecture.removeprefix("sm_"))


def _run(ordinal: int, cubin: bytes) -> str:
    """The name of the card, if its numbers are right: small integers, so every one is exact."""
    x = array("f", range(ELEMENTS))
    y = array("f", range(0, 3 * ELEMENTS, 3))
    with Device(ordinal) as device, Memory(4 * ELEMENTS) as given, Memory(4 * ELEMENTS) as result:
        given.write(x.tobytes())
        result.write(y.tobytes())
        kernel = Module(cubin).function("scale_and_add")
        blocks = -(-ELEMENTS // _BLOCK)
        arguments: list[Argument] = [
            given.pointer,
            result.pointer,
            ctypes.c_float(2.0),
            ctypes.c_int(ELEMENTS),
        ]
        kernel.launch((blocks, 1, 1), (_BLOCK, 1, 1), arguments)
        device.synchronize()
        computed = array("f", result.read())
    wrong = sum(a != 2 * b + c for a, b, c in zip(computed, x, y, strict=True))
    if wrong:
        raise PascalineError(f"{device.name} computed {wrong} of {ELEMENTS} numbers wrongly")
    return device.name


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(try_kernel())) + "\n")
