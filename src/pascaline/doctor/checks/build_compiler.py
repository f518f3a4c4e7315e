"""Building from source: the host compiler against nvcc.

nvcc refuses a g++ that is newer than it knows ("unsupported GNU version"). How new it may be is read from the
toolkit's own header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pascaline.doctor.cards import dotted
from pascaline.doctor.check import Check, Finding, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import system_packages
from pascaline.doctor.toolkit import NO_TOOLKIT, toolkit

_HEADERS = ("include/crt/host_config.h", "targets/x86_64-linux/include/crt/host_config.h")
_EXPECTED = "a g++ that nvcc accepts"


def _look(machine: Machine) -> Iterator[Finding]:
    nvcc = toolkit(machine)
    if nvcc is None:
        yield ok(NO_TOOLKIT, _EXPECTED)
        return
    compiler = machine.environ.get("NVCC_CCBIN") or machine.environ.get("CUDAHOSTCXX") or "g++"
    version = (machine.output(compiler, "-dumpversion") or "").strip()
    if not version.split(".")[0].isdecimal():
        packages = system_packages(machine, debian="g++", fedora="gcc-c++", arch="gcc")
        yield warn(f"{compiler} does not run: nvcc needs it", _EXPECTED, packages)
        return
    major = int(version.split(".")[0])
    headers = (machine.text(f"{nvcc.root}/{name}") for name in _HEADERS)
    newest = re.search(r"__GNUC__ > (\d+)", next(filter(None, headers), ""))
    seen = f"{compiler} {version} with nvcc {dotted(nvcc.version)}"
    if newest is None or major <= int(newest[1]):
        yield ok(seen, _EXPECTED)
        return
    wanted = newest[1]
    install = system_packages(machine, debian=f"g++-{wanted}", fedora=f"gcc{wanted}-c++", arch=f"gcc{wanted}")
    remedy = f"{install}\nexport NVCC_CCBIN=g++-{wanted} CUDAHOSTCXX=g++-{wanted}"
    yield warn(f"{seen}, which accepts none newer than {wanted}", _EXPECTED, remedy)


CHECK = Check("build_compiler", _look)
