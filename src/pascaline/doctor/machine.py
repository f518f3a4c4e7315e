"""What checks look at: files, environment, commands, packages and cards of the machine.

Checks ask this object and nothing else, so a recorded machine can stand in for the real one.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pascaline.checkpoint.hub_listing import hub_url
from pascaline.checkpoint.web import NETWORK_ERRORS, Url, open_url, reason
from pascaline.core.control_group import granted_processors
from pascaline.doctor.packages import Package, installed_packages
from pascaline.hardware.probe import Installed, installed_gpus

_MAX_TEXT_BYTES = 1 << 20
QUICK_S = 5.0
"""For a command that only prints its version."""


@dataclass(frozen=True)
class Ran:
    """What a command left behind; `code` is None if it did not end in time."""

    code: int | None
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs Pascaline."""

    executable: str
    version: tuple[int, int, int]
    prefix: str
    bits: int = 64


@dataclass(frozen=True)
class Answer:
    """What a server said: its status, or None and the reason why nothing came."""

    status: int | None
    reason: str


@dataclass(frozen=True)
class Machine:
    """One machine.

    Parameters
    ----------
    root : what "/" is; a recorded machine's files lie below a folder.
    environ : environment variables.
    architecture : "x86_64", "aarch64".
    python, packages : the interpreter, and what is installed for it.
    administrator : no `sudo` is needed.
    run : runs a command; None if there is no such command.
    gpus : asks the driver for its cards.
    ask : asks a server; gives up after so many seconds.
    hub_url : an address below the Hugging Face hub's, with the user's token if there is one.
    free_bytes : room on the disk of a folder, None if it does not tell.
    writable : whether files can be made in a folder, or in the nearest one above that exists.
    granted_processors : what the control group grants, None without a limit.
    """

    root: Path
    environ: Mapping[str, str]
    architecture: str
    python: Interpreter
    packages: tuple[Package, ...]
    administrator: bool
    run: Callable[[Sequence[str], float], Ran | None]
    gpus: Callable[[], Installed]
    ask: Callable[[Url, float], Answer]
    hub_url: Callable[[str], Url]
    free_bytes: Callable[[Path], int | None]
    writable: Callable[[Path], bool]
    granted_processors: Callable[[], float | None]

    def path(self, name: str) -> Path:
        """Where the file of this absolute name lies."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str | None:
        """A small text file without white space at its ends; None if it cannot be read."""
        try:
            with self.path(name).open("rb") as file:
                return file.read(_MAX_TEXT_BYTES).decode(errors="replace").strip()
        except OSError:
            return None

    def names(self, folder: str) -> list[str]:
        """What lies in a folder, sorted; nothing if it cannot be read."""
        try:
            return sorted(path.name for path in self.path(folder).iterdir())
        except OSError:
            return []

    def is_there(self, name: str) -> bool:
        """Whether there is such a file, folder or device."""
        try:
            return self.path(name).exists()
        except OSError:
            return False

    def link(self, name: str) -> str | None:
        """The last part of what a symbolic link points to."""
        try:
            return os.path.basename(os.readlink(self.path(name)))
        except OSError:
            return None

    def output(self, *command: str, timeout_s: float = QUICK_S) -> str | None:
        """What a command prints; None if it is missing, fails or does not end in time."""
        ran = self.run(command, timeout_s)
        return ran.stdout if ran is not None and ran.code == 0 else None

    def package(self, name: str) -> Package | None:
        """The package of this name that Python imports."""
        return next((each for each in self.packages if each.name == name), None)

    def has_kernel_module(self, name: str) -> bool:
        """Whether the module is installed for the kernel that runs, loaded or not."""
        release = self.text("/proc/sys/kernel/osrelease")
        indexed = self.text(f"/lib/modules/{release}/modules.dep") or ""
        return any(
            line.partition(":")[0].rpartition("/")[2].startswith(f"{name}.ko")
            for line in indexed.splitlines()
        )

    @property
    def in_container(self) -> bool:
        """Docker, Podman or Kubernetes."""
        if self.is_there("/.dockerenv") or self.is_there("/run/.containerenv"):
            return True
        return "KUBERNETES_SERVICE_HOST" in self.environ

    @property
    def is_wsl(self) -> bool:
        """Linux inside of Windows, where the driver is Windows' own."""
        return "microsoft" in (self.text("/proc/sys/kernel/osrelease") or "").lower()


def this_machine() -> Machine:
    """The machine that this runs on."""
    major, minor, micro = sys.version_info[:3]
    bits = 64 if sys.maxsize > 1 << 32 else 32
    return Machine(
        root=Path("/"),
        environ=os.environ,
        architecture=platform.machine(),
        python=Interpreter(sys.executable, (major, minor, micro), sys.prefix, bits),
        packages=installed_packages(importlib.metadata.distributions()),
        administrator=os.geteuid() == 0,
        run=_run,
        gpus=functools.cache(installed_gpus),
        ask=_ask,
        hub_url=hub_url,
        free_bytes=_free_bytes,
        writable=_writable,
        granted_processors=granted_processors,
    )


@functools.cache
def _run_once(command: tuple[str, ...], timeout_s: float) -> Ran | None:
    try:
        process = subprocess.Popen(  # noqa: S603 - our own words, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError:
        return None
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        # Not waited for: what hangs in a lost card's driver cannot even be killed, and a child of its own
        # may hold the pipes open.
        return Ran(None, "", f"no answer in {timeout_s:.0f} s")
    except BaseException:
        process.kill()
        raise
    return Ran(process.returncode, stdout, stderr)


def _run(command: Sequence[str], timeout_s: float) -> Ran | None:
    return _run_once(tuple(command), timeout_s)


def _ask(url: Url, timeout_s: float) -> Answer:
    """In a thread, because looking up a name can outlast any socket's patience."""
    answers: list[Answer] = []

    def ask() -> None:
        try:
            with open_url(url, {}, timeout_s) as response:
                answers.append(Answer(response.status, response.reason))
        except urllib.error.HTTPError as error:
            answers.append(Answer(error.code, str(error.reason)))
        except (*NETWORK_ERRORS, ValueError) as error:
            answers.append(Answer(None, reason(error)))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answers[0] if answers else Answer(None, f"no answer in {timeout_s:.0f} s")


def _nearest(folder: Path) -> Path | None:
    return next((each for each in (folder, *folder.parents) if each.exists()), None)


def _free_bytes(folder: Path) -> int | None:
    try:
        nearest = _nearest(folder)
        return None if nearest is None else shutil.disk_usage(nearest).free
    except OSError:
        return None


def _writable(folder: Path) -> bool:
    try:
        nearest = _nearest(folder)
    except OSError:
        return False
    return nearest is not None and nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
