"""libstdc++: whether the one that Python loads is new enough.

Conda brings a libstdc++ of its own, which hides the system's. What was compiled with the system's newer
compiler then ends with "version `GLIBCXX_3.4.30' not found". The versions are read from the files themselves.
A symbolic link to the system's library mends it until conda's next update; a newer package mends it for good.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from pascaline.core.elf import versions_defined
from pascaline.doctor.check import Check, Finding, fail, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import system_packages
from pascaline.doctor.torch_facts import torch_facts

_SYSTEM = (
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/usr/lib/aarch64-linux-gnu/libstdc++.so.6",
    "/usr/lib64/libstdc++.so.6",
    "/usr/lib/libstdc++.so.6",
)
_MISSING = re.compile(r"(\S+): version [`'](GLIBC(?:XX)?_[\d.]+)' not found(?: \(required by ([^)]+)\))?")
_EXPECTED = "the loaded libstdc++ at least as new as the system's"


def _look(machine: Machine) -> Iterator[Finding]:
    facts = torch_facts(machine)
    missing = _MISSING.search(facts.error or "")
    if missing:
        library, version, by = missing.groups()
        seen = f"{library} has no {version}" + (f", which {by} needs" if by else "")
        yield fail(seen, f"a library with {version}", _remedy(machine, library, version))
        return
    loaded = facts.libstdcxx
    if loaded is None:
        yield ok("nothing loads libstdc++", _EXPECTED)
        return
    newest = _newest(machine, loaded)
    if newest is None:
        yield ok(f"{loaded} is loaded", _EXPECTED)
        return
    seen = f"{loaded} is loaded, up to {_name(newest)}"
    for system in _SYSTEM:
        theirs = _newest(machine, system)
        if theirs is not None and theirs > newest:
            older = f"{seen}; {system} has {_name(theirs)}: what is compiled here may not load"
            yield warn(older, _EXPECTED, _remedy(machine, loaded, _name(theirs)))
            return
    yield ok(seen, _EXPECTED)


def _remedy(machine: Machine, library: str, version: str) -> str:
    conda = machine.environ.get("CONDA_PREFIX")
    if conda and (library.startswith(conda) or machine.python.prefix == conda):
        return f'conda install -p {shlex.quote(conda)} -c conda-forge "libstdcxx-ng>=13"'
    shadowed = machine.environ.get("LD_LIBRARY_PATH") or machine.environ.get("LD_PRELOAD")
    if shadowed and not library.startswith("/usr/lib") and not library.startswith("/lib"):
        return "unset LD_LIBRARY_PATH LD_PRELOAD"
    if version.startswith("GLIBC_"):
        return (
            "# the C library is older than torch's wheels need (2.28): a newer system, or a container:\n"
            + ("docker run -it python:3.12-slim")
        )
    return system_packages(machine, debian="libstdc++6", fedora="libstdc++", arch="gcc-libs")


def _newest(machine: Machine, library: str) -> tuple[int, ...] | None:
    try:
        versions = versions_defined(machine.path(library))
    except (OSError, ValueError):
        return None
    numbers = [re.fullmatch(r"GLIBCXX_(\d+(?:\.\d+)*)", version) for version in versions]
    return max((tuple(map(int, match[1].split("."))) for match in numbers if match), default=None)


def _name(version: tuple[int, ...]) -> str:
    return "GLIBCXX_" + ".".join(map(str, version))


CHECK = Check("libstdcxx", _look)
