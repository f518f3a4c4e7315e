"""Building from source: cuDNN's headers.

Torch brings cuDNN's libraries as a package, and builds look for cudnn.h in the toolkit and in the system. It
lies in the package: naming its place spares copying it by hand.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pascaline.doctor.check import Check, Finding, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import system_packages
from pascaline.doctor.toolkit import NO_TOOLKIT, toolkit

_EXPECTED = "cudnn.h where builds look for it"
_SYSTEM = (
    "/usr/include",
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/local/include",
)


def _look(machine: Machine) -> Iterator[Finding]:
    nvcc = toolkit(machine)
    if nvcc is None:
        yield ok(NO_TOOLKIT, _EXPECTED)
        return
    named = [machine.environ.get(name) for name in ("CUDNN_INCLUDE_DIR", "CUDNN_INCLUDE_PATH")]
    folders = [*filter(None, named), f"{nvcc.root}/include", *_SYSTEM]
    found = next((folder for folder in folders if machine.is_there(f"{folder}/cudnn.h")), None)
    if found is not None:
        yield ok(f"{found}/cudnn.h", _EXPECTED)
        return
    package = next((each for each in machine.packages if each.name.startswith("nvidia-cudnn-cu")), None)
    if package is not None:
        folder = f"{package.folder.rstrip('/')}/nvidia/cudnn"
        yield _in_package(machine, f"{package.name} {package.version}", folder)
        return
    # Not on the PATH of Debian's users.
    listed = machine.output("ldconfig", "-p") or machine.output("/sbin/ldconfig", "-p") or ""
    if "libcudnn.so" in listed:
        packages = system_packages(
            machine, debian=f"libcudnn9-dev-cuda-{nvcc.version[0]}", fedora="libcudnn9-devel", arch="cudnn"
        )
        seen = "cuDNN's library is installed, its header cudnn.h is not"
        yield warn(seen, _EXPECTED, packages)
        return
    yield ok("cuDNN is not installed", _EXPECTED)


def _in_package(machine: Machine, package: str, folder: str) -> Finding:
    include = f"{folder}/include"
    if not machine.is_there(f"{include}/cudnn.h"):
        return warn(f"{package} has no cudnn.h in {include}", _EXPECTED, f"ls {shlex.quote(folder)}")
    names = [name for name in machine.names(f"{folder}/lib") if name.startswith("libcudnn.so")]
    library = f"{folder}/lib/{names[0] if names else ''}"
    remedy = (
        f"export CUDNN_INCLUDE_DIR={shlex.quote(include)} CUDNN_INCLUDE_PATH={shlex.quote(include)}\n"
        f"export CUDNN_LIBRARY={shlex.quote(library)} CUDNN_LIBRARY_PATH={shlex.quote(library)}"
    )
    return warn(f"cudnn.h lies in {include} ({package}), where no build looks", _EXPECTED, remedy)


CHECK = Check("build_cudnn", _look)
