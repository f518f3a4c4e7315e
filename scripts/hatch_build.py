"""Build hook: a wheel carries the native CPU kernels of one machine, and is named after what they need.

Built by `pip wheel .` they come from this machine's compiler (build_native.py); build_wheel.py brings those
of any machine along. Without any the wheel is pure, and torch computes everything. An editable install takes
the libraries from the checkout, where `make setup` builds them.
"""

from __future__ import annotations

import platform
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.append(str(Path(__file__).parent))

import build_native

if TYPE_CHECKING:
    from pascaline.core.elf import Needs
else:
    # By its path: what the package imports is not there yet.
    sys.path.append(str(Path(__file__).parents[1] / "src" / "pascaline" / "core"))
    from elf import Needs

OLDEST_GLIBC = (2, 28)
"""That torch's wheels need anyway."""


def platform_tag(libraries: list[Path]) -> str:
    """The wheel's platform: the oldest C library that all `libraries` run on, or just this system.

    Source: PEP 600, the meaning of manylinux_<glibc major>_<minor>_<machine>.
    """
    needs = [Needs.of(library) for library in libraries]
    (machine,) = {each.machine for each in needs}
    versions = [each.glibc for each in needs]
    if None in versions:
        return f"linux_{machine}"
    major, minor = max(OLDEST_GLIBC, *(version for version in versions if version))
    return f"manylinux_{major}_{minor}_{machine}"


class NativeKernels(BuildHookInterface[BuilderConfig]):
    """Adds the libraries and the tag."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "standard":
            return
        # Where wheels are built for another machine, _PYTHON_HOST_PLATFORM names it.
        machine = sysconfig.get_platform().removeprefix("linux-")
        folder = build_native.FOLDER
        problem = None
        if build_native.outdated(folder, machine):
            chosen = build_native.compiler(machine) if machine == platform.machine() else None
            problem = build_native.build(folder, machine, chosen) if chosen else "no C++ compiler"
        outdated = build_native.outdated(folder, machine)
        libraries = [
            folder / each.library.name for each in build_native.sets_for(machine) if each not in outdated
        ]
        if not libraries:
            self.app.display_warning(f"No CPU kernels in this wheel ({problem}): {build_native.LOSS}")
            return
        build_data["artifacts"] += [str(library.relative_to(self.root)) for library in libraries]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag(libraries)}"
