"""Launches on a card for compute-sanitizer: each buffer is an allocation of its own, as long as it is.

An access beside a buffer is then one outside of all, where torch keeps no memory
(PYTORCH_NO_CUDA_MEMORY_CACHING). Scratch memory that need not be zeros is not written before: reading what no
thread wrote is seen.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy
import torch
from linear_harness import Buffers

from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.specialisation import LaunchPlan

_POISON = 0xFF


class WatchedCard:
    """Launches plans as the tests' executors do."""

    def __init__(self, kernels: KernelSet) -> None:
        self._kernels = kernels

    def __call__(
        self, plan: LaunchPlan, buffers: Buffers, outputs: Collection[str], *, updates: Collection[str] = ()
    ) -> None:
        """Outputs hold NaN before, which is an error of the check where it stays."""
        names = dict.fromkeys(name for name in plan.arguments if isinstance(name, str))
        memory: dict[str, torch.Tensor] = {}
        for name in names:
            if name in plan.scratch:
                scratch = plan.scratch[name]
                memory[name] = torch.empty(scratch.nbytes, dtype=torch.uint8, device=self._kernels.device)
                if scratch.is_zeroed:
                    memory[name].copy_(torch.zeros(scratch.nbytes, dtype=torch.uint8))
            elif name in buffers:
                given = buffers[name].reshape(-1).view(numpy.uint8)
                content = numpy.full_like(given, _POISON) if name in outputs else given.copy()
                # Copied from the CPU's memory: initcheck is to see that it is written.
                memory[name] = torch.from_numpy(content).to(self._kernels.device)
        addresses = {name: memory[name].data_ptr() if name in memory else None for name in names}
        own = LaunchPlan(plan.specialisation, plan.grid, plan.block, plan.arguments, plan.shared_bytes)
        self._kernels.bind(own, addresses)(torch.cuda.current_stream().cuda_stream)
        torch.cuda.synchronize()
        for name in (*outputs, *updates):
            buffers[name].reshape(-1).view(numpy.uint8)[:] = memory[name].cpu().numpy()
