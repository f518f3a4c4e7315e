"""The driver: whether it answers, and whether its version serves the cards here.

R580 is the last branch for Maxwell, Pascal and Volta: newer ones ignore these cards, and the open kernel
modules of any version do. CUDA 12 needs at least 525. After an update of the driver, the loaded kernel
module and the libraries differ until the next boot. A container sees no card unless it was started with it.
"""

from __future__ import annotations

from collections.abc import Iterator

from pascaline.doctor.cards import (
    NO_CARD,
    PciCard,
    driver_name,
    driver_version,
    kernel_driver_version,
    pci_cards,
)
from pascaline.doctor.check import Check, Finding, fail, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import driver, reboot, sudo, system_packages
from pascaline.hardware.torch_builds import CUDA_13_DRIVER, OLDEST_DRIVER

_LAST_LEGACY = 580
_OF_WSL = "/usr/lib/wsl/lib/libcuda.so.1"
_EXPECTED = (
    f"a driver from {OLDEST_DRIVER} that answers; at most {_LAST_LEGACY} for Maxwell, Pascal and Volta"
)


def _look(machine: Machine) -> Iterator[Finding]:
    on_bus = pci_cards(machine)
    answer = machine.gpus()
    if answer.gpus:
        yield from _versions(machine, on_bus)
        return
    reason = answer.reason or "no reason given"
    bound = any(card.kernel_driver == "nvidia" for card in on_bus)
    if machine.is_wsl and machine.is_there(_OF_WSL):
        remedy = driver(machine, legacy=False)
        yield fail(f"Windows has an NVIDIA driver, which answers for no card ({reason})", _EXPECTED, remedy)
    elif bound or kernel_driver_version(machine) is not None:
        yield _silent(machine, on_bus, reason)
    elif on_bus:
        yield ok("the kernel has no NVIDIA driver loaded: see card", _EXPECTED)
    else:
        yield ok(NO_CARD, _EXPECTED)


def _versions(machine: Machine, on_bus: list[PciCard]) -> Iterator[Finding]:
    version, served = driver_version(machine), len(machine.gpus().gpus)
    seen = f"driver {driver_name(machine)} serves {served} card{'s' if served > 1 else ''}"
    if version and version[0] < OLDEST_DRIVER:
        remedy = driver(machine, legacy=any(card.is_legacy for card in on_bus))
        yield fail(f"{seen}, but is too old for CUDA 12", _EXPECTED, remedy)
        return
    ignored = _ignored(machine, on_bus, version)
    # Fewer may be a container's choice; more than on the bus are slices of one card (MIG).
    if ignored and served < len(on_bus) and not machine.in_container:
        yield warn(f"{seen} and {ignored}", _EXPECTED, driver(machine, legacy=True))
        return
    runs = "CUDA 13" if version and version[0] >= CUDA_13_DRIVER else "CUDA 12"
    yield ok(f"{seen}; it runs {runs}", _EXPECTED)


def _ignored(machine: Machine, on_bus: list[PciCard], version: tuple[int, ...] | None) -> str | None:
    """Why the driver that is loaded leaves old cards out."""
    legacy = [card for card in on_bus if card.is_legacy]
    if not legacy:
        return None
    names = ", ".join(str(card) for card in legacy)
    if version and version[0] > _LAST_LEGACY:
        return f"ignores {names}: {_LAST_LEGACY} is the last branch for Maxwell, Pascal and Volta"
    if "Open Kernel Module" in (kernel_driver_version(machine) or ""):
        return f"ignores {names}: the open kernel modules start at Turing"
    return None


def _silent(machine: Machine, on_bus: list[PciCard], reason: str) -> Finding:
    version = driver_name(machine)
    if "version mismatch" in reason.lower():
        remedy = sudo(machine, "reboot")
        if machine.in_container:
            remedy = "# restart the container, so that it gets the libraries of the driver that is loaded"
        return fail(
            f"kernel module {version} and the driver's libraries differ ({reason})", _EXPECTED, remedy
        )
    if machine.in_container and not machine.is_there("/dev/nvidiactl"):
        elsewhere = "# podman: --device nvidia.com/gpu=all; Kubernetes: nvidia.com/gpu: 1"
        remedy = f"docker run --gpus all IMAGE\n{elsewhere}"
        return fail("this container was started without the card", "/dev/nvidiactl in the container", remedy)
    ignored = _ignored(machine, on_bus, driver_version(machine))
    if ignored:
        return fail(f"driver {version} {ignored}", _EXPECTED, driver(machine, legacy=True))
    if "not found" in reason.lower() or "not there" in reason.lower():
        if machine.in_container:
            remedy = "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility IMAGE"
            return fail(
                f"the driver's libraries are not in this container ({reason})", "libcuda.so.1", remedy
            )
        branch = version.split(".")[0]
        remedy = system_packages(
            machine,
            debian=f"libnvidia-compute-{branch}",
            fedora="xorg-x11-drv-nvidia-cuda",
            arch="nvidia-utils",
        )
        return fail(
            f"kernel module {version} is loaded, its libraries are missing ({reason})", "libcuda.so.1", remedy
        )
    if "permission" in reason.lower():
        remedy = sudo(machine, "usermod -a -G video,render $USER") + "\n# then log in again"
        return fail(f"this user may not open the card ({reason})", _EXPECTED, remedy)
    remedy = sudo(machine, "dmesg | grep -i -e nvrm -e xid") + reboot(machine)
    return fail(f"driver {version} is loaded and answers for no card ({reason})", _EXPECTED, remedy)


CHECK = Check("driver", _look)
