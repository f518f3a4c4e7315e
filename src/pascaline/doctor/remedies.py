"""Commands that mend things, in the words of this machine: its Python, its distribution, its rights."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Literal

from pascaline.doctor.machine import Machine
from pascaline.doctor.packages import Requirement
from pascaline.hardware.nvrtc import WHEEL_OF_CUDA_12, WHEEL_OF_CUDA_13
from pascaline.hardware.torch_builds import CPU_INDEX, TorchChoice

Family = Literal["debian", "fedora", "arch", "nixos", "other"]

_FAMILIES: dict[Family, frozenset[str]] = {
    "debian": frozenset({"debian", "ubuntu", "linuxmint", "pop", "raspbian"}),
    "fedora": frozenset({"fedora", "rhel", "centos", "rocky", "almalinux"}),
    "arch": frozenset({"arch", "manjaro", "endeavouros"}),
    "nixos": frozenset({"nixos"}),
}
_INSTALL: dict[Family, str] = {
    "debian": "apt install",
    "fedora": "dnf install",
    "arch": "pacman -S",
}
# The newest driver, and the last for Maxwell, Pascal and Volta (R580). Sources, on github.com: Fedora (RPM
# Fusion) fady-saied/Nvidia-Fedora-Guide/issues/20; Arch omacom/omarchy/issues/3954; NixOS
# NixOS/nixos-hardware/pull/1843.
_DRIVERS: dict[Family, tuple[str, str]] = {
    "fedora": (
        "dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda",
        "dnf install akmod-nvidia-580xx xorg-x11-drv-nvidia-580xx-cuda",
    ),
    "arch": ("pacman -S nvidia-open-dkms", "yay -S nvidia-580xx-dkms"),
}
_NVRTC_12 = (WHEEL_OF_CUDA_12, "nvidia-cuda-runtime-cu12==12.6.77")
_NVRTC_13 = (WHEEL_OF_CUDA_13, "nvidia-cuda-runtime", "nvidia-cuda-crt")
_NIXOS = "hardware.nvidia.package = config.boot.kernelPackages.nvidiaPackages."


def sudo(machine: Machine, command: str) -> str:
    """With `sudo` where the user is not root."""
    return command if machine.administrator else f"sudo {command}"


def family(machine: Machine) -> Family:
    """The distribution's, by what /etc/os-release says it is or is like."""
    words = distribution(machine)
    ids = {words.get("ID", ""), *words.get("ID_LIKE", "").split()}
    return next((name for name, known in _FAMILIES.items() if ids & known), "other")


def distribution(machine: Machine) -> Mapping[str, str]:
    """The assignments of /etc/os-release."""
    text = machine.text("/etc/os-release") or ""
    return {key: value.strip("\"'") for key, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)}


def system_packages(machine: Machine, *, debian: str, fedora: str = "", arch: str = "") -> str:
    """Install packages of the distribution, which each family names in its own way."""
    names: dict[Family, str] = {"debian": debian, "fedora": fedora, "arch": arch}
    here = family(machine)
    if names.get(here):
        return sudo(machine, f"{_INSTALL[here]} {names[here]}")
    return f"# install with this system's package manager: {debian}"


def driver(machine: Machine, *, legacy: bool) -> str:
    """Install NVIDIA's driver; `legacy`: the last for Maxwell, Pascal and Volta."""
    if machine.is_wsl:
        return (
            "# in Windows, install the driver from https://www.nvidia.com/drivers, then\nwsl.exe --shutdown"
        )
    here = family(machine)
    if here == "nixos":
        setting = f"# in /etc/nixos/configuration.nix: {_NIXOS}{'legacy_580' if legacy else 'stable'};\n"
        return setting + sudo(machine, "nixos-rebuild boot") + reboot(machine)
    if here == "debian":
        return _debian_driver(machine, legacy=legacy)
    if here in _DRIVERS:
        command = _DRIVERS[here][legacy]
        source = "# first add RPM Fusion: https://rpmfusion.org/Configuration\n" if here == "fedora" else ""
        return source + (command if command.startswith("yay") else sudo(machine, command)) + reboot(machine)
    branch = "580" if legacy else "the newest"
    return f"# install {branch} driver from https://www.nvidia.com/en-us/drivers/unix/" + reboot(machine)


def reboot(machine: Machine) -> str:
    """As a line to follow another."""
    return "\n" + sudo(machine, "reboot")


def _debian_driver(machine: Machine, *, legacy: bool) -> str:
    if distribution(machine).get("ID") == "debian":
        # Debian 12 has 535 and Debian 13 has 550: both serve every card from Maxwell to Ada.
        package = "nvidia-driver firmware-misc-nonfree"
        source = "# first add `contrib non-free non-free-firmware` to the lines of /etc/apt/sources.list"
        return f"{source}\n" + sudo(machine, f"apt install {package}") + reboot(machine)
    command = "apt install nvidia-driver-580" if legacy else "ubuntu-drivers install"
    return sudo(machine, command) + reboot(machine)


def pip_install(machine: Machine, *arguments: str) -> str:
    """Install Python packages into the environment that runs Pascaline."""
    words = " ".join(shlex.quote(argument) for argument in arguments)
    executable = shlex.quote(machine.python.executable)
    if machine.package("pip") is None and machine.output("uv", "--version") is not None:
        return f"uv pip install --python {executable} {words}"
    pip = f"{executable} -m pip install {words}"
    return f"{executable} -m ensurepip && {pip}" if machine.package("pip") is None else pip


def install_nvrtc(machine: Machine, *, old: bool) -> str:
    """The run-time compiler and its headers; `old`: for cards that CUDA 13 leaves out."""
    return pip_install(machine, *(_NVRTC_12 if old else _NVRTC_13))


def install_torch(machine: Machine, choice: TorchChoice) -> str:
    """Replace torch by the one that was chosen.

    A CPU build of the wanted version satisfies pip, so it is told to look again; only then, for it fetches
    all of torch's own requirements anew.
    """
    options = ["--index-url", CPU_INDEX] if choice.for_cpu else []
    installed, wanted = machine.package("torch"), Requirement.parse(choice.requirement)
    if installed is not None and wanted is not None and wanted.allows(installed.version):
        options.append("--force-reinstall")
    return pip_install(machine, *options, choice.requirement)
