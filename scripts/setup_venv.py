"""Build `.venv` at the repository's root, or bring it up to date, and know when there is nothing to do.

What the environment was made from is written into it as a stamp: `finished` is false while pip works and
becomes true last, so an interrupted set-up is started afresh and never trusted. A `.venv` without a stamp is
somebody else's and is left alone.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import build_native
import setup_lock
import setup_torch
from setup_torch import TorchChoice

STAMP = "setup-stamp.json"
# Everything but torch, with the dev extra: MB (1e6 bytes) to download and on disk, measured July 2026.
REST_DOWNLOAD_MB = 150
REST_DISK_MB = 700
# The default index has one torch for all, which on x86-64 brings CUDA's libraries along.
CUDA_DOWNLOAD_MB = 3_000


@dataclass(frozen=True)
class Stamp:
    """What an environment was made from. `torch_inputs` is all that the choice of `torch` depends on."""

    finished: bool
    root: str
    python: str
    torch: str
    torch_inputs: str
    pyproject: str

    @classmethod
    def read(cls, path: Path) -> Stamp | None:
        """Read a stamp; None if there is none or it is not one of ours."""
        try:
            stamp = cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return stamp

    def write(self, path: Path) -> None:
        """Write the stamp so that it is there whole or not at all."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        partial.replace(path)


def work_needed(stamp: Stamp | None, wanted: Stamp) -> Literal["nothing", "update", "rebuild"]:
    """Compare the stamp found with the one wanted.

    Another torch needs a rebuild, because pip takes a CPU build of the same version for a CUDA one.
    """
    if stamp is None or not stamp.finished:
        return "rebuild"
    if (stamp.root, stamp.python, stamp.torch) != (wanted.root, wanted.python, wanted.torch):
        return "rebuild"
    return "update" if stamp.pyproject != wanted.pyproject else "nothing"


@dataclass(frozen=True)
class Setup:
    """One look at the repository, its environment and what decides about torch."""

    root: Path
    stamp: Stamp | None
    python: str | None  # the version of the environment's own interpreter, None if it does not run
    torch_inputs: str
    pyproject: str

    @classmethod
    def inspect(cls, root: Path | None = None) -> Setup:
        """Look at the repository that this file lies in, or at `root`."""
        root = root or Path(__file__).resolve().parent.parent
        rules = _digest(Path(setup_torch.__file__)) + _digest(setup_torch.RULES)
        return cls(
            root=root,
            stamp=Stamp.read(root / ".venv" / STAMP),
            python=_version_of(root / ".venv" / "bin" / "python"),
            torch_inputs=f"{setup_torch.hardware_fingerprint()}; override {_override()}; rules {rules}",
            pyproject=_digest(root / "pyproject.toml"),
        )

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def stamp_path(self) -> Path:
        return self.venv / STAMP

    def is_ready(self) -> bool:
        """Whether a finished environment of just these inputs stands; takes milliseconds, asks no card."""
        stamp = self.stamp
        return stamp is not None and stamp == self.wanted(stamp.torch)

    def wanted(self, torch: str) -> Stamp:
        """Return the stamp that the environment should carry when its torch is the requirement `torch`."""
        return Stamp(
            finished=True,
            root=str(self.root),
            python=self.python or "",
            torch=torch,
            torch_inputs=self.torch_inputs,
            pyproject=self.pyproject,
        )

    def say_ready(self) -> None:
        """Print the line that a set-up with nothing to do ends with."""
        if self.stamp:
            print(f"setup: .venv is ready (Python {self.stamp.python}, {self.stamp.torch})", flush=True)

    @functools.cached_property
    def torch(self) -> TorchChoice:
        """The torch for this machine; asks the driver, which can take seconds where there are many cards."""
        project = tomllib.loads((self.root / "pyproject.toml").read_text())["project"]
        newest = next(line for line in project["dependencies"] if line.startswith("torch>"))
        return setup_torch.choose_torch(setup_torch.detect_machine(), newest, _override())

    def run(self) -> int:
        """Do what is needed with the Python that runs this; 0, or 1 with the reason on stderr."""
        # As an exception, SIGTERM takes pip along; left behind, it would write into the next set-up.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        with setup_lock.alone(self.root, "another set-up of this folder is at work; waiting for it"):
            again = Setup.inspect(self.root)  # another set-up may have just finished
            if again.is_ready():
                again.say_ready()
                return 0
            return again._run()

    def _run(self) -> int:
        started = time.monotonic()
        choice = self.torch
        work = work_needed(self.stamp, self.wanted(choice.requirement))
        if self.stamp is None and os.path.lexists(self.venv):
            return _fail("the .venv here was not made by this set-up; move it away first: mv .venv .venv.old")
        self._announce(choice, work)
        if work == "rebuild" and not self._make_venv(choice):
            return 1
        if work != "nothing":
            self._write_stamp(choice, finished=False)
            if not self._install(choice):
                return 1
        self._write_stamp(choice, finished=True)
        print(f"setup: finished in {time.monotonic() - started:.0f} s", flush=True)
        return 0

    def _write_stamp(self, choice: TorchChoice, *, finished: bool) -> None:
        python = _version_of(self.venv / "bin" / "python") or ""
        replace(self.wanted(choice.requirement), python=python, finished=finished).write(self.stamp_path)

    def _announce(self, choice: TorchChoice, work: str) -> None:
        what = {
            "nothing": "checking .venv",
            "update": "bringing .venv up to date",
            "rebuild": f"making .venv with Python {sys.version.split()[0]}",
        }[work]
        print(f"setup: {what}\nsetup: {choice.requirement}: {choice.reason}", flush=True)
        for note in choice.notes:
            print(f"setup: note: {note}", flush=True)

    def _make_venv(self, choice: TorchChoice) -> bool:
        self.venv.mkdir(exist_ok=True)
        # The stamp stays while all else goes: interrupted here, the folder is still known to be ours.
        self._write_stamp(choice, finished=False)
        for path in self.venv.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != self.stamp_path:
                path.unlink()
        lacking = self._lacking_space(choice)
        if lacking:
            _fail(lacking)
            return False
        made = subprocess.run([sys.executable, "-m", "venv", str(self.venv)]).returncode == 0
        if not made:
            _fail("Python could not make .venv: its message is above")
        return made

    def _lacking_space(self, choice: TorchChoice) -> str | None:
        needed = (choice.disk_mb or 0) + (choice.download_mb or 0) + REST_DISK_MB + REST_DOWNLOAD_MB
        free = shutil.disk_usage(self.root).free / 1e6
        if free >= needed:
            return None
        return (
            f"the disk of {self.root} has {free / 1e3:.1f} GB free; the environment and its downloads need "
            f"{needed / 1e3:.1f} GB: make room there, then start again"
        )

    def _install(self, choice: TorchChoice) -> bool:
        index: list[str] = []
        download_mb = choice.download_mb
        if choice.for_cpu and setup_torch.cpu_index_has(choice.requirement):
            index = ["--index-url", setup_torch.CPU_INDEX]
        elif choice.for_cpu:
            print(f"setup: {setup_torch.CPU_INDEX} is out of reach: using the default index", flush=True)
            download_mb = CUDA_DOWNLOAD_MB
        if download_mb is not None:
            print(f"setup: {expected(download_mb + REST_DOWNLOAD_MB)}", flush=True)
        if not self._pip_install([*index, *shlex.split(choice.requirement)]):
            return False
        installed = "from importlib.metadata import version; print(version('torch'))"
        version = _output([*self._python(), "-c", installed])
        constraint = self.venv / "torch-constraint.txt"
        constraint.write_text(f"torch=={version}\n")
        if not self._pip_install(["--constraint", str(constraint), "--editable", ".[dev]"]):
            return False
        if _output([*self._python(), "-c", "import torch; print(torch.__version__)"]) is None:
            _fail("torch was installed but does not load: its message is above")
            return False
        self._install_compiler()
        return True

    def _install_compiler(self) -> None:
        """Where the machine has no C++ compiler, bring one for the CPU kernels; who goes without is told."""
        if build_native.system_compiler() or not build_native.sets_for(platform.machine()):
            return
        print(f"setup: no C++ compiler here: fetching {build_native.ZIG}, 0.1 GB", flush=True)
        if not self._run_pip(["--quiet", build_native.ZIG], stderr=subprocess.DEVNULL):
            print("setup: note: that failed; nothing else needs it", flush=True)

    def _pip_install(self, arguments: list[str]) -> bool:
        done = self._run_pip(arguments)
        if not done:
            _fail("pip failed: its message is above; when that is mended, the same command starts afresh")
        return done

    def _run_pip(self, arguments: list[str], stderr: int | None = None) -> bool:
        # pip unpacks in TMPDIR, and /tmp is often a small memory disk. PIP_USER=1 would stop pip in any venv.
        temporary = self.venv / "tmp"
        temporary.mkdir(exist_ok=True)
        ours = {"TMPDIR": str(temporary), "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        # Compiling all modules now costs more than compiling the few that are imported, when they are.
        command = [*self._python(), "-m", "pip", "install", "--no-compile", *arguments]
        status = subprocess.run(command, cwd=self.root, env={**os.environ, **ours}, stderr=stderr).returncode
        shutil.rmtree(temporary, ignore_errors=True)
        return status == 0

    def _python(self) -> list[str]:
        return [str(self.venv / "bin" / "python"), "-I"]


def expected(download_mb: int) -> str:
    """Say how much there is to download and how long it and the installation usually take."""
    download_minutes = download_mb * 8 / 100 / 60
    install_minutes = 1 + download_mb // 1500
    return (
        f"at most {download_mb / 1e3:.1f} GB to download, {max(1, round(download_minutes))} min at "
        f"100 Mbit/s, then about {install_minutes} min to install"
    )


def _override() -> str | None:
    return os.environ.get("PASCALINE_TORCH") or None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _version_of(python: Path) -> str | None:
    code = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
    try:
        # -S leaves out site-packages: a third of the time, and a broken package cannot hide the interpreter.
        return subprocess.run(
            [python, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _output(command: list[str]) -> str | None:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def _fail(message: str) -> int:
    print(f"setup: {message}", file=sys.stderr, flush=True)
    return 1
