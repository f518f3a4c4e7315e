"""The one place that every launch of a step goes through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch

from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.kernel import Chip, Kernel, Workspace
from pascaline.kernels.likeness import likeness
from pascaline.kernels.op import Op, Shaped
from pascaline.kernels.policy import Decision, Policy
from pascaline.kernels.recording import RecordedLaunch, Recorder

ShapeKey = tuple[object, ...]


def _key(value: Shaped | None) -> object:
    """What a kernel is chosen by: of weights also how they are packed, and a layer keeps its own."""
    if value is None:
        return None
    return value.shape if isinstance(value, torch.Tensor) else id(value)


class Launcher:
    """Binds shapes, asks the policy once for operands that are alike, allocates the output and launches.

    Layers call it with the path of their module, so that whatever watches or records a step
    knows which module each launch belongs to. Not thread-safe: an engine has one.
    """

    MAX_PREPARED = 65536
    """Distinct shapes remembered; beyond it the table starts anew (a bound on memory)."""

    def __init__(self, policy: Policy, kernels: KernelSet | None = None) -> None:
        self._policy = policy
        self._workspace = Workspace(policy.chip.device, kernels, policy.chip.tuned)
        self._prepared: dict[ShapeKey, tuple[Kernel, tuple[int, ...]]] = {}
        self._chosen: dict[ShapeKey, tuple[Decision, tuple[int, ...]]] = {}
        self._recorder: Recorder | None = None
        self.decisions: dict[tuple[str, str], Decision] = {}
        """By (module path, op name): the latest decision taken there."""

    @property
    def chip(self) -> Chip:
        return self._policy.chip

    @property
    def device(self) -> torch.device:
        return self.chip.device

    def __call__(self, op: Op, path: str, *inputs: Shaped | None, **parameters: float) -> torch.Tensor:
        """Compute `op` for the module at `path`; returns its output."""
        key = (op.name, path, *map(_key, inputs))
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = self._prepare(key, op, path, inputs)
        kernel, shape = prepared
        if self._recorder is not None:
            return self._recorder.launch(op, path, kernel, inputs, shape, parameters)
        if op.in_place is None:
            out = torch.empty(shape, dtype=cast(torch.dtype, op.output.dtype), device=self.device)
        else:
            out = cast(torch.Tensor, inputs[list(op.inputs).index(op.in_place)])
        kernel.launch(*inputs, out=out, workspace=self._workspace, **parameters)
        return out

    def replay(self, launches: Iterable[RecordedLaunch]) -> None:
        """Launch what was recorded; no operand is on the meta device any more."""
        for each in launches:
            each.kernel.launch(*each.inputs, out=each.out, workspace=self._workspace, **each.parameters)

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Until the end of the `with`, launches are recorded and nothing is computed."""
        self._recorder = Recorder()
        try:
            yield self._recorder
        finally:
            self._recorder = None

    def recipe(self, op: Op, *inputs: Shaped | None, **parameters: float) -> Recipe:
        """What `op` needs for such operands, of which tensors may be on torch's meta device."""
        sizes = op.bind(inputs)
        kernel = self._policy.decide(op, sizes, inputs).kernel
        return kernel.recipe(self._policy.chip, sizes, inputs, parameters)

    def recipe_of(self, launch: RecordedLaunch) -> Recipe:
        """What a recorded launch needs."""
        return launch.kernel.recipe(self._policy.chip, {}, launch.inputs, launch.parameters)

    def kernel_of(self, op: Op, *inputs: Shaped | None) -> Kernel:
        """What the policy chooses for an op of such operands, or whatever its sizes."""
        return self._policy.decide(op, op.bind(inputs) if inputs else {}, inputs).kernel

    def _prepare(
        self, key: ShapeKey, op: Op, path: str, inputs: tuple[Shaped | None, ...]
    ) -> tuple[Kernel, tuple[int, ...]]:
        # PERF: a model's layers are alike; of 7B a number of rows that none had before took 49 ms, now 1.2.
        alike = (op.name, *map(likeness, inputs))
        chosen = self._chosen.get(alike)
        if chosen is None:
            sizes = op.bind(inputs)
            chosen = self._policy.decide(op, sizes, inputs), op.output_shape(sizes)
            self._chosen[alike] = chosen
        decision, shape = chosen
        self.decisions[path, op.name] = decision
        if len(self._prepared) >= self.MAX_PREPARED:
            self._prepared.clear()
            self._chosen.clear()
        prepared = self._prepared[key] = decision.kernel, shape
        return prepared
