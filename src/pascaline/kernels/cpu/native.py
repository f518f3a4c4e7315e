"""The native library of this machine's instruction set, loaded by ctypes.

`scripts/build_native.py` builds one library for each of `INSTRUCTION_SETS` beside this file; wheels
carry them. Without one that the processor can run, torch computes everything.
"""

from __future__ import annotations

import ctypes
import functools

from pascaline.core.errors import OutOfMemoryError, UnsupportedError
from pascaline.core.threads import compute_threads
from pascaline.hardware.instruction_sets import InstructionSet, fault_of, settled
from pascaline.hardware.native_loops import NativeLoops
from pascaline.kernels.cpu.views import Choice, Launch, PackedView, Step, WeightView


class Library:
    """A loaded library. Several may be loaded at once; each has threads of its own."""

    def __init__(self, instructions: InstructionSet) -> None:
        """Load the library for `instructions`.

        Raises
        ------
        OSError : there is none that is whole and of these sources, or it does not load.
        """
        self.name = instructions.name
        self.passed_over: list[str] = []
        """Why no faster library was taken."""
        fault = fault_of(instructions.library, instructions.library.parent, instructions)
        if fault is not None:
            raise OSError(f"{fault}; `make setup` builds it")
        self._library = library = ctypes.CDLL(str(instructions.library))
        library.pascaline_abi.restype = ctypes.c_int64
        expected = ctypes.sizeof(Choice) << 48 | ctypes.sizeof(WeightView) << 24 | ctypes.sizeof(Launch)
        if library.pascaline_abi() != expected:
            raise OSError(f"{instructions.library.name} is of another version of Pascaline")
        self._run = library.pascaline_run
        self._retile = library.pascaline_retile
        self._choose = library.pascaline_choose
        self.loops = NativeLoops(library)
        self._use_threads = library.pascaline_use_threads
        self.use_threads(compute_threads())

    def use_threads(self, count: int) -> None:
        """Share each step among `count` threads, the caller's included."""
        self._use_threads(count)

    @functools.cache  # noqa: B019 - libraries live as long as the process
    def kernel(self, op: str) -> int:
        """The address of an op's kernel."""
        return ctypes.addressof(ctypes.c_char.in_dll(self._library, f"pascaline_{op}"))

    def run(self, launches: ctypes.Array[Launch], step: Step) -> None:
        """Go through the launches, in order; see `abi.h`."""
        if self._run(launches, ctypes.c_int64(len(launches)), ctypes.byref(step)):
            raise OutOfMemoryError(
                f"no memory for the activations of {step.tokens} tokens",
                remedy="Take a smaller max_batch_tokens, or free memory",
            )

    def retile(self, weight: PackedView, tiles: WeightView) -> None:
        """Fill the arrays of `tiles` with `weight`."""
        if self._retile(ctypes.byref(weight), ctypes.byref(tiles)):
            raise OutOfMemoryError("no memory to put a weight's rows side by side", remedy="Free memory")

    def choose(self, choices: ctypes.Array[Choice], vocabulary: int) -> None:
        """Choose a token from each row of so many logits."""
        if self._choose(choices, ctypes.c_int64(len(choices)), ctypes.c_int64(vocabulary)):
            raise OutOfMemoryError(
                f"no memory to sort {vocabulary} tokens by their likelihood",
                remedy="Free memory",
            )


@functools.cache
def library() -> Library | str:
    """The best library here, or in words why there is none.

    Raises
    ------
    ConfigError : PASCALINE_CPU_INSTRUCTIONS names an instruction set that this machine lacks.
    """
    sets = settled()
    if not sets:
        return "it needs an x86 processor with AVX2, or an ARM one with dot products"
    reasons: list[str] = []
    for instructions in sets:
        try:
            found = Library(instructions)
        except (OSError, AttributeError) as error:
            reasons.append(str(error))
        else:
            found.passed_over = reasons
            return found
    return "; ".join(reasons)


def loaded() -> Library:
    """The best library here, where the policy has chosen one of its kernels.

    Raises
    ------
    UnsupportedError : there is none.
    """
    found = library()
    if isinstance(found, str):
        raise UnsupportedError(f"no native kernels: {found}")
    return found
