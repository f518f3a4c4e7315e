"""A launch plan whose kernel is loaded and whose buffers have addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from pascaline.core.errors import ShapeError
from pascaline.hardware.cuda_driver import Argument, Function
from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan

_INTEGERS = range(-(1 << 31), 1 << 31)


class BoundLaunch:
    """Launched by a call, in any stream, the capture of a CUDA graph included.

    >>> launch = kernels.bind(plan, {"codes": codes.data_ptr(), "x": 0, "y": 0, "bias": None})
    >>> launch.pointers["x"].value = x.data_ptr()
    >>> launch(torch._C._cuda_getCurrentRawStream(0))
    """

    __slots__ = ("_launch", "pointers")

    def __init__(
        self,
        function: Function,
        plan: LaunchPlan,
        addresses: Mapping[str, int | None],
        *,
        begins_early: bool = False,
    ) -> None:
        """Bind `plan`; `addresses` has all of its buffers, scratch too, None for one that is absent.

        `begins_early`: the chip overlaps launches, and the plan allows it.

        Raises
        ------
        ShapeError : an argument has no address, or is no 32-bit integer.
        CudaError : the card does not do launches of this size.
        """
        self.pointers: dict[str, ctypes.c_void_p] = {}
        """By the buffers' names: what their `value` is at a call is where the kernel finds them."""
        arguments: list[Argument] = []
        for argument in plan.arguments:
            if isinstance(argument, Integer):
                if argument.value not in _INTEGERS:
                    raise ShapeError(f"{argument.value} among the arguments of {plan.specialisation.entry}")
                arguments.append(ctypes.c_int(argument.value))
            elif argument in addresses:
                pointer = self.pointers.setdefault(argument, ctypes.c_void_p(addresses[argument]))
                arguments.append(pointer)
            else:
                raise ShapeError(f"no address of {argument!r} for {plan.specialisation.entry}")
        self._launch = function.prepare(
            plan.grid, plan.block, arguments, plan.shared_bytes, begins_early=begins_early
        )

    def __call__(self, stream: int) -> None:
        """Put it into `stream`, a handle as torch gives it; does not wait.

        Raises
        ------
        CudaError : the driver refuses it, or an earlier launch has failed meanwhile.
        """
        self._launch(stream)
