"""The instructions that one warp executes, worked out from the code alone: loops run as often as is said.

Branches that leave a loop are taken when its trips are over, and those around a path that would leave out the
main loop; other forward branches never: what they skip is edge cases, or the path of the other lanes, which a
warp whose lanes differ executes as well. Calls are not followed (a division's slow path). Where the path
matters more than this, take the emulator's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from disassembler import Instruction, KernelCode
from loops import Loop, find_loops, main_loop

_LONGEST = 4_000_000
_CONVERGENCE = {"SSY": "SYNC", "PBK": "BRK"}


def walk(code: KernelCode, trips: Mapping[int, int], taken: Collection[int] = ()) -> list[int]:
    """Indices of the executed instructions, in order.

    Parameters
    ----------
    trips : of each loop, by the index of its first instruction; 1 where it is not given.
    taken : addresses of forward branches that are taken.

    Raises
    ------
    ValueError : it does not come to an end.
    """
    loops = {loop.last: loop for loop in find_loops(code)}
    executed: list[int] = []
    done: Counter[int] = Counter()
    targets: dict[str, list[int]] = {"SYNC": [], "BRK": []}
    reconvergence: dict[str, int] = {}
    at = 0
    while at < len(code.instructions):
        if len(executed) > _LONGEST:
            raise ValueError(f"{code.name}: more than {_LONGEST} instructions without an end")
        each = code.instructions[at]
        executed.append(at)
        if each.name == "EXIT" and each.guard is None:
            return executed
        if each.name in _CONVERGENCE and each.target is not None:
            targets[_CONVERGENCE[each.name]].append(code.labels[each.target])
        elif each.name == "BSSY" and each.target is not None:
            reconvergence[each.operands[0]] = code.labels[each.target]
        if each.name in targets and each.guard is None and targets[each.name]:
            at = targets[each.name].pop()
        elif each.name == "BSYNC" and each.guard is None and each.operands[0] in reconvergence:
            at = max(at + 1, reconvergence.pop(each.operands[0]))
        elif each.name == "BRA" and each.target is not None:
            at = _branch(code, loops, each, at, trips, done, taken)
        else:
            at += 1
    return executed


def _branch(
    code: KernelCode,
    loops: Mapping[int, Loop],
    branch: Instruction,
    at: int,
    trips: Mapping[int, int],
    done: Counter[int],
    taken: Collection[int],
) -> int:
    target = code.labels[branch.target or ""]
    if target == at:  # what pads the end
        raise ValueError(f"{code.name}: the path ends in a branch to itself at {branch.address:#x}")
    if target < at:
        done[target] += 1
        if done[target] < trips.get(target, 1) or _is_left_elsewhere(code, loops, target, at):
            return target
        done[target] = 0
        return at + 1
    if branch.guard is None:
        return target
    inner = _innermost(loops, at)
    if inner is not None and target > inner.last and _is_left_elsewhere(code, loops, inner.first, inner.last):
        if done[inner.first] >= trips.get(inner.first, 1):
            done[inner.first] = 0
            return target
        return at + 1
    return target if branch.address in taken or _leaves_out_main_loop(code, at + 1, target) else at + 1


def _leaves_out_main_loop(code: KernelCode, first: int, end: int) -> bool:
    """Whether the path from `first` ends, or jumps beyond the main loop, before it comes to `end`."""
    main = main_loop(code)
    if main is None or main.first < end:
        return False
    for each in code.instructions[first:end]:
        if each.guard is None and each.name == "EXIT":
            return True
        if each.guard is None and each.name == "BRA" and each.target is not None:
            return code.labels[each.target] > main.last
    return False


def _is_left_elsewhere(code: KernelCode, loops: Mapping[int, Loop], first: int, last: int) -> bool:
    """Whether a loop's branch back is always taken, so that a branch inside of it leaves it."""
    loop = loops.get(last)
    return loop is not None and loop.first == first and code.instructions[last].guard is None


def _innermost(loops: Mapping[int, Loop], at: int) -> Loop | None:
    around = [loop for loop in loops.values() if loop.first <= at <= loop.last]
    return min(around, key=lambda loop: loop.last - loop.first, default=None)
