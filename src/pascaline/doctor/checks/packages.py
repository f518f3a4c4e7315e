"""Python packages: that all which Pascaline and torch ask for is there, in a version that they allow, once.

torch asks for one version each of NVIDIA's libraries; replacing one of them breaks it. Two versions of one
package in one folder, or a folder that begins with "~", are left over from an interrupted pip.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator

from pascaline.doctor.check import Check, Finding, fail, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.packages import Package, Requirement
from pascaline.doctor.remedies import pip_install

_EXPECTED = "every required package once, in a version that is allowed"
_OF_TORCH = ("nvidia-", "triton", "cuda-")


def _look(machine: Machine) -> Iterator[Finding]:
    ours, torch = machine.package("pascaline"), machine.package("torch")
    if ours is None:
        yield ok("Pascaline runs from its sources, without metadata", _EXPECTED)
    else:
        yield ok(f"pascaline {ours.version} and {len(ours.requires)} requirements", _EXPECTED)
        yield from _unmet(machine, ours, lambda _: True)
    if torch is not None:
        yield from _unmet(machine, torch, lambda name: name.startswith(_OF_TORCH))
    yield from _left_over(machine)


def _unmet(machine: Machine, package: Package, counts: Callable[[str], bool]) -> Iterator[Finding]:
    for text in package.requires:
        wanted = Requirement.parse(text)
        if wanted is None or not counts(wanted.name):
            continue
        installed = machine.package(wanted.name)
        if installed is None and not wanted.optional:
            seen = f"{package.name} needs {wanted}, which is not installed"
            yield fail(seen, _EXPECTED, pip_install(machine, str(wanted)))
        # torch's wheels state their libraries with the system that they are for: what is there, counts.
        extra = wanted.optional and package.name != "torch"
        if installed is not None and not extra and not wanted.allows(installed.version):
            seen = f"{package.name} needs {wanted}, {installed.version} is installed"
            yield fail(seen, _EXPECTED, pip_install(machine, str(wanted)))


def _left_over(machine: Machine) -> Iterator[Finding]:
    # A folder may be searched twice; one version found twice is one.
    versions: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in machine.packages:
        versions[each.name, each.folder].add(each.version)
    for (name, folder), found in versions.items():
        if len(found) > 1:
            remedy = pip_install(machine, "--force-reinstall", "--no-deps", name)
            yield warn(f"{name} is in {folder} as {' and '.join(sorted(found))}", _EXPECTED, remedy)
    for folder in dict.fromkeys(each.folder for each in machine.packages):
        broken = [name for name in machine.names(folder) if name.startswith("~")]
        if broken:
            paths = shlex.join(f"{folder.rstrip('/')}/{name}" for name in broken)
            yield warn(
                f"an interrupted pip left {', '.join(broken)} in {folder}", _EXPECTED, f"rm -r {paths}"
            )


CHECK = Check("packages", _look)
