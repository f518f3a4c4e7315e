"""A machine made of a recording: files below a folder, what commands printed, drivers and servers said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pascaline.checkpoint.web import Url
from pascaline.core.errors import ConfigError
from pascaline.doctor import kernel_trial, torch_facts
from pascaline.doctor.machine import Answer, Interpreter, Machine, Ran
from pascaline.doctor.packages import Package
from pascaline.hardware.probe import GpuProcess, Installed, InstalledGpu, PcieLink

FIXTURES = Path(__file__).parent / "fixtures"
SITE_PACKAGES = "/home/ada/venv/lib/python3.12/site-packages"
UBUNTU = 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"'
NO_DRIVER = "NVML: NVML Shared Library Not Found; CUDA driver: libcuda.so.1 is not there"


@dataclass(frozen=True)
class Case:
    """A recording, where it is from, and what a check must say of it."""

    check: str
    name: str
    source: str
    machine: Mapping[str, Any]
    status: str
    seen: tuple[str, ...]
    remedy: tuple[str, ...]


def cases() -> list[Case]:
    """All of them, from one file a check."""
    return [
        Case(
            path.stem,
            case["name"],
            case["source"],
            case["machine"],
            case["expect"]["status"],
            tuple(case["expect"]["seen"]),
            tuple(case["expect"]["remedy"]),
        )
        for path in sorted(FIXTURES.glob("*.json"))
        for case in json.loads(path.read_text())
    ]


def machine_of(recording: Mapping[str, Any], root: Path) -> Machine:
    """Lay the files out below `root`; what a recording leaves out is a healthy Ubuntu without a card."""
    files = {"/etc/os-release": UBUNTU} | recording.get("files", {})
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, target in recording.get("links", {}).items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    for name, versions in recording.get("libraries", {}).items():
        _make_library(root / name.lstrip("/"), versions)
    python = Interpreter(
        **{"executable": "/home/ada/venv/bin/python", "version": (3, 12, 3)}
        | {"prefix": "/home/ada/venv"}
        | recording.get("python", {})
    )
    commands = dict(recording.get("commands", {}))
    free = recording.get("free_bytes", {})
    return Machine(
        root=root,
        environ=recording.get("environ", {"HOME": "/home/ada"}),
        architecture=recording.get("architecture", "x86_64"),
        python=Interpreter(python.executable, tuple(python.version), python.prefix, python.bits),
        packages=tuple(_package(text) for text in recording.get("packages", ["pip 25.0", "torch 2.7.1"])),
        administrator=recording.get("administrator", False),
        run=lambda command, timeout_s: _ran(commands, command, python.executable),
        gpus=lambda: _installed(recording.get("installed", {})),
        ask=lambda url, timeout_s: _answer(recording.get("answers", {}), url),
        hub_url=lambda path: _hub_url(recording, path),
        free_bytes=lambda folder: free.get(str(folder), 100 << 30),
        writable=lambda folder: str(folder) not in recording.get("read_only", []),
        granted_processors=lambda: recording.get("granted_processors"),
    )


def _ran(commands: Mapping[str, Any], command: Sequence[str], python: str) -> Ran | None:
    """ "torch" and "kernel" stand for our own processes; a text is printed, an object is JSON or a `Ran`."""
    asked = " ".join(command)
    if asked == f"{python} -P -m pascaline.engine.environment":
        asked = "torch"
    elif asked == f"{python} -P -m pascaline.doctor.kernel_trial":
        asked = "kernel"
    said = commands.get(asked)
    if said is None:
        return None
    if isinstance(said, str):
        return Ran(0, said, "")
    if "code" in said:
        return Ran(said["code"], said.get("stdout", ""), said.get("stderr", ""))
    if asked == "kernel":
        said = {"nvrtc": None, "architectures": [], "headers": True, "compiled_for": [], "ran_on": []} | said
    return Ran(0, json.dumps(said) + "\n", "")


def _installed(said: Mapping[str, Any]) -> Installed:
    gpus = tuple(
        InstalledGpu(
            **{"index": index, "name": "NVIDIA GPU"}
            | {
                key: value
                for key, value in gpu.items()
                if key not in ("pcie", "processes", "throttle_reasons")
            },
            pcie=PcieLink(*gpu.get("pcie", (None, None, None, None))),
            processes=tuple(GpuProcess(*each) for each in gpu.get("processes", ())),
            throttle_reasons=tuple(gpu.get("throttle_reasons", ())),
        )
        for index, gpu in enumerate(said.get("gpus", ()))
    )
    return Installed(
        gpus, said.get("reason", None if gpus else NO_DRIVER), said.get("driver"), said.get("cuda")
    )


def _answer(answers: Mapping[str, Any], url: Url) -> Answer:
    status, reason = answers[url.address]
    assert (url.authorization is not None) == url.address.endswith("whoami-v2")
    return Answer(status, reason)


def _hub_url(recording: Mapping[str, Any], path: str) -> Url:
    endpoint = recording.get("environ", {}).get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if not endpoint.startswith("http"):
        raise ConfigError(f"HF_ENDPOINT is {endpoint!r}", expected="https://… or http://…")
    token = recording.get("hub_token")
    return Url(f"{endpoint}/{path}", f"Bearer {token}" if token else None)


def _package(text: str) -> Package:
    """ "torch 2.7.1 @/folder: numpy>=2; triton==3.3.1"."""
    head, _, requires = text.partition(": ")
    name, version, *folder = head.split(" ")
    return Package(
        name,
        version,
        folder[0].removeprefix("@") if folder else SITE_PACKAGES,
        tuple(filter(None, requires.split(" | "))),
    )


def _make_library(path: Path, versions: Sequence[str]) -> None:
    """A shared library that defines symbol versions, made by the compiler."""
    path.parent.mkdir(parents=True, exist_ok=True)
    script = path.with_name(f"{path.name}.map")
    script.write_text("".join(f"{version} {{ }};\n" for version in versions))
    empty = path.with_name("empty.c")
    empty.write_text("")
    command = ["gcc", "-shared", "-nostdlib", f"-Wl,--version-script={script}", "-o", path, empty]
    subprocess.run(command, check=True)


COMMANDS = {"torch": torch_facts.command, "kernel": kernel_trial.command}
