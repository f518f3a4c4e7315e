"""Records of a few layers, extended to the whole model.

A profile often holds one layer and the model's total. A row of a recorded layer then stands for its
siblings: its share of the recorded layers' time, taken of the time of all layers (layers differ by some
percent, and the first carries first-call costs: so shares are scaled, and times are not multiplied by the
number of layers). Its arithmetic is the same in every layer, and is multiplied.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pascaline.core.errors import CheckpointError
from pascaline.report.module_names import MODULE
from pascaline.report.run_record import RunRecord

_LAYER = re.compile(r"^((?:.*?[._])?(?:layers|layer|h|blocks?|blk))\.(\d{1,9})(?=\.|$)")
_MOST_LAYERS = 1 << 12
_MAX_DEPTH = 32


@dataclass(frozen=True)
class Scales:
    """By a row's position.

    Parameters
    ----------
    leaves : rows whose time is in no other row.
    time : whole time over recorded time. layers : layers that a row stands for.
    total_s : of the run.
    """

    leaves: frozenset[int]
    time: tuple[float, ...]
    layers: tuple[float, ...]
    total_s: float


@dataclass(frozen=True)
class _Stack:
    """Layers of one kind: their recorded time, all layers' time, and how many there are of either."""

    recorded_s: float
    whole_s: float
    recorded: int
    count: int


class _Phase:
    """The modules of one phase (prefill, decode, or unknown)."""

    def __init__(self, record: RunRecord, times: Sequence[float | None], indices: Sequence[int]) -> None:
        self._rows = [(index, record.rows[index], times[index]) for index in indices]
        self._above = {row.module: _ancestors(row.module) for _, row, _ in self._rows}
        ancestors = {name for names in self._above.values() for name in names}
        self._containers: dict[str, float] = {}
        self.leaves: list[tuple[int, str, float]] = []
        for index, row, time in self._rows:
            holds_others = row.module in ancestors if row.module else len(self._rows) > 1 and row.op == MODULE
            if time is None:
                continue
            if row.op == MODULE and holds_others:
                self._containers[row.module] = self._containers.get(row.module, 0.0) + time
            else:
                self.leaves.append((index, row.module, time))
        # Summed once from the leaves up: a record may have a million rows.
        self._sums: dict[str, float] = {}
        for _, module, time in self.leaves:
            for name in {module, *self._above[module], ""}:
                self._sums[name] = self._sums.get(name, 0.0) + time
        self._layers = record.model.get("num_hidden_layers")
        self.stacks = self._find_stacks()

    def _time_of(self, module: str) -> float:
        """The longer of a container's time and its contents': clocks differ, and nothing is saved twice."""
        return max(self._containers.get(module, 0.0), self._sums.get(module, 0.0))

    def _find_stacks(self) -> dict[str, _Stack]:
        recorded: dict[str, set[int]] = {}
        for _, row, time in self._rows:
            match = _LAYER.match(row.module)
            if match and time is not None:
                recorded.setdefault(match[1], set()).add(int(match[2]))
        return {name: self._stack(name, indices) for name, indices in recorded.items()}

    def _stack(self, name: str, indices: set[int]) -> _Stack:
        recorded_s = sum(self._time_of(f"{name}.{index}") for index in indices)
        whole_s = self._containers.get(name) or self._rest_of_parent(name)
        declared = self._layers if type(self._layers) is int else 0
        if max(indices) < declared <= _MOST_LAYERS:
            count = declared
        elif whole_s is not None and recorded_s > 0:
            count = max(round(whole_s / recorded_s * len(indices)), len(indices))
        else:
            count = len(indices)
        if count == len(indices) or recorded_s <= 0:
            return _Stack(recorded_s, recorded_s, len(indices), len(indices))
        if whole_s is None or whole_s < recorded_s:
            whole_s = recorded_s * count / len(indices)
        return _Stack(recorded_s, whole_s, len(indices), count)

    def _rest_of_parent(self, name: str) -> float | None:
        """What the nearest recorded container leaves for the layers, if their own time was not recorded."""
        for parent in (*_ancestors(name), ""):
            if parent in self._containers:
                others = self._sums.get(parent, 0.0) - self._sums.get(name, 0.0)
                return self._containers[parent] - others
        return None

    def total_s(self) -> float:
        """Topmost containers, and what lies in none, with the unrecorded layers."""
        tops = {
            name
            for name in self._containers
            if not self._in_stack(name) and not any(up in self._containers for up in self._above[name])
        }
        if "" in self._containers:
            tops = {""}
        # A container of noisy times can be shorter than what it holds: then that counts.
        contents = dict.fromkeys(tops, 0.0)
        total = 0.0
        parts = [(name, stack.whole_s) for name, stack in self.stacks.items()]
        parts += [(module, time) for _, module, time in self.leaves if not self._in_stack(module)]
        for name, time in parts:
            top = next((one for one in (name, *self._ancestors_of(name), "") if one in tops), None)
            if top is None:
                total += time
            else:
                contents[top] += time
        return total + sum(max(self._containers[top], time) for top, time in contents.items())

    def _in_stack(self, module: str) -> bool:
        match = _LAYER.match(module)
        return match is not None and match[1] in self.stacks

    def _ancestors_of(self, module: str) -> list[str]:
        return self._above.get(module) or _ancestors(module)


def layer_scales(record: RunRecord, times: Sequence[float | None]) -> Scales:
    """What each row stands for.

    Raises
    ------
    CheckpointError : a module's path is too deep.
    """
    for row in record.rows:
        if row.module.count(".") > _MAX_DEPTH:
            raise CheckpointError(
                f"a module's path has {row.module.count('.')} dots", expected=f"at most {_MAX_DEPTH}"
            )
    time_scale = [1.0] * len(times)
    layer_scale = [1.0] * len(times)
    leaves: set[int] = set()
    total_s = 0.0
    phases: dict[str | None, list[int]] = {}
    for index, row in enumerate(record.rows):
        phases.setdefault(row.phase, []).append(index)
    for indices in phases.values():
        phase = _Phase(record, times, indices)
        total_s += phase.total_s()
        for index, module, _ in phase.leaves:
            leaves.add(index)
            match = _LAYER.match(module)
            stack = phase.stacks.get(match[1]) if match else None
            if stack is not None and stack.recorded_s > 0:
                time_scale[index] = stack.whole_s / stack.recorded_s
                layer_scale[index] = stack.count / stack.recorded
    return Scales(frozenset(leaves), tuple(time_scale), tuple(layer_scale), total_s)


def _ancestors(module: str) -> list[str]:
    """ "a.b.c" -> "a.b", "a"."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1)]
